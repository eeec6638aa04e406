"""Kill writers at random moments and see what is left: always a whole model, and nothing stale after the next run.

A writer saves one of two models over the other again and again, with external data. It is killed (SIGKILL) after a
random time; every second time not before its files are growing, so that half of the blows fall while it writes. Then
many writers save over each other at once, and one saves to a disk that is full sooner or later, or read-only (a tmpfs,
where this may mount one).

    python -m tools.torture_save --kills 500 --writers 16 --rounds 20
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxgrow.errors import EnvironmentFault, GrowError
from onnxgrow.io import load, model_digest, save

__all__ = ["crowd", "full_disk", "main", "make_sources", "mounted", "torture"]

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
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(chance.random() * 0.2)
        deadline = time.monotonic() + 5
        while aimed and not any(p.is_dir() for p in target.parent.iterdir()) and time.monotonic() < deadline:
            pass
        writer.kill()


def crowd(folder: Path, writers: int, rounds: int, megabytes: float = 1.0) -> Counter[str]:
    """Let writers save over each other, ``rounds`` times each, while the output is read again and again.

    Returns:
        How often a whole model was read meanwhile (``whole``) or one of mixed parts (``mixed``), how often a reader was
        overtaken between the two files, which it notices (``overtaken``), writers that ``failed``, and afterwards
        whether the output is ``lost`` and how many files are ``stale``.
    """
    sources = make_sources(folder, megabytes)
    known = {model_digest(load(source)) for source in sources}
    out = folder / "out"
    out.mkdir()
    target = out / "m.onnx"
    program = WRITER.replace("while True:", f"for _ in range({(rounds + 1) // 2}):")
    command = [sys.executable, "-c", program, str(target)]
    # Every second writer begins with the other model.
    orders = [sources[:: 1 if i % 2 else -1] for i in range(writers)]
    running = [
        subprocess.Popen([*command, *map(str, o)], stdout=subprocess.DEVNULL, env=_environment()) for o in orders
    ]
    seen: Counter[str] = Counter(whole=0, mixed=0, overtaken=0, failed=0, lost=0, stale=0)
    while any(writer.poll() is None for writer in running):
        try:
            seen["whole" if model_digest(load(target)) in known else "mixed"] += 1
        except GrowError:
            seen["overtaken"] += 1
            time.sleep(0.01)
    seen["failed"] = sum(writer.returncode != 0 for writer in running)
    try:
        seen["lost"] = int(model_digest(load(target)) not in known)
    except GrowError:
        seen["lost"] = 1
    seen["stale"] = len(list(out.iterdir())) - 2
    return seen


def full_disk(disk: Path, sources: list[Path], steps: int = 12) -> Counter[str]:
    """Save over a model on a disk with more and more room, from none to more than enough.

    Args:
        disk: An empty folder on a small file system of its own.
        sources: Two models; the disk holds two, and not three.

    Returns:
        How often the save was ``refused`` and ``written``; how often a refused one changed the old output
        (``harmed``), a written one is not what it should be (``mixed``); how many temporaries were left (``stale``).
    """
    seen: Counter[str] = Counter(refused=0, written=0, harmed=0, mixed=0, stale=0)
    target = save(load(sources[0]).model, disk / "m.onnx", external_data=True)
    filler = disk / "filler"
    old, new = (model_digest(load(source)) for source in sources)
    model = load(sources[1]).model
    room = shutil.disk_usage(disk).free
    for step in range(steps + 1):
        gc.collect()  # models that were read map files that are gone, and hold their room
        filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room * step // steps)))
        try:
            save(model, target, external_data=True, overwrite=True)
        except EnvironmentFault:
            seen["refused"] += 1
            seen["harmed"] += model_digest(load(target)) != old
        else:
            seen["written"] += 1
            seen["mixed"] += model_digest(load(target)) != new
        seen["stale"] += len(list(disk.iterdir())) - 3
        filler.unlink()
        save(load(sources[0]).model, target, external_data=True, overwrite=True)
    return seen


def read_only(disk: Path, sources: list[Path]) -> Counter[str]:
    """Save over a model in a file system that is read-only by now; see :func:`full_disk`."""
    seen: Counter[str] = Counter(refused=0, written=0, harmed=0, stale=0)
    target = save(load(sources[0]).model, disk / "m.onnx", external_data=True)
    before = sorted(p.name for p in disk.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        save(load(sources[1]).model, target, external_data=True, overwrite=True)
        seen["written"] += 1
    except EnvironmentFault:
        seen["refused"] += 1
    seen["harmed"] += model_digest(load(target)) != model_digest(load(sources[0]))
    seen["stale"] += sorted(p.name for p in disk.iterdir()) != before
    return seen


@contextmanager
def mounted(folder: Path, megabytes: float) -> Iterator[Path | None]:
    """A small tmpfs at ``folder``; None where this process may not mount one."""
    folder.mkdir()
    options = f"size={int(megabytes * 1024)}k"
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        possible = done.returncode == 0
    except OSError:
        possible = False
    try:
        yield folder if possible else None
    finally:
        if possible:
            # Lazily: models that were read may still map files there.
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def main() -> int:
    """Command line; 0 when nothing was lost, harmed, mixed or stale, and no writer failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20, help="saves of each writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=4.0)
    given = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("kills", "crowd", "disk"):
            (folder / part).mkdir()
        bad += _tell("killed", torture(folder / "kills", given.kills, given.seed, given.megabytes))
        bad += _tell("crowd", crowd(folder / "crowd", given.writers, given.rounds))
        sources = make_sources(folder / "disk", given.megabytes)
        for what, megabytes in ((full_disk, 2.5 * given.megabytes), (read_only, 4 * given.megabytes)):
            with mounted(folder / what.__name__, megabytes) as disk:
                if disk is None:
                    print(f"{what.__name__}: not run, this process may not mount a file system")
                else:
                    bad += _tell(what.__name__, what(disk, sources))
    return int(bool(bad))


def _tell(what: str, seen: Counter[str]) -> int:
    print(f"{what}: " + ", ".join(f"{count} {name}" for name, count in seen.items()), flush=True)
    return sum(seen[name] for name in ("mixed", "lost", "stale", "harmed", "failed"))


if __name__ == "__main__":
    raise SystemExit(main())
