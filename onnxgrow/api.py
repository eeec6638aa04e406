"""The library in functions: load, inspect, grow, verify, save."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from onnxgrow.analysis import Analysis
from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import BadInputError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import Loaded, WriteProgress, give_back, load, stage
from onnxgrow.options import (
    Form,
    InexactOptions,
    Inputs,
    Options,
    Shapes,
    feeds_of,
    proof_of,
    spelled_out,
    storage_of,
)
from onnxgrow.passes.base import GrowthPass, GrowthResult, Progress, Proof
from onnxgrow.passes.enlarge_kernel import EnlargeKernel
from onnxgrow.passes.widen import Widen
from onnxgrow.plan import WidenPlan
from onnxgrow.verify.report import Report

__all__ = [
    "Inspection",
    "apply",
    "enlarge_kernel",
    "grow",
    "inspect",
    "plan",
    "verify",
    "widen",
]

INTERVAL = 12.0
"""Seconds between two words about the progress of writing; longer than a log waits before it shows a step."""


@dataclass(frozen=True)
class Inspection:
    """What can grow in a model.

    Attributes:
        analysis: Channel sets, with their writers, readers, cost and, where they cannot grow, the reasons.
        input_shapes: The shapes it was analysed with.
        provider: ``cpu`` or ``cuda``: where a verification with the same options would run.
    """

    analysis: Analysis
    input_shapes: Mapping[str, tuple[int, ...]]
    provider: str

    def to_json(self) -> dict[str, Any]:
        """Plain data: totals, notes, ``sets`` (name, size, growable, residual, writers, readers, costs, reasons)."""
        plain = {s.atom for s in self.analysis.growable if not s.residual}
        every = {s.atom for s in self.analysis.growable}
        parts = self.analysis.parts
        weights = [(part, w) for part in parts for w in {w.use: w for w in part.weights}.values()]
        growable, with_residual = (
            sum(
                any(leaf in atoms for _, t in part.channel_axes(w) for leaf in part.dims.forest.leaves(t))
                for part, w in weights
            )
            for atoms in (plain, every)
        )
        return {
            "input_shapes": {k: list(v) for k, v in self.input_shapes.items()},
            "provider": self.provider,
            "parameters": sum(part.cost.total_parameters({}) for part in parts),
            "flops": sum(part.cost.total_flops({}) for part in parts),
            "linear_weights": len(weights),
            "growable_weights": growable,
            "growable_weights_with_residual": with_residual,
            "sets": [
                {
                    "name": s.name,
                    "size": s.size,
                    "growable": s.growable,
                    "residual": [way.mode for way in s.ways],
                    "writers": list(dict.fromkeys(w.root for w in s.writers)),
                    "readers": list(dict.fromkeys(w.root for w in s.readers)),
                    "parameters_per_channel": s.parameters,
                    "flops_per_channel": s.flops,
                    "reasons": [str(r) for r in s.reasons],
                }
                for s in self.analysis.sets
            ],
            "notes": list(self.analysis.notes),
        }


def inspect(
    model: object,
    *,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
) -> Inspection:
    """Find the channel sets of a model.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``.
        inputs: Valid inputs by name, or an npz file of them, where made-up ones would not do.
        input_shapes: Input name → dimensions.
        provider: ``auto``, ``cpu`` or ``cuda``: which one a verification would use; the analysis runs on the CPU.

    Raises:
        GrowError: The model cannot be read, ONNX Runtime cannot run it, or the provider is not usable.
    """
    from onnxgrow.verify.sessions import resolve_provider

    used = resolve_provider(provider)
    loaded = load(model)
    found = study(loaded.model, input_shapes=input_shapes, inputs=feeds_of(inputs, loaded), inline=None)
    return Inspection(found.analysis, found.analysis.network.concrete.input_shapes, used)


@spelled_out(InexactOptions)
def widen(
    model: object,
    layers: Sequence[str] | str | None = None,
    *,
    factor: float | None = None,
    add: int | None = None,
    to: int | None = None,
    multiple_of: int = 1,
    method: str = "zero-fan-out",
    scale: float | None = None,
    init: str = "kaiming",
    seed: int = 0,
    residual: bool = False,
    outputs: Sequence[str] | str = (),
    **options: Unpack[InexactOptions],
) -> GrowthResult:
    """Make a trained network wider without changing what it computes; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        layers, factor, add, to, multiple_of, method, scale, init, seed, residual, outputs: See
            :class:`onnxgrow.passes.Widen`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.InexactOptions`.

    Returns:
        The grown model (type in = type out; an ``onnx_ir.Model`` for a path), its growth map and the evidence.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    step = Widen(
        layers,
        factor=factor,
        add=add,
        to=to,
        multiple_of=multiple_of,
        method=method,
        scale=scale,
        init=init,
        seed=seed,
        residual=residual,
        outputs=outputs,
    )
    return grow(step, model, options)


@spelled_out(Options)
def enlarge_kernel(
    model: object,
    layers: Sequence[str] | str | None = None,
    *,
    to: int | Sequence[int],
    **options: Unpack[Options],
) -> GrowthResult:
    """Give convolutions larger kernels without changing what they compute; prove it.

    Args:
        model: As for :func:`widen`.
        layers, to: See :class:`onnxgrow.passes.EnlargeKernel`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.Options`.

    Returns, Raises:
        As :func:`widen`.
    """
    return grow(EnlargeKernel(layers, to=to), model, options)


def grow(step: GrowthPass, model: object, options: Options) -> GrowthResult:
    """Carry out a pass as the options say: the body of every function that grows a model."""
    loaded = load(model)
    step.proof = proof_of(options, loaded)
    return apply(step, loaded, **storage_of(options))


def plan(step: Widen, model: object) -> tuple[Study, WidenPlan]:
    """What a widening would do; reads no weights and changes nothing."""
    return step.plan(load(model).model)


@spelled_out(Form)
def apply(
    step: GrowthPass,
    model: object,
    *,
    output: str | os.PathLike[str] | None = None,
    write_progress: WriteProgress | None = None,
    **form: Unpack[Form],
) -> GrowthResult:
    """Run one pass on a model and, with ``output``, write the result once the written file is proved.

    With ``output`` nothing holds the model in memory: weights are computed while they are written, and what is
    proved is the file.

    Args:
        step: The pass.
        model: See :func:`widen`.
        output: Where to write the result.
        write_progress: Told (bytes written, bytes in all) while the file is written; by default the proof's
            ``progress`` is, now and then.
        form: In what form it is written: see :class:`onnxgrow.options.Form`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written.
        GrowError: Anything else that stands in the way; nothing was written.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    if output is None:
        return step(loaded)
    step.requires(loaded.model)
    grown = step.grow(loaded.model)
    step.proof.say("writing")
    with stage(
        grown.draft,
        Path(output),
        seal=grown.writing(),
        progress=write_progress or _Told(step.proof),
        **form,
    ) as staged:
        report = step.verify(loaded.model, grown, load(staged.path, mapped=True), loaded.path)
        staged.commit()
    model_out = give_back(loaded, grown.model)
    return GrowthResult(model_out, True, grown.growth_map, report, grown.plan)


