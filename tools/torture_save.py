"""Kill writers at random moments and see what is left: always a whole model, and nothing stale after the next run.

A writer saves one of two models over the other again and again, with external data. It is killed (SIGKILL) after a
random time; every second time not before its files are growing, so that half of the blows fall while it writes.

    python -m tools.torture_save --kills 500
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxgrow.errors import GrowError
from onnxgrow.io import load, model_digest, save

__all__ = ["main", "make_sources", "torture"]

WRITER = """
import sys
from onnxgrow.io import load, save

target, *sources = sys.argv[1:]
models = [load(source).model for source in sources]
print("ready", flush=True)
while True:
    for model in models:
        save(model, target, external_data=True, overwrite=True)
"""


def make_sources(folder: Path, megabytes: float = 4.0) -> list[Path]:
    """Two models that differ in every weight."""
    paths = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        weights = [ir.tensor(rng.standard_normal(int(megabytes * 65536)).astype(np.float32)) for _ in range(4)]
        values = [ir.Value(name=f"w{i}", const_value=w) for i, w in enumerate(weights)]
        node = ir.Node("", "Concat", values, [ir.AttrInt64("axis", 0)], num_outputs=1)
        node.outputs[0].name = "y"
        graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 17}, name="torture")
        inner = folder / f"source{seed}"
        inner.mkdir()
        paths.append(save(ir.Model(graph, ir_version=8), inner / "m.onnx", external_data=True))
    return paths


def torture(folder: Path, kills: int, seed: int = 0, megabytes: float = 4.0) -> Counter[str]:
    """Kill ``kills`` writers.

    Returns:
        How often the output was the first or the second model (``whole``), neither of them (``mixed``), missing or
        unreadable (``lost``), how many temporaries were left after the next run (``stale``), and how many writers died
        while their temporaries existed (``writing``).
    """
    chance = random.Random(seed)
    sources = make_sources(folder, megabytes)
    known = {model_digest(load(source)) for source in sources}
    out = folder / "out"
    out.mkdir()
    target = save(load(sources[0]).model, out / "m.onnx", external_data=True)
    seen: Counter[str] = Counter(whole=0, mixed=0, lost=0, stale=0, writing=0)
    for kill in range(kills):
        _kill_one(target, sources, chance, aimed=kill % 2 == 1)
        seen["writing"] += any(p.is_dir() for p in out.iterdir())
        try:
            seen["whole" if model_digest(load(target)) in known else "mixed"] += 1
        except GrowError:
            seen["lost"] += 1
        save(load(sources[kill % 2]).model, target, external_data=True, overwrite=True)
        seen["stale"] += sum(p.is_dir() for p in out.iterdir())
    return seen


def _kill_one(target: Path, sources: list[Path], chance: random.Random, aimed: bool) -> None:
    command = [sys.executable, "-c", WRITER, str(target), *map(str, sources)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(chance.random() * 0.2)
        deadline = time.monotonic() + 5
        while aimed and not any(p.is_dir() for p in target.parent.iterdir()) and time.monotonic() < deadline:
            pass
        writer.kill()


def main() -> int:
    """Command line; 0 when nothing was lost, mixed or stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=4.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = torture(Path(folder), given.kills, given.seed, given.megabytes)
    print(", ".join(f"{count} {what}" for what, count in seen.items()))
    return int(bool(seen["mixed"] or seen["lost"] or seen["stale"]))


if __name__ == "__main__":
    raise SystemExit(main())
