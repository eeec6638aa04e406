"""Gemm and MatMul.

Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html, https://onnx.ai/onnx/operators/onnx__MatMul.html
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.elementwise import broadcast
from onnxgrow.rules.registry import register

__all__: list[str] = []


@register("Gemm")
def gemm(op: NodeContext) -> Sequence[Terms | None]:
    """Y = α·A'·B' + β·C; A' and B' are A and B, transposed on request."""
    a, b = list(op.terms(0)), list(op.terms(1))
    if len(a) != 2 or len(b) != 2:
        raise Unsuitable("operands that are no matrices")
    trans_a, trans_b = bool(op.attr("transA", 0)), bool(op.attr("transB", 0))
    rows, inner_a = (a[1], a[0]) if trans_a else (a[0], a[1])
    inner_b, columns = (b[1], b[0]) if trans_b else (b[0], b[1])
    op.unify(inner_a, inner_b, "its contracted axes do not line up")
    out = [rows, columns]
    if op.has(2):
        broadcast(op, [op.terms(2), out])
        op.fill(2, 0.0)
    if op.is_constant(1):
        op.linear(1, [0 if trans_b else 1], [1 if trans_b else 0], data=0)
    elif op.is_constant(0):
        op.linear(0, [1 if trans_a else 0], [0 if trans_a else 1], data=1)
    else:
        op.contraction((0, 0 if trans_a else 1), (1, 1 if trans_b else 0))
    return [out]


@register("MatMul")
def matmul(op: NodeContext) -> Sequence[Terms | None]:
    """NumPy's matmul; leading axes broadcast, a vector gets an axis of size 1 that is dropped again."""
    a, b = list(op.terms(0)), list(op.terms(1))
    if not a or not b:
        raise Unsuitable("a scalar operand")
    left, right = len(a) > 1, len(b) > 1
    inner = a[-1]
    op.unify(inner, b[-2] if right else b[-1], "its contracted axes do not line up")
    batch_a, batch_b = a[:-2], b[:-2]
    batch = broadcast(op, [batch_a, batch_b]) if batch_a or batch_b else []
    out = batch + ([a[-2]] if left else []) + ([b[-1]] if right else [])
    if op.is_constant(1):
        op.linear(1, [len(b) - 1] if right else [], [len(b) - 2 if right else len(b) - 1], data=0)
    elif op.is_constant(0):
        op.linear(0, [len(a) - 2] if left else [], [len(a) - 1], data=1)
    else:
        op.contraction((0, len(a) - 1), (1, len(b) - 2 if right else len(b) - 1))
    return [out]
