"""Take real networks to PyTorch and back, and print a table.

    python -m tools.zoo_torch [--only GLOB]... [--models DIR]... [--report FILE.json]

The models are those of ``zoo-cache`` or of the folders given, the inputs those of ``tools/zoo_inputs.py`` or in
``NAME.io.npz`` beside the model. Each goes: ONNX → OnnxModule → forward against ONNX Runtime → one optimizer step in
training mode → ``to_onnx`` → ONNX Runtime against the module. The step is the shortest of a few that moves the outputs
by more than the bound; where none does, what came back is not proved, and the model fails. Differences are relative to
the largest entry; the bound is 1e-5 or ten times the noise floor: how far ONNX Runtime is from itself with
optimisations, and the module from itself in float64; never how far the two are from each other. Exit code 1 when a
model with numeric inputs and a trainable weight failed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from onnxgrow.concrete import load_inputs
from onnxgrow.errors import GrowError
from onnxgrow.io import load, save_bytes
from onnxgrow.torch import OnnxModule
from onnxgrow.torch.leaves import find_leaves
from tools.zoo_inputs import ZOO_INPUTS, inputs_for

__all__ = ["Row", "examine", "main"]

HERE = Path(__file__).resolve().parent.parent
LEAST = 1e-5
STEPS = tuple(10.0**k for k in range(-6, 1))
"""Lengths of the step that are tried, in parts of the norm of all parameters."""
SEEN = 1e-3
"""Least movement of the outputs, in parts of their scale: a step that changes nothing proves nothing."""

Arrays = list[Any]


@dataclass
class Row:
    """What was found of one model; ``unmoved`` are parameters without a gradient, with the likely reason."""

    model: str
    trained: int = 0
    weights: int = 0
    forward: float | None = None
    back: float | None = None
    changed: float | None = None
    bound: float = LEAST
    unmoved: list[str] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)
    state: str = "ok"
    note: str = ""


def session_run(model: bytes, feeds: Mapping[str, Any], optimised: bool = False) -> Arrays:
    """Outputs of ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def module_run(module: OnnxModule, feeds: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Outputs of the module; floating-point inputs in the type it was moved to."""
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    given = {k: torch.from_numpy(np.array(v)) for k, v in feeds.items()}
    double = dtype == torch.float64
    result = module(**{k: v.double() if double and v.is_floating_point() else v for k, v in given.items()})
    return result if isinstance(result, tuple) else (result,)


def arrays(outputs: Sequence[torch.Tensor]) -> Arrays:
    """Detached, as NumPy has them."""
    return [y.detach().numpy() for y in outputs]


def gap(wanted: Arrays, given: Arrays) -> float:
    """Largest difference relative to the largest entry; infinite where shapes or finiteness differ."""
    worst = 0.0
    for a, b in zip(wanted, given, strict=True):
        if a.shape != b.shape:
            return float("inf")
        p, q = a.astype(np.float64), b.astype(np.float64)
        if not np.array_equal(np.isfinite(p), np.isfinite(q)):
            return float("inf")
        finite = np.isfinite(p)
        if finite.size and not finite.any():
            return float("inf")  # there is nothing to compare
        scale = float(np.abs(p[finite]).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(p[finite] - q[finite]).max(initial=0.0)) / scale)
    return worst


def noise(module: OnnxModule, reference: Arrays, optimised: Arrays, outputs: Arrays, feeds: Mapping[str, Any]) -> float:
    """How far each side is from itself when it computes in another order, or more exactly."""
    try:
        exact = arrays(module_run(copy.deepcopy(module).double(), feeds))
    except (RuntimeError, GrowError):
        return gap(reference, optimised)  # a graph that mixes types cannot be moved as a whole
    return max(gap(reference, optimised), gap(exact, outputs))


def examine(name: str, path: Path, feeds: Mapping[str, Any]) -> Row:
    """The round trip of one model; never raises."""
    row = Row(name)
    if any(np.asarray(v).dtype.kind not in "fiub" for v in feeds.values()):
        row.state, row.note = "skipped", "its inputs are no numbers"
        return row
    try:
        _examine(row, path, feeds)
    except GrowError as error:
        row.state, row.note = "failed", str(error)
        leaves = find_leaves(load(path).model, (), ()).leaves
        if not any(leaf.kind == "parameter" for leaf in leaves):
            row.state = "skipped"
    except Exception as error:  # a crash is a finding of this tool
        row.state, row.note = "failed", f"crash: {error!r}"
    return row


def _examine(row: Row, path: Path, feeds: Mapping[str, Any]) -> None:
    file = save_bytes(load(path).model)
    reference, optimised = session_run(file, feeds), session_run(file, feeds, optimised=True)
    module = OnnxModule(path)
    row.trained, row.frozen = len(module.coverage.trained), module.coverage.frozen
    row.weights = row.trained + len(row.frozen)
    outputs = arrays(module_run(module, feeds))
    row.forward = gap(reference, outputs)
    floor = noise(module, reference, optimised, outputs, feeds)
    if not row.trained:
        row.state, row.note = "skipped", "no trainable float weight"
        return
    module.train()
    losses = [y.square().mean() + 1e-3 * y.sum() for y in module_run(module, feeds) if y.requires_grad]
    if losses:
        torch.stack([v.double() for v in losses]).sum().backward()
    row.unmoved = [
        f"{k}: {'it is in no path that these inputs take' if p.grad is None else 'its gradient is zero'}"
        for k, p in module.named_onnx_parameters()
        if p.grad is None or not bool(p.grad.any())
    ]
    module.eval()
    row.changed = _step(module, feeds, max(SEEN, 30 * floor))
    written = module.to_onnx().SerializeToString()
    after, outputs = session_run(written, feeds), arrays(module_run(module, feeds))
    row.back = gap(after, outputs)
    floor = max(floor, noise(module, after, session_run(written, feeds, optimised=True), outputs, feeds))
    row.bound = max(LEAST, 10 * floor)
    if not max(row.forward, row.back) <= row.bound:
        row.state, row.note = "failed", "the outputs differ"
    elif not row.bound < row.changed < np.inf:
        row.state, row.note = "failed", "no step moves the outputs by more than the bound, so nothing is proved"


def _step(module: OnnxModule, feeds: Mapping[str, Any], least: float) -> float:
    """One step of SGD, the shortest of :data:`STEPS` that moves the outputs by ``least``, and how far it moved them.

    Statistics that the forward pass in training mode moved count for nothing. 0 where no step does it.
    """
    before = arrays(module_run(module, feeds))
    trained = [p for p in module.parameters() if p.grad is not None]
    start = [p.detach().clone() for p in trained]
    size, slope = (
        float(torch.stack([t.double().norm() for t in ts]).norm()) for ts in (start, [p.grad for p in trained])
    )
    for length in STEPS if slope else ():
        torch.optim.SGD(trained, lr=length * (size or 1.0) / slope).step()
        moved = gap(before, arrays(module_run(module, feeds)))
        if least <= moved < np.inf:
            return moved
        with torch.no_grad():
            for p, value in zip(trained, start, strict=True):
                p.copy_(value)
    return 0.0


def _jobs(options: argparse.Namespace) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    patterns = options.only or ["*"]
    for folder in options.models or [HERE / "zoo-cache"]:
        for path in sorted(Path(folder).glob("*.onnx")):
            if not any(fnmatchcase(path.stem, p) for p in patterns):
                continue
            npz = path.with_suffix(".io.npz")
            if npz.exists():
                yield path.stem, path, load_inputs(npz, load(path).model)
            elif path.stem in ZOO_INPUTS:
                yield path.stem, path, inputs_for(path.stem)
            else:
                print(f"{path.stem}: no inputs known", file=sys.stderr)


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    out = Table(
        "model", "trainable", "forward", "after the step", "bound", "step moved", "no gradient", "state", "note"
    )
    for r in rows:
        figures = ("" if x is None else f"{x:.1e}" for x in (r.forward, r.back, r.bound, r.changed))
        unmoved = str(len(r.unmoved)) if r.unmoved else ""
        out.add_row(r.model, f"{r.trained} of {r.weights}", *figures, unmoved, r.state, r.note[:90])
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Take real networks to PyTorch and back.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models by name")
    parser.add_argument("--models", action="append", metavar="DIR", help="a folder of models, instead of zoo-cache")
    parser.add_argument("--report", help="write all figures as JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name, path, feeds in _jobs(options):
        rows.append(examine(name, path, feeds))
        print(f"{name}: {rows[-1].state} {rows[-1].note}", file=sys.stderr, flush=True)
    Console(width=200).print(table(rows))
    failed, counted = [r.model for r in rows if r.state == "failed"], [r for r in rows if r.state != "skipped"]
    print(f"{len(counted) - len(failed)} of {len(counted)} models with numeric inputs and a trainable weight pass")
    if options.report:
        Path(options.report).write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 1 if failed or not counted else 0


if __name__ == "__main__":
    sys.exit(main())
