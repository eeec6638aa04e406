"""Elementwise ops: every axis of every operand is the axis of the output it broadcasts to.

Spec: https://onnx.ai/onnx/repo-docs/Broadcasting.html
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__ = ["broadcast"]

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid "
    "Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
).split()

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Sum": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0, "PRelu": 0.25}
"""Value of the new entries of a constant operand; other ops repeat the constant's own values."""

VARIADIC = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or Pow PRelu Sub Sum Where Xor"
).split()


def broadcast(op: NodeContext, operands: Sequence[Terms]) -> Terms:
    """Tie operands under NumPy's rule and return the terms of the result."""
    rank = max(len(t) for t in operands)
    out: Terms = []
    for back in range(rank, 0, -1):
        common = None
        for terms in operands:
            if len(terms) < back or op.forest.find(terms[-back]).size == 1:
                continue
            if common is None:
                common = terms[-back]
            else:
                op.unify(common, terms[-back], "its operands do not line up")
        out.append(common if common is not None else op.forest.one())
    return out


@register(*UNARY)
def unary(op: NodeContext) -> Sequence[Terms | None]:
    """f(x), entry by entry."""
    for i in range(1, len(op.inputs)):
        if op.has(i) and any(t.size != 1 for t in op.terms(i)) and op.node.op_type != "CastLike":
            raise Unsuitable("a parameter that is no scalar")
    return [list(op.terms(0))]


@register("Dropout")
def dropout(op: NodeContext) -> Sequence[Terms | None]:
    """Identity at inference; the mask has the axes of the data."""
    return [list(op.terms(0)) for _ in op.node.outputs]


@register(*VARIADIC)
def variadic(op: NodeContext) -> Sequence[Terms | None]:
    """f(a, b, …), entry by entry, with broadcasting."""
    operands = [op.terms(i) for i in range(len(op.inputs))]
    if op.version < 7 and op.node.op_type in NEUTRAL and len(operands) == 2:
        operands[1] = _aligned(op, operands)
    neutral = NEUTRAL.get(op.node.op_type)
    if neutral is not None:
        for i in range(len(operands)):
            op.fill(i, neutral)
    return [broadcast(op, operands)]


def _aligned(op: NodeContext, operands: Sequence[Terms]) -> Terms:
    """Before opset 7 the second operand was laid at ``axis`` of the first (attribute ``broadcast``)."""
    left, right = operands
    if not op.attr("broadcast", 0) or op.attr("axis") is None:
        return list(right)
    start = op.axis(op.attr("axis"), len(left))
    return list(right) + [op.forest.one() for _ in range(len(left) - start - len(right))]
