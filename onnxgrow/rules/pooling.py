"""Pooling: channels pass through, spatial axes do not grow.

Spec: https://onnx.ai/onnx/operators/onnx__MaxPool.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

POOLED = "it is pooled over"


@register("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
def pool(op: NodeContext) -> Sequence[Terms | None]:
    """Axes from 2 on are pooled; the indices output of MaxPool counts flat positions, so its data cannot grow."""
    x = op.terms(0)
    if len(x) < 2:
        raise Unsuitable("data without a channel axis")
    op.freeze(x[2:], POOLED, 2)
    if len(op.node.outputs) > 1 and op.node.outputs[1].uses():
        op.freeze(x, "flat indices count over it")
    out = [*x[:2], *op.fresh_all(op.out_shape()[2:], POOLED, 2)]
    return [list(out) for _ in op.node.outputs]
