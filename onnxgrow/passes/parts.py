"""Widening graph by graph: the main one, then every body of control flow in which something grows.

A body is changed where it stands, by the analysis of its lifted form; what is noted of it goes into the one growth
map under the names that :meth:`onnxgrow.concrete.bodies.Scopes.key` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.study import Study
from onnxgrow.concrete.bodies import Path, Scopes, Type, lift
from onnxgrow.growth_map import NodeChange, SetGrowth, TensorGrowth, ValueGrowth
from onnxgrow.io import copy_model
from onnxgrow.passes.apply import Changes, apply_widening
from onnxgrow.passes.calibrate import calibrate
from onnxgrow.passes.revive import silent_sets
from onnxgrow.plan import WidenPlan

__all__ = ["Noted", "widen_parts"]

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass
class Noted:
    """What grew in all graphs, in the terms of the growth map."""

    sets: tuple[SetGrowth, ...] = ()
    values: dict[str, ValueGrowth] = field(default_factory=dict)
    tensors: dict[str, TensorGrowth] = field(default_factory=dict)
    nodes: dict[str, NodeChange] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """One graph: its analysis, its share of the plan, and inputs it runs with."""

    path: Path
    analysis: Analysis
    plan: WidenPlan
    feeds: Sequence[Feeds]
    types: Mapping[str, Type] = field(default_factory=dict)

    def standing_alone(self, model: ir.Model) -> ir.Model:
        """This graph of ``model`` as a model."""
        return lift(Scopes(model), self.path, self.types) if self.path else model


def widen_parts(found: Study, plan: WidenPlan, generation: int, *, measure: bool) -> tuple[ir.Model, Noted]:
    """Widen a copy of the model studied.

    Args:
        found: The study.
        plan: What grows.
        generation: How often the model has grown, this time included.
        measure: Whether statistics of new batch-normalised channels are measured on the inputs.

    Raises:
        GrowError: A grown tensor cannot be made, or an operand cannot follow.
    """
    parts = [p for p in _parts(found.analysis, plan, found.feeds) if p.plan.sets]
    grown, changes = _widened(found.model, parts, generation, {})
    if plan.request.draws:
        silent = {p.path: silent_sets(p.analysis, p.plan, p.standing_alone(grown), p.feeds) for p in parts}
        if any(silent.values()):
            grown, changes = _widened(found.model, parts, generation, silent)
    if measure:
        for part, change in zip(parts, changes, strict=True):
            calibrate(
                part.analysis,
                change.rewriter,
                change.values,
                change.tensors,
                part.feeds[:1],
                partial(part.standing_alone, grown),
            )
    return grown, _noted(Scopes(found.model), parts, changes)


def _parts(analysis: Analysis, plan: WidenPlan, feeds: Sequence[Feeds]) -> list[_Part]:
    parts = [_Part((), analysis, plan.of(analysis), feeds)]
    pending = list(analysis.bodies)
    while pending:
        body = pending.pop(0)
        runs = body.runs
        parts.append(_Part(runs.body.path, body.analysis, plan.of(body.analysis), runs.feeds, runs.types))
        pending += body.analysis.bodies
    return parts


def _widened(
    model: ir.Model, parts: Sequence[_Part], generation: int, negated: Mapping[Path, frozenset[Term]]
) -> tuple[ir.Model, list[Changes]]:
    grown = copy_model(model)
    changes = [
        apply_widening(p.analysis, p.plan, grown, generation, negated=negated.get(p.path, frozenset()), path=p.path)
        for p in parts
    ]
    return grown, changes


def _noted(scopes: Scopes, parts: Sequence[_Part], changes: Sequence[Changes]) -> Noted:
    noted = Noted()
    for part, change in zip(parts, changes, strict=True):

        def key(name: str, path: Path = part.path) -> str:
            return scopes.listed(path, name)

        def of(name: str, same: str) -> str:
            return "" if not name or key(name) == same else key(name)

        noted.values.update((key(n), replace(v, of=of(v.of, key(n)))) for n, v in change.values.items())
        noted.tensors.update(
            (key(n), replace(t, of=of(t.of, key(n)), weights=t.weights and key(t.weights)))
            for n, t in change.tensors.items()
        )
        noted.nodes.update((key(n), c) for n, c in change.rewriter.node_changes().items())
        noted.inserted += tuple(key(n) for n in change.rewriter.inserted)
        noted.sets += tuple(
            replace(s, writers=tuple(map(key, s.writers)), readers=tuple(map(key, s.readers))) for s in change.sets
        )
    return noted
