"""Widen channel sets: more neurons, filters, features."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis import Analysis
from onnxgrow.analysis.study import Study
from onnxgrow.errors import BadInputError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io.tensors import blocks
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.functions import plan_through_functions
from onnxgrow.passes.parts import widen_parts
from onnxgrow.plan import Target, WidenPlan, WidenRequest
from onnxgrow.plan.outputs import OutputRequest

__all__ = ["Widen", "frozen_sets"]

BLOCK = 8 << 20
"""Bytes looked at at once."""


class Widen(GrowthPass):
    """Add channels to the selected sets.

    New writers get a standard initialisation; what reads the new channels is exactly zero (``zero-fan-out``, after
    Net2Net, https://arxiv.org/abs/1511.05641, and the zero-initialised layers of Fixup,
    https://arxiv.org/abs/1901.09321), so the function stays the same and the new weights learn from the first step.

    Args:
        layers: Selectors: names of channel sets, weights or nodes, globs, ``op:Conv``; None for all growable sets.
        factor, add, to, multiple_of: See :class:`onnxgrow.plan.Target`; ×2 when nothing is said.
        method: ``zero-fan-out``, ``zero-fan-in``, ``near-zero`` or ``net2wider``; the last two change the function
            and need ``proof.max_change``.
        scale: For ``near-zero``: standard deviation of the new reader entries relative to the old ones.
        init: ``kaiming``, ``xavier``, ``lecun``, ``orthogonal`` or ``copy``.
        seed: Of the new values; the same seed gives the same bytes on every machine.
        residual: Whether the widths of residual streams, which normalisations are taken over, grow too when no
            layers are named: with the mean of the old channels, with zeros, or with copies, as the norms allow.
        outputs: Graph outputs that grow (classes, a vocabulary): ``NAME=+K`` or ``NAME=N``, where ``NAME@AXIS`` or
            ``NAME@SET`` says which axis or channel set is meant. Old entries stay; the interface changes, so that the
            verdict is ``changed``. Without ``layers`` nothing else grows. New entries are drawn by ``init``, which may
            be ``zeros`` here.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that contradict each other, or a selector that matches nothing.
    """

    def __init__(
        self,
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
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        selectors = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self.request = WidenRequest(
            selectors,
            Target(factor, add, to, multiple_of),
            method=method,
            scale=scale,
            init=init,
            seed=seed,
            residual=residual,
            outputs=tuple(map(OutputRequest.parse, (outputs,) if isinstance(outputs, str) else outputs)),
        )

    def plan(self, model: ir.Model) -> tuple[Study, WidenPlan]:
        """What would be done; reads no weight."""
        self.proof.say("analysing")
        return plan_through_functions(model, self.request, self.proof)

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan, JSON data."""
        return self.plan(model)[1].to_json()

    def grow(self, model: ir.Model) -> Grown:
        """Widen a copy of ``model``."""
        return self.carry_out(*self.plan(model))

    def carry_out(self, found: Study, plan: WidenPlan) -> Grown:
        """Do what a plan of :meth:`plan` says, on a copy of the model studied.

        Raises:
            BadInputError: A weight involved is not finite.
            UnsupportedError: A tensor would need two values at one entry.
        """
        analysis = found.analysis
        _check_finite(analysis, plan)
        self.proof.say(f"widening {len(plan.sets)} channel sets")
        past = lineage(found.given)
        measure = bool(self.proof.inputs) and plan.request.draws
        grown, noted = widen_parts(found, plan, past.generation, measure=measure)
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            seed=plan.request.seed,
            exact=plan.request.exact,
            sets=noted.sets,
            values=noted.values,
            tensors=noted.tensors,
            nodes=noted.nodes,
            inserted=noted.inserted,
            recipe=plan.request.to_json(),
            versions=past.versions,
            history=past.history,
            inlined=found.inlined,
            outputs=_grown_outputs(analysis, noted.values),
        )
        return Grown(grown, growth_map, plan.to_json(), frozen_sets(analysis))


def frozen_sets(analysis: Analysis) -> tuple[dict[str, Any], ...]:
    """Written sets that cannot grow, with their reasons, as JSON data."""
    return tuple(
        {"name": s.name, "size": s.size, "reasons": [str(r) for r in s.reasons]}
        for s in analysis.sets
        if not s.growable and s.writers
    )


def _grown_outputs(analysis: Analysis, grown: Collection[str]) -> tuple[str, ...]:
    """The graph outputs among the values that grew."""
    opened = analysis.network.open_outputs
    names = (v.name or "" for v in analysis.network.model.graph.outputs)
    return tuple(dict.fromkeys(name for name in names if name in opened and name in grown))


def _check_finite(analysis: Analysis, plan: WidenPlan) -> None:
    """0 · Inf is NaN: zeros only shield the old function from new channels when every weight involved is finite."""
    for part in analysis.parts:
        _check_part(part, plan.of(part))


def _check_part(part: Analysis, plan: WidenPlan) -> None:
    names = {w.root for p in plan.sets for w in (*p.channel_set.writers, *p.channel_set.readers)}
    for name in sorted(names):
        tensor = part.network.tensors[name]
        if tensor.dtype.is_floating_point() and not _is_finite(tensor):
            raise BadInputError(
                name,
                "this weight holds NaN or infinite values",
                "repair it, or widen other layers with --layer",
            )


def _is_finite(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype.bitwidth < 8 or sys.byteorder != "little":
        return bool(np.isfinite(np.asarray(tensor.numpy())).all())
    parts = (np.frombuffer(block, tensor.dtype.numpy()) for block in blocks(tensor, BLOCK))
    return all(np.isfinite(part).all() for part in parts)
