"""Tools for large models, on small ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxgrow.io import load
from tools.make_big import make_big

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


@pytest.mark.parametrize("embedding", [0.0, 0.001])
def test_big_models_are_valid_and_run(tmp_path: Path, embedding: float) -> None:
    path = tmp_path / "m.onnx"
    assert make_big(path, 0.003, width=64, embedding=embedding) > 5
    onnx.checker.check_model(str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.arange(3) if embedding else np.ones((3, 64), np.float32)
    [y] = session.run(None, {"x": x})
    assert np.isfinite(y).all()
    assert y.any()


@linux
def test_sparse_models_take_little_room(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    make_big(path, 0.05, width=512, sparse=True)
    status = path.with_suffix(".data").stat()
    assert status.st_size > 40e6
    assert status.st_blocks * 512 < 10e6
    assert len(load(path).model.graph.initializers) > 3


@linux
def test_the_benchmark_sees_the_memory_a_process_takes() -> None:
    from tools.bench_big import measure

    code = "import time; x = bytearray(b'1') * 200_000_000; time.sleep(0.3)"
    large, small = (
        measure([sys.executable, "-c", code]),
        measure([sys.executable, "-c", "import time; time.sleep(0.3)"]),
    )
    assert large.anonymous > 190e6 > 50e6 > small.anonymous
    assert measure([sys.executable, "-c", "raise SystemExit('no')"]).failed == "no"


@linux
def test_the_benchmark_counts_the_time_of_all_processors_and_passes_on_what_was_said() -> None:
    from tools.bench_big import measure

    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint('one 1.0', flush=True)\nprint('two 2.0')"
    found, idle = measure([sys.executable, "-c", busy]), measure([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert found.said == "one 1.0, two 2.0"
    assert found.processor > 0.5 > idle.processor
    assert min(found.seconds, idle.seconds) > 0.5


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    from tools.torture_save import torture

    seen = torture(tmp_path, kills=4, megabytes=1.0)
    assert (seen["whole"], seen["mixed"], seen["lost"], seen["stale"]) == (4, 0, 0, 0)
    assert seen["writing"], "no blow fell while a writer was writing"


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_the_torture_notices_a_writer_that_is_not_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import torture_save

    careless = "import sys, time\nprint('ready', flush=True)\nopen(sys.argv[1], 'wb').close()\ntime.sleep(60)"
    monkeypatch.setattr(torture_save, "WRITER", careless)
    monkeypatch.setattr(torture_save.time, "monotonic", iter(range(0, 10**6, 10)).__next__)
    monkeypatch.setattr(torture_save.time, "sleep", lambda _: subprocess.run(["sleep", "0.5"], check=True))
    assert torture_save.torture(tmp_path, kills=1, megabytes=0.1)["lost"] == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_writers_in_a_crowd_leave_a_whole_model(tmp_path: Path) -> None:
    from tools.torture_save import crowd

    seen = crowd(tmp_path, writers=4, rounds=4, megabytes=0.2)
    assert seen["whole"]
    assert all(seen[bad] == 0 for bad in ("mixed", "failed", "lost", "stale")), seen


@linux
def test_a_full_and_a_read_only_disk_leave_the_old_model(tmp_path: Path) -> None:
    from tools.torture_save import full_disk, make_sources, mounted, read_only

    sources = make_sources(tmp_path, megabytes=0.5)
    with mounted(tmp_path / "full", 1.25) as disk:
        if disk is None:
            pytest.skip("this process may not mount a file system")
        seen = full_disk(disk, sources, steps=5)
    assert seen["refused"] >= 2
    assert seen["written"] >= 1
    assert all(seen[bad] == 0 for bad in ("harmed", "mixed", "stale")), seen
    with mounted(tmp_path / "read-only", 4) as disk:
        assert disk is not None
        seen = read_only(disk, sources)
    assert seen == {"refused": 1, "written": 0, "harmed": 0, "stale": 0}


@linux
def test_the_file_trace_knows_offences() -> None:
    from tools.trace_files import offences

    home = Path("/models")
    calls = {
        'openat(AT_FDCWD, "m.onnx", O_RDONLY) = 3': False,
        'openat(AT_FDCWD, "/models/sub/w", O_RDONLY) = 3': False,
        'openat(AT_FDCWD, "/usr/lib/x.so", O_RDONLY) = 3': False,
        'openat(AT_FDCWD, "../secret", O_RDONLY) = 3': True,
        'openat(AT_FDCWD, "/models/../secret", O_RDONLY) = 3': True,
        'renameat(AT_FDCWD, "/models/a", AT_FDCWD, "/secret") = 0': True,
        'unlink("/secret") = 0': True,
        'stat("/secret", 0x0) = 0': False,
        "socket(AF_INET, SOCK_STREAM, IPPROTO_TCP) = 3": True,
        "socket(AF_UNIX, SOCK_STREAM, 0) = 3": False,
        "connect(3, {sa_family=AF_INET6, sin6_port=htons(443)}, 28) = 0": True,
    }
    for call, wrong in calls.items():
        assert bool(offences([f"17 {call}"], home, {"/usr/lib"})) == wrong, call
