"""The program as a process: what it imports, its streams, its environment, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from command_line import listing, parsed

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "models" / "digits_mlp.onnx"


def start(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    program = ["-c", code] if code else ["-m", "onnxgrow.cli"]
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": paths, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["widen", "--help"], ["widen", "--factor", "x"], ["enlarge-kernel", "--help"]],
)
def test_help_imports_no_heavy_library(arguments):
    code = (
        "import sys; from onnxgrow.cli.main import run; run(sys.argv[1:]);"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'rich', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = start(*arguments, code=code)
    assert result.returncode == 0, result.stderr


def test_streams_and_exit_code_of_a_success(folder):
    onnx.save(parsed(), "m.onnx")
    result = start("widen", "m.onnx", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["verdict"] == "equivalent"
    assert "\x1b" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("equivalent: ")


def test_streams_and_exit_code_of_an_error(folder):
    (folder / "m.onnx").write_bytes(parsed().SerializeToString()[:-40])
    before = listing(folder)
    result = start("widen", "m.onnx")
    assert result.returncode == 3
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("BAD-INPUT: m.onnx: ")
    assert listing(folder) == before


def test_terminal_without_utf8_is_no_trouble(folder):
    proto = parsed()
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "größe→"
    onnx.save(proto, "m.onnx")
    result = start("widen", "m.onnx", "--json", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", COLUMNS="30")
    assert result.returncode == 0, result.stderr
    assert result.stderr.isascii()
    assert json.loads(result.stdout)["plan"]["sets"][0]["name"] == "größe→"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_reader_that_went_away_changes_nothing(stream, folder):
    onnx.save(parsed(), "m.onnx")
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onnxgrow.cli", "widen", "m.onnx", "--json"]
    result = subprocess.run(command, env=environment, timeout=120, check=False, **streams)
    os.close(write)
    assert result.returncode == 0
    assert b"Traceback" not in (result.stderr or b"")
    assert (folder / "m.grown.onnx").exists()


def test_same_seed_gives_the_same_bytes_whatever_the_environment(folder, onnxgrow):
    digests = set()
    for out, hash_seed, threads in (("a.onnx", "1", "1"), ("b.onnx", "2", "2")):
        result = start(
            *("widen", str(DIGITS), "-o", out, "--seed", "5", "-q"), PYTHONHASHSEED=hash_seed, OMP_NUM_THREADS=threads
        )
        assert result.returncode == 0, result.stderr
        digests.add(hashlib.sha256(Path(out).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert onnxgrow("widen", DIGITS, "-o", "c.onnx", "--seed", "6").code == 0
    assert hashlib.sha256(Path("c.onnx").read_bytes()).hexdigest() not in digests


def test_a_signal_while_the_program_winds_up_does_not_deny_what_was_done(folder):
    code = (
        "import os, signal, sys\nfrom onnxgrow.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n    sys.exit(end.code)"
    )
    result = start("--version", code=code)
    assert (result.returncode, result.stderr) == (0, "")
