"""Take real networks to PyTorch and back, and print a table.

    python -m tools.zoo_torch [--only GLOB]... [--models DIR]... [--report FILE.json]

The models are those of ``zoo-cache`` or of the folders given, the inputs those of ``tools/zoo_inputs.py`` or in
``NAME.io.npz`` beside the model. Each goes: ONNX → OnnxModule → forward against ONNX Runtime → one optimizer step →
``to_onnx`` → ONNX Runtime against the module. Differences are relative to the largest entry; the bound is 1e-5 or ten
times the noise floor: how far ONNX Runtime is from itself with optimisations, and the module from itself in float64;
never how far the two are from each other, and never more than a tenth.

The gradient is taken in training mode. The step is the first of a few, from short to long, that moves the outputs by
ten times what they then differ by; where none does, nothing is proved, and the model fails. Each parameter has to be in
the file that was written, bit for bit. Where ONNX Runtime has no kernels for a file, onnx's own evaluator takes its
place, and the note says so; a file that is no valid model either is skipped. Exit code 1 when a model with numeric
inputs and a trainable weight failed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
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
MOST = 0.1
"""The bound is never more, whatever the noise."""
STEPS = tuple(10.0**k for k in range(-6, 1))
"""Lengths of the step that are tried, in parts of the norm of what it moves."""
SEEN = 1e-3
"""Least movement of the outputs, in parts of their scale: a step that changes nothing proves nothing."""
LOST = 0.1
"""Least difference, in parts of that movement, at which something of the step may have got lost."""

Arrays = list[Any]
Run = Callable[..., Arrays]
"""Computes the outputs of a file: its bytes, inputs by name, and whether with optimisations."""


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


def reference_run(model: bytes, feeds: Mapping[str, Any], optimised: bool = False) -> Arrays:
    """Outputs of onnx's own evaluator, which has no optimisations: where ONNX Runtime has no kernels (bfloat16)."""
    return [np.asarray(y) for y in ReferenceEvaluator(onnx.load_from_string(model)).run(None, dict(feeds))]


class InvalidModelError(Exception):
    """Neither ONNX Runtime nor onnx's checker take a file."""


def runner(model: bytes, feeds: Mapping[str, Any]) -> Run:
    """What computes a file: ONNX Runtime, or onnx's evaluator where ONNX Runtime refuses a valid one."""
    try:
        session_run(model, feeds)
    except (ort_errors.NotImplemented, ort_errors.InvalidGraph):
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise InvalidModelError(f"it is no valid model: {error}") from error
        return reference_run
    return session_run


def examine(name: str, path: Path, feeds: Mapping[str, Any]) -> Row:
    """The round trip of one model; never raises."""
    row = Row(name)
    if any(np.asarray(v).dtype.kind not in "fiub" for v in feeds.values()):
        row.state, row.note = "skipped", "its inputs are no numbers"
        return row
    try:
        _examine(row, path, feeds)
    except InvalidModelError as error:
        row.state, row.note = "skipped", str(error)
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
    run = runner(file, feeds)
    if run is reference_run:
        row.note = "ONNX Runtime has no kernels for it: against onnx's evaluator"
    reference, optimised = run(file, feeds), run(file, feeds, optimised=True)
    module = OnnxModule(path)
    row.trained, row.frozen = len(module.coverage.trained), module.coverage.frozen
    row.weights = row.trained + len(row.frozen)
    outputs = arrays(module_run(module, feeds))
    row.forward = gap(reference, outputs)
    floor = noise(module, reference, optimised, outputs, feeds)
    row.bound = _bound(floor)
    if not row.trained:
        row.state, row.note = "skipped", "no trainable float weight"
        return
    row.state, verdict = "failed", "no step moves the outputs by more than could get lost, so nothing is proved"
    for changed in _moves(row, module, feeds):
        if not SEEN <= changed < np.inf:
            continue
        written = module.to_onnx().SerializeToString()
        after, outputs = run(written, feeds), arrays(module_run(module, feeds))
        row.back, row.changed = gap(after, outputs), changed
        floor = max(floor, noise(module, after, run(written, feeds, optimised=True), outputs, feeds))
        row.bound = _bound(floor)
        missing = lost(module, written)
        if missing:
            verdict = f"{len(missing)} parameters are not in the file as they were trained: {missing[0]}"
            break
        if not max(row.forward, row.back) <= row.bound:
            verdict = f"the outputs differ (noise floor {floor:.1e})"
            break
        if row.back <= LOST * changed:
            row.state, verdict = "ok", row.note
            break
    row.note = verdict


