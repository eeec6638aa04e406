"""Gather and Scatter families: axes that data index cannot grow, the others pass through.

Spec: https://onnx.ai/onnx/operators/onnx__Gather.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.rules.context import IntArray, NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

LOOKED_UP = "entries are looked up in it"
CHOSEN = "it counts entries chosen by index"
WRITTEN = "entries are written into it by index"


@register("Gather")
def gather(op: NodeContext) -> Sequence[Terms | None]:
    """Entries of one axis by index. A constant table is an embedding: a linear weight that is looked up.

    Known indices into computed data follow the growth: they go on choosing the old entries.
    """
    x, indices = op.terms(0), op.terms(1)
    axis = op.axis(int(op.attr("axis", 0)), len(x))
    known = None if op.is_constant(0) else op.constant(1)
    if known is None:
        op.freeze_axis(x, axis, LOOKED_UP)
    else:
        op.freeze(indices, CHOSEN)
        _follow_entries(op, x[axis], known)
    if op.is_constant(0) and not op.is_constant(1):
        op.linear(0, [i for i in range(len(x)) if i != axis], [], data=-1)
    return [[*x[:axis], *indices, *x[axis + 1 :]]]


def _follow_entries(op: NodeContext, term: Term, chosen: IntArray) -> None:
    size = op.forest.find(term).size

    def moved(growth: Growth, natural: IntArray | None) -> IntArray | None:
        if not op.grows(term, growth):
            return None
        places = np.flatnonzero(layout(op.forest, term, growth) >= 0)[chosen % size].astype(chosen.dtype)
        return None if natural is not None and np.array_equal(natural, places) else places

    op.operand(1, moved)


@register("GatherElements")
def gather_elements(op: NodeContext) -> Sequence[Terms | None]:
    """Each entry by its own index along one axis; the other axes of data and indices are the same."""
    x, indices = op.terms(0), op.terms(1)
    axis = op.axis(int(op.attr("axis", 0)), len(x))
    op.freeze_axis(x, axis, LOOKED_UP)
    _tie_others(op, axis, [x, indices])
    return [list(indices)]


@register("ScatterElements", "Scatter")
def scatter_elements(op: NodeContext) -> Sequence[Terms | None]:
    """Each entry written by its own index along one axis; the other axes of all operands are the same."""
    x, indices, updates = op.terms(0), op.terms(1), op.terms(2)
    axis = op.axis(int(op.attr("axis", 0)), len(x))
    for terms in (x, indices, updates):
        op.freeze_axis(terms, axis, WRITTEN)
    _tie_others(op, axis, [x, indices, updates])
    return [list(x)]


def _tie_others(op: NodeContext, axis: int, operands: Sequence[Terms]) -> None:
    """Tie all axes but one; where the indices cover only a part of an axis, its entries have a meaning by position."""
    first = operands[0]
    for i in range(len(first)):
        if i == axis:
            continue
        for other in operands[1:]:
            if other[i].size == first[i].size:
                op.unify(first[i], other[i])
            else:
                op.freeze_axis(first, i, "indices cover only a part of it")
                op.freeze_axis(other, i, "indices cover only a part of it")


@register("GatherND")
def gather_nd(op: NodeContext) -> Sequence[Terms | None]:
    """Slices by index tuples: batch axes are shared, indexed axes frozen, the rest of the data passes through.

    Constant data is a weight that is looked up: those of the experts that are chosen.
    """
    x, indices = op.terms(0), op.terms(1)
    batch = int(op.attr("batch_dims", 0))
    depth = op.shape(1)[-1]
    for a, b in zip(x[:batch], indices[:batch], strict=True):
        op.unify(a, b)
    op.freeze(x[batch : batch + depth], LOOKED_UP, batch)
    op.freeze(indices[-1:], "it holds index tuples", len(indices) - 1)
    if op.is_constant(0) and not op.is_constant(1):
        op.linear(0, range(batch + depth, len(x)), [], data=-1)
    return [[*indices[:-1], *x[batch + depth :]]]


@register("ScatterND")
def scatter_nd(op: NodeContext) -> Sequence[Terms | None]:
    """Slices written by index tuples: indexed axes are frozen, the rest of the data passes through."""
    x, indices, updates = op.terms(0), op.terms(1), op.terms(2)
    depth = op.shape(1)[-1]
    count = len(indices) - 1
    op.freeze(x[:depth], WRITTEN)
    op.freeze(indices, WRITTEN)
    op.freeze(updates[:count], WRITTEN)
    for a, b in zip(x[depth:], updates[count:], strict=True):
        op.unify(a, b, "updates that do not line up")
    return [list(x)]


@register("OneHot")
def one_hot(op: NodeContext) -> Sequence[Terms | None]:
    """A new axis of classes among the axes of the indices."""
    indices, sizes = op.terms(0), op.out_shape()
    axis = op.axis(int(op.attr("axis", -1)), len(sizes))
    if len(op.terms(2)) != 1:
        raise Unsuitable("values that are no pair")
    classes = op.fresh(sizes[axis], "it counts classes", axis)
    return [[*indices[:axis], classes, *indices[axis:]]]