class _Told:
    """Says now and then how much is written."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._next = time.monotonic() + INTERVAL

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            self._proof.say(f"writing {done / 1e9:.2f} of {total / 1e9:.2f} GB")


def verify(
    original: object,
    grown: object,
    *,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    max_change: float | None = None,
    outputs: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Check a grown model against its original by the growth map it carries. A negative verdict does not raise.

    ``original`` may also be what an earlier growth started from: the models between are then made again, and each
    growth is proved (see :mod:`onnxgrow.recipe.history`). ``outputs`` names graph outputs that may have grown.

    Raises:
        BadInputError: A model cannot be read, or its growth map is malformed.
        GrowError: ONNX Runtime cannot run the original, or the inputs do not fit.
    """
    from onnxgrow.verify.judge import verify as run

    before, after = load(original), load(grown)
    try:
        growth_map = GrowthMap.of_model(after.model.metadata_props)
    except ValueError as e:
        raise BadInputError("growth map", str(e), "the metadata of the grown model was edited") from e
    if growth_map is not None and growth_map.history:
        from onnxgrow.recipe.history import verify_history

        proof = Proof(feeds_of(inputs, before), input_shapes, provider, max_change, progress)
        report = verify_history(before, after, growth_map, proof, outputs)
        if report is not None:
            return report
    return run(
        before.model,
        after.model,
        original_path=before.path,
        grown_path=after.path,
        inputs=feeds_of(inputs, before),
        input_shapes=input_shapes,
        provider=provider,
        max_change=max_change,
        outputs=outputs,
        progress=progress,
    )
