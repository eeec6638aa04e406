"""Reductions: a reduced axis grows in special ways at most, the others pass through.

Spec: https://onnx.ai/onnx/operators/onnx__ReduceSum.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms
from onnxgrow.rules.registry import register

__all__: list[str] = []

REDUCED = "it is reduced over"


@register(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def reduce(op: NodeContext) -> Sequence[Terms | None]:
    """Over ``axes`` (attribute or second input), all when not given."""
    x = op.terms(0)
    given = op.ints("axes", 1)
    if not given:
        given = [] if op.attr("noop_with_empty_axes", 0) else list(range(len(x)))
    axes = [op.axis(a, len(x)) for a in given]
    for axis in axes:
        op.statistic(0, axis, REDUCED)
    return [_collapse(op, x, axes)]


@register("ArgMax", "ArgMin")
def arg(op: NodeContext) -> Sequence[Terms | None]:
    """Over one axis."""
    x = op.terms(0)
    axis = op.axis(int(op.attr("axis", 0)), len(x))
    op.freeze_axis(x, axis, REDUCED)
    return [_collapse(op, x, [axis])]


def _collapse(op: NodeContext, x: Terms, axes: list[int]) -> Terms:
    keep = bool(op.attr("keepdims", 1))
    return [op.forest.one() if i in axes else t for i, t in enumerate(x) if keep or i not in axes]


@register("CumSum", "CumProd")
def cumulative(op: NodeContext) -> Sequence[Terms | None]:
    """Along one axis."""
    x = op.terms(0)
    axis = op.ints("axis", 1)
    for i in axis or range(len(x)):
        op.freeze_axis(x, op.axis(i, len(x)), "it is accumulated over")
    return [list(x)]


@register("TopK")
def top_k(op: NodeContext) -> Sequence[Terms | None]:
    """Along one axis; the others pass through."""
    x = op.terms(0)
    axis = op.axis(int(op.attr("axis", -1)), len(x))
    op.freeze_axis(x, axis, "entries are selected from it")
    out = [*x[:axis], op.fresh(op.out_shape()[axis], "entries are selected from it", axis), *x[axis + 1 :]]
    return [list(out) for _ in op.node.outputs]
