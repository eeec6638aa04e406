"""Memory and time of growing large models, beside ``cp`` of the result and other libraries.

Every way of growing the feed-forward blocks of a model of :mod:`tools.make_big` to twice their width runs in a process
of its own, whose anonymous memory (``RssAnon`` of /proc, sampled) is watched; mapped files do not count, the system
can take them back at any time. All times end when the result is durable (``fsync``), and start when the disk has
nothing left to do. Processor seconds are those of all threads together: on a machine with other work they say more
than the wall clock. Linux only.

    python -m tools.bench_big --gigabytes 1.7 --folder /scratch
    python -m tools.bench_big --gigabytes 1.1 --embedding 1.0 --layer table
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tools.make_big import make_big

__all__ = ["Measured", "main", "measure"]

INTERVAL = 0.01
FACTOR = 2
BLOCKS = "up*"


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        seconds: Wall time.
        processor: Processor time of all its threads, in seconds.
        anonymous: Peak anonymous memory in bytes.
        said: Its output.
        failed: The end of its error output; empty when it ended well.
    """

    seconds: float
    processor: float
    anonymous: int
    said: str
    failed: str


def measure(command: Sequence[str]) -> Measured:
    """Run a command and watch its anonymous memory."""
    os.sync()
    before, started = _processor(), time.perf_counter()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=errors)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - started
        error, output = (_text(file).splitlines() for file in (errors, said))
    failed = (error[-1] if error else "failed") if process.returncode else ""
    return Measured(seconds, _processor() - before, peak, ", ".join(output), failed)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _processor() -> float:
    """Processor seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _anonymous(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


# ---- ways of growing; each runs in a process of its own


class _Stages:
    """Prints what the stages of a process took, from its start."""

    def __init__(self) -> None:
        self._last = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + _started()

    def __call__(self, name: str) -> None:
        now = time.time()
        print(f"{name} {now - self._last:.1f}", flush=True)
        self._last = now


def _started() -> float:
    """When this process was started, in seconds since the system was."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _onnxgrow(source: Path, target: Path, layer: str, tiers: tuple[str, ...] | None) -> None:
    from onnxgrow.io import load, stage
    from onnxgrow.passes import Widen
    from onnxgrow.verify.judge import verify

    done = _Stages()
    done("import")
    loaded = load(source)
    widen = Widen(layer, factor=FACTOR)
    found = widen.plan(loaded.model)
    done("analyse")
    grown = widen.carry_out(*found)
    done("check and digest the original")
    with stage(grown.draft, target, external_data=True, seal=grown.writing()) as staged:
        done("draw, digest, write")
        if tiers != ():
            report = verify(loaded.model, load(staged.path).model, grown_path=staged.path, tiers=tiers, provider="cpu")
            wanted = [t for t in report.tiers if tiers is None or t.name in tiers]
            faults = [f"{t.name}: {t.findings[:1]}" for t in wanted if t.status.value != "passed"]
            if faults:
                raise SystemExit("; ".join(faults))
            done("verify")
        staged.commit()


def _numpy_growth(name: str, values: np.ndarray) -> np.ndarray:
    more = (FACTOR - 1) * (values.shape[0] if name.startswith(("down", "bias")) else values.shape[1])
    if name.startswith("up"):
        new = np.random.default_rng(0).standard_normal((values.shape[0], more), np.float32)
        return np.concatenate([values, new * np.float32((2 / values.shape[0]) ** 0.5)], axis=1)
    return np.concatenate([values, np.zeros((more, *values.shape[1:]), np.float32)])


def _plain_onnx(source: Path, target: Path, layer: str) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("up", "bias", "down")):
            tensor.CopyFrom(
                numpy_helper.from_array(_numpy_growth(tensor.name, numpy_helper.to_array(tensor)), tensor.name)
            )
    _save(model, target)


def _graphsurgeon(source: Path, target: Path, layer: str) -> None:
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(onnx.load(source))
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant) and name.startswith(("up", "bias", "down")):
            tensor.values = _numpy_growth(name, tensor.values)
    _save(gs.export_onnx(graph), target)


def _save(model: Any, target: Path) -> None:
    """Save as these libraries do, and make it durable, which they do not."""
    import onnx

    onnx.save(model, target, save_as_external_data=True, location=target.stem + ".data")
    for path in target.parent.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


WAYS: dict[str, Callable[[Path, Path, str], None]] = {
    "onnxgrow, growth and save": lambda a, b, layer: _onnxgrow(a, b, layer, ()),
    "onnxgrow, with certificate": lambda a, b, layer: _onnxgrow(a, b, layer, ("accounting", "certificate")),
    "onnxgrow, all tiers": lambda a, b, layer: _onnxgrow(a, b, layer, None),
    "plain onnx": _plain_onnx,
    "onnx-graphsurgeon": _graphsurgeon,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.7)
    parser.add_argument("--embedding", type=float, default=0.0)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; everything made there is removed")
    parser.add_argument("--only", action="append", choices=tuple(WAYS), help="may be repeated")
    parser.add_argument("--layer", default=BLOCKS, help="what onnxgrow widens; other libraries widen the blocks only")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        WAYS[given.one[0]](Path(given.one[1]), Path(given.one[2]), given.layer)
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-big-", dir=given.folder))
    try:
        comparable = [way for way in WAYS if given.layer == BLOCKS or way.startswith("onnxgrow")]
        _bench(folder, given.only or comparable, given)
    finally:
        shutil.rmtree(folder)


def _bench(folder: Path, ways: Sequence[str], given: argparse.Namespace) -> None:
    source = folder / "source.onnx"
    blocks = make_big(source, given.gigabytes, embedding=given.embedding, sparse=given.sparse)
    print(f"{blocks} blocks, {given.gigabytes} GB", flush=True)
    for way in ways:
        out = folder / "out"
        out.mkdir()
        one = ["--layer", given.layer, "--one", way, str(source), str(out / "m.onnx")]
        found = measure([sys.executable, "-m", "tools.bench_big", *one])
        size = sum(p.stat().st_size for p in out.iterdir())
        print(f"{way:28} {_row(found)}", end="", flush=True)
        if not found.failed:
            copy = measure(["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(out), str(folder / "copy")])
            shutil.rmtree(folder / "copy")
            ratios = f"{found.seconds / copy.seconds:.2f} x, processor {found.processor / copy.processor:.2f} x"
            print(f"  {ratios} cp of {size / 1e9:.2f} GB ({copy.seconds:.1f} s, {copy.processor:.1f} s)", end="")
        print(f"  {found.failed}\n{'':28} {found.said}" if found.said or found.failed else "", flush=True)
        shutil.rmtree(out)


def _row(found: Measured) -> str:
    return f"{found.anonymous / 1e6:8.0f} MB {found.seconds:8.1f} s {found.processor:8.1f} s of processors"


if __name__ == "__main__":
    main()
