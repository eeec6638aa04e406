"""Widen channel sets: more neurons, filters, features."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis import Analysis
from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import BadInputError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.io.tensors import blocks
from onnxgrow.passes.apply import apply_widening
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.calibrate import calibrate
from onnxgrow.passes.revive import silent_sets
from onnxgrow.plan import Target, WidenPlan, WidenRequest, plan_widen

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
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        selectors = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self.request = WidenRequest(
            selectors, Target(factor, add, to, multiple_of), method=method, scale=scale, init=init, seed=seed
        )

    def plan(self, model: ir.Model) -> tuple[Study, WidenPlan]:
        """What would be done; reads no weight."""
        self.proof.say("analysing")
        found = study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs)
        return found, plan_widen(found.analysis, self.request)

    def grow(self, model: ir.Model) -> Grown:
        """Widen a copy of ``model``."""
        return self.carry_out(*self.plan(model))

    def carry_out(self, found: Study, plan: WidenPlan) -> Grown:
        """Do what a plan of :meth:`plan` says, on a copy of the model studied.

        Raises:
            BadInputError: A weight involved is not finite.
            UnsupportedError: A tensor would need two values at one entry.
        """
        model, analysis = found.model, found.analysis
        _check_finite(analysis, plan)
        self.proof.say(f"widening {len(plan.sets)} channel sets")
        past = lineage(model)
        grown = copy_model(model)
        changes = apply_widening(analysis, plan, grown, past.generation)
        silent = silent_sets(analysis, plan, grown, found.feeds) if plan.request.draws else frozenset()
        if silent:
            grown = copy_model(model)
            changes = apply_widening(analysis, plan, grown, past.generation, negated=silent)
        if self.proof.inputs and plan.request.draws:
            calibrate(analysis, changes.rewriter, changes.values, changes.tensors, found.feeds[:1])
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            seed=plan.request.seed,
            exact=plan.request.exact,
            sets=changes.sets,
            values=changes.values,
            tensors=changes.tensors,
            nodes=changes.rewriter.node_changes(),
            inserted=tuple(changes.rewriter.inserted),
            recipe=plan.request.to_json(),
            versions=past.versions,
            history=past.history,
        )
        return Grown(grown, growth_map, plan.to_json(), frozen_sets(analysis))


def frozen_sets(analysis: Analysis) -> tuple[dict[str, Any], ...]:
    """Written sets that cannot grow, with their reasons, as JSON data."""
    return tuple(
        {"name": s.name, "size": s.size, "reasons": [str(r) for r in s.reasons]}
        for s in analysis.sets
        if not s.growable and s.writers
    )


def _check_finite(analysis: Analysis, plan: WidenPlan) -> None:
    """0 · Inf is NaN: zeros only shield the old function from new channels when every weight involved is finite."""
    names = {w.root for p in plan.sets for w in (*p.channel_set.writers, *p.channel_set.readers)}
    for name in sorted(names):
        tensor = analysis.network.tensors[name]
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
