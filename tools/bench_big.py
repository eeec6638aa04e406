"""Memory and time of growing large models, beside ``cp`` of the result and other libraries.

Every way of growing the feed-forward blocks of a model of :mod:`tools.make_big` to twice their width runs in a process
of its own, whose anonymous memory (``RssAnon`` of /proc, sampled) is watched; mapped files do not count, the system
can take them back at any time. Linux only.

    python -m tools.bench_big --gigabytes 1.7 --folder /scratch
    python -m tools.bench_big --gigabytes 1.1 --embedding 1.0 --layer table
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tools.make_big import make_big

__all__ = ["Measured", "main", "measure"]

INTERVAL = 0.01
FACTOR = 2
BLOCKS = "up*"


class Measured:
    """What one process took.

    Attributes:
        seconds: Wall time.
        anonymous: Peak anonymous memory in bytes.
        failed: The end of its error output; empty when it ended well.
    """

    def __init__(self, seconds: float, anonymous: int, failed: str) -> None:
        self.seconds, self.anonymous, self.failed = seconds, anonymous, failed


def measure(command: Sequence[str]) -> Measured:
    """Run a command and watch its anonymous memory."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - started
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip().splitlines()
    return Measured(seconds, peak, (text[-1] if text else "failed") if process.returncode else "")


def _anonymous(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


# ---- ways of growing; each runs in a process of its own


def _onnxgrow(source: Path, target: Path, layer: str, tiers: tuple[str, ...] | None) -> None:
    from onnxgrow.io import load, stage
    from onnxgrow.passes import Widen
    from onnxgrow.verify.judge import verify

    loaded = load(source)
    grown = Widen(layer, factor=FACTOR).grow(loaded.model)
    with stage(grown.draft, target, external_data=True, seal=grown.writing()) as staged:
        if tiers != ():
            report = verify(loaded.model, load(staged.path).model, grown_path=staged.path, tiers=tiers, provider="cpu")
            wanted = [t for t in report.tiers if tiers is None or t.name in tiers]
            faults = [f"{t.name}: {t.findings[:1]}" for t in wanted if t.status.value != "passed"]
            if faults:
                raise SystemExit("; ".join(faults))
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
    onnx.save(model, target, save_as_external_data=True, location=target.stem + ".data")


def _graphsurgeon(source: Path, target: Path, layer: str) -> None:
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(onnx.load(source))
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Constant) and name.startswith(("up", "bias", "down")):
            tensor.values = _numpy_growth(name, tensor.values)
    onnx.save(gs.export_onnx(graph), target, save_as_external_data=True, location=target.stem + ".data")


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
        copied = _copying(out, folder / "copy") if size else 0.0
        shutil.rmtree(out)
        ratio = f"{found.seconds / copied:5.2f} x cp of {size / 1e9:.2f} GB ({copied:.1f} s)" if copied else ""
        print(f"{way:28} {found.anonymous / 1e6:8.0f} MB {found.seconds:8.1f} s  {ratio}  {found.failed}", flush=True)


def _copying(source: Path, target: Path) -> float:
    """Seconds that ``cp`` and making its result durable take."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", *map(str, target.iterdir())], check=True)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


if __name__ == "__main__":
    main()
