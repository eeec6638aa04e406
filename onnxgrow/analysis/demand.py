"""Zeros that a product of two computed values needs.

Where two computed values are multiplied and summed over a grown axis (queries and keys over the head size), the new
terms of the sum vanish only if one of the two is exactly zero there. The demand is pushed backwards from one operand,
through ops that keep zeros, to the constants that can grant it. Zeroing the whole channel set would kill the other
operand too where both come from one fused weight; only the demanded part is zeroed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis.demand_steps import Demand, Grant, Masks, NoGrantError
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.rules import Place, Reason

__all__ = ["Grant", "Masks", "Refusal", "grants"]

Key = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Refusal:
    """A contraction whose demand cannot be granted, and why."""

    reason: Reason


def grants(dims: Dimensions, growth: Growth) -> tuple[list[Grant], list[Refusal]]:
    """The zeros that a growth demands of constants, for all products of computed values, and computed weights.

    Where both operands of a product could be zero, one that other products need zero anyway is taken: a weight that
    serves several products (of content and of positions) would lose both sides otherwise.
    """
    refused: list[Refusal] = []
    asked: list[list[list[Grant]]] = []
    open_atoms = [atom for atom in growth if atom not in dims.settled]
    for position in sorted({position for atom in open_atoms for position in dims.contracted.get(atom, ())}):
        node, said = dims.contractions[position]
        ways, errors = [], []
        for places in said.operands:
            try:
                ways.append(_zero_at(dims, growth, node, places, said.over))
            except NoGrantError as e:
                errors.append(str(e))
        if ways:
            asked.append(ways)
        else:
            axis = said.operands[0][0].axis
            refused.append(Refusal(Reason(_label(node), axis, f"neither operand can be zero there: {errors[0]}")))
    for need in dims.computed.needs_of(dims, growth):
        ways, errors = [], []
        for site, masks in need.masks(dims, growth):
            try:
                ways.append(Demand(dims, growth).at(site, masks))
            except NoGrantError as e:
                errors.append(str(e))
        if ways:
            asked.append(ways)
        elif errors:
            refused.append(Refusal(Reason(_label(need.node), None, f"its weight cannot be zero there: {errors[0]}")))
    granted: list[Grant] = []
    zeroed: set[tuple[str, Key]] = set()
    for ways in sorted(asked, key=len):  # those without a choice first
        chosen = next((way for way in ways if zeroed.issuperset(map(_entries, way))), ways[0])
        granted += chosen
        zeroed.update(map(_entries, chosen))
    return granted, refused


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"


def _zero_at(
    dims: Dimensions, growth: Growth, node: ir.Node, places: Sequence[Place], over: Term | None
) -> list[Grant]:
    """Grants that make one operand of a product zero at the new places of the axis. Raises NoGrantError."""
    found: list[Grant] = []
    for place in places:
        operand = dims.at((node, place.index)) or []
        whole = layout(dims.forest, operand[place.axis], growth)
        mine = whole if place.part is None else layout(dims.forest, place.part, growth)
        inner = mine if over is None else layout(dims.forest, over, growth)
        start = sum(layout(dims.forest, t, growth).size for t in place.before)
        new = np.zeros(whole.size, bool)
        # Other factors of the axis may grow as they like: their new entries are no terms of an old sum.
        new[start : start + mine.size] = np.tile(inner < 0, mine.size // inner.size)
        masks = tuple(new if k == place.axis else None for k in range(len(operand)))
        found += Demand(dims, growth).at((node, place.index), masks)
    return found


def _entries(grant: Grant) -> tuple[str, Key]:
    """Which entries of which constant are granted."""
    node, index = grant.site
    value = node.inputs[index]
    return (value.name if value is not None else None) or "", tuple(
        None if mask is None else mask.tobytes() for mask in grant.masks
    )
