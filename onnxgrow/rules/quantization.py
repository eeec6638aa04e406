"""Quantising and dequantising: entry by entry, with a scale and a zero point for all, for an axis, or for blocks.

A quantised weight grows with its scales; a hard zero in it is the zero point. Activations are quantised with the
range that was calibrated for the old channels, which only new channels feel.
Spec: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html, https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []


@register("DequantizeLinear", "QuantizeLinear")
def quantisation(op: NodeContext) -> Sequence[Terms | None]:
    """Scale and zero point: one value, one for each index of ``axis``, or one for each block along ``axis``."""
    x = op.terms(0)
    for i in (1, 2):
        if not op.has(i):
            continue
        if not op.is_constant(i):
            raise Unsuitable("a scale or zero point that is computed from data")
        given = op.terms(i)
        if all(t.size == 1 for t in given) and len(given) < 2:
            continue
        axis = op.axis(int(op.attr("axis", 1)), len(x))
        block = int(op.attr("block_size", 0))
        if not block:
            op.unify(given[0], x[axis], "its scales do not line up")
            continue
        for k, (own, data) in enumerate(zip(given, x, strict=True)):
            if k != axis:
                op.unify(own, data, "its scales do not line up")
            elif data.size == own.size * block:
                inside = op.fresh(block, "it is a block that shares a scale", axis)
                op.unify(data, op.forest.product((own, inside)), "its blocks do not line up")
            else:
                op.freeze([data, own], "its last block is cut short", axis)
    return [list(x)]