def _bound(floor: float) -> float:
    """The most that two outputs may differ by; a floor that is no number allows nothing."""
    return min(MOST, max(LEAST, 10 * floor)) if np.isfinite(floor) else 0.0


def lost(module: OnnxModule, written: bytes) -> list[str]:
    """Parameters that are not, bit for bit, in the file that was written.

    Uses of one initializer that were taken apart, and became the same, are one parameter there.
    """
    found = dict(OnnxModule(onnx.load_from_string(written)).named_onnx_parameters())
    missing = []
    for name, parameter in module.named_onnx_parameters():
        places = [found[name]] if name in found else found.values()
        if not any(torch.equal(place, parameter) for place in places):
            missing.append(name)
    return missing


def _squares(y: torch.Tensor) -> torch.Tensor:
    return y.square().mean() + 1e-3 * y.sum()


def _projection(y: torch.Tensor) -> torch.Tensor:
    return (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).double()).mean()


LOSSES = (_squares, _projection)
"""The second one for outputs such as a uniform Softmax, whose sum never changes and whose squares are least there."""


def _gradients(module: OnnxModule, feeds: Mapping[str, Any], loss: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    """Leave a gradient in the parameters; says which have none, and why."""
    module.zero_grad()
    module.train()
    losses = [loss(y[torch.isfinite(y)].double()) for y in module_run(module, feeds) if y.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
    module.eval()
    reasons = {}
    for name, p in module.named_onnx_parameters():
        if p.grad is None:
            reasons[name] = "it is in no path that these inputs take"
        elif not bool(torch.isfinite(p.grad).all()):
            reasons[name], p.grad = "its gradient is no finite number", None
        elif not bool(p.grad.any()):
            reasons[name], p.grad = "its gradient is zero", None
    return [f"{name}: {reason}" for name, reason in reasons.items()]


def _steps(module: OnnxModule, feeds: Mapping[str, Any]) -> Iterator[float]:
    """Single steps of SGD, each taken in the place of the one before: how far each moves the outputs.

    First every parameter moves by the same part of its norm, then all of them at one rate; each time the steps become
    longer. After the last one all are back. Statistics that the forward pass in training mode moved count for nothing.
    """
    before = arrays(module_run(module, feeds))
    trained = [(p, p.grad, p.detach().clone()) for p in module.parameters() if p.grad is not None]
    norms = torch.tensor([float(start.double().norm()) or start.numel() ** 0.5 for _, _, start in trained])
    slopes = torch.tensor([float(slope.double().norm()) for _, slope, _ in trained], dtype=torch.float64)
    for rates in (norms / slopes, (norms.norm() / slopes.norm()).expand_as(slopes)):
        for length in STEPS if trained else ():
            groups = [{"params": [p], "lr": length * float(r)} for (p, _, _), r in zip(trained, rates, strict=True)]
            torch.optim.SGD(groups).step()
            yield gap(before, arrays(module_run(module, feeds)))
            with torch.no_grad():
                for p, _, start in trained:
                    p.copy_(start)


def _moves(row: Row, module: OnnxModule, feeds: Mapping[str, Any]) -> Iterator[float]:
    """The steps of all losses; the parameters without a gradient go into the row."""
    for loss in LOSSES:
        row.unmoved = _gradients(module, feeds, loss)
        yield from _steps(module, feeds)


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
    for r in rows:
        if r.state != "ok":
            print(f"{r.state}: {r.model}: {r.note}")
    print(f"{len(counted) - len(failed)} of {len(counted)} models with numeric inputs and a trainable weight pass")
    if options.report:
        Path(options.report).write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 1 if failed or not counted else 0


if __name__ == "__main__":
    sys.exit(main())
