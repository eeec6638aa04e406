"""Ops that read or take shapes.

Shapes computed from a grown tensor must not resize anything else: the passes check every use of such a value.
Spec: https://onnx.ai/onnx/operators/onnx__Shape.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.algebra import Growth
from onnxgrow.rules.context import IntArray, NodeContext, Terms
from onnxgrow.rules.movement import target_shape
from onnxgrow.rules.registry import register

__all__: list[str] = []


@register("Shape", "Size")
def shape_of(op: NodeContext) -> Sequence[Terms | None]:
    """A vector that has an entry per axis, or a count: it reads no channel."""
    return [op.fresh_all(op.out_shape(), "it lists the axes of a tensor")]


@register("ConstantOfShape")
def constant_of_shape(op: NodeContext) -> Sequence[Terms | None]:
    """A tensor of one value: its axes are new, and its shape operand follows what they are tied to."""
    out = [op.fresh(n) for n in op.out_shape()]

    def wanted(growth: Growth, natural: IntArray) -> IntArray:
        new = natural.copy()
        for i, term in enumerate(out):
            new[i] = op.size(term, growth)
        return new

    op.operand(0, target_shape(op, out, wanted))
    return [out]


@register("Range")
def range_op(op: NodeContext) -> Sequence[Terms | None]:
    """A sequence of numbers: its length means something."""
    return [op.fresh_all(op.out_shape(), "it counts")]
