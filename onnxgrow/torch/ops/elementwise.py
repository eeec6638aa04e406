"""Arithmetic, comparison and logic, entry by entry. Spec: https://onnx.ai/onnx/operators/

A constant operand with more than one element is a parameter: exporters write biases, scales and position tables so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from onnxgrow.torch.registry import Context, Kernel, NodeSpec, register
from onnxgrow.torch.tensors import dtype_of

__all__: list[str] = []


def _divide(x: Tensor, y: Tensor) -> Tensor:
    # Integers are truncated toward zero, as in C.
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y).to(x.dtype)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Ceil": torch.ceil,
    "Floor": torch.floor,
    "Round": torch.round,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Sign": torch.sign,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
}

_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Pow": _power,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


@register(*_UNARY)
def unary(op: NodeSpec) -> Kernel:
    return _UNARY[op.node.op_type]


@register(*_ARITHMETIC, weights=None, since_version=7)
def arithmetic(op: NodeSpec) -> Kernel:
    return _ARITHMETIC[op.node.op_type]


@register(*_ARITHMETIC, "Pow", weights=None)
def arithmetic_with_axis(op: NodeSpec) -> Kernel:
    """Before opset 7 the second operand is aligned at ``axis``, and only where ``broadcast`` says so."""
    function = {**_ARITHMETIC, "Pow": _power}[op.node.op_type]
    axis = op.attr("axis") if op.attr("broadcast", 0) else None
    if axis is None:
        return function

    def run(x: Tensor, y: Tensor) -> Tensor:
        behind = x.dim() - (axis % x.dim()) - y.dim()
        return function(x, y.reshape(*y.shape, *[1] * behind))

    return run


@register("Pow", since_version=7)
@register(*(name for name in _BINARY if name != "Pow"))
def binary(op: NodeSpec) -> Kernel:
    return _BINARY[op.node.op_type]


@register("BitShift")
def bit_shift(op: NodeSpec) -> Kernel:
    left = op.attr("direction") == "LEFT"

    def run(x: Tensor, by: Tensor) -> Tensor:
        # Over int64: PyTorch shifts no unsigned type but the smallest. To the right, its sign bit is not to be copied.
        bits, count = x.to(torch.int64), by.to(torch.int64)
        shifted = bits << count if left else (bits >> count) & ((1 << (64 - count)) - 1)
        return shifted.to(x.dtype)

    return run


@register("Mod")
def mod(op: NodeSpec) -> Kernel:
    return torch.fmod if op.attr("fmod", 0) else torch.remainder


@register("Sum", weights=None)
def add_all(op: NodeSpec) -> Kernel:
    return lambda *xs: reduce(torch.add, xs)


@register("Mean", weights=None)
def mean(op: NodeSpec) -> Kernel:
    return lambda *xs: reduce(torch.add, xs) / len(xs)


@register("Max")
def maximum(op: NodeSpec) -> Kernel:
    return lambda *xs: reduce(torch.maximum, xs)


@register("Min")
def minimum(op: NodeSpec) -> Kernel:
    return lambda *xs: reduce(torch.minimum, xs)


@register("Where")
def where(op: NodeSpec) -> Kernel:
    return torch.where


@register("IsInf")
def is_inf(op: NodeSpec) -> Kernel:
    negative, positive = bool(op.attr("detect_negative", 1)), bool(op.attr("detect_positive", 1))

    def run(x: Tensor) -> Tensor:
        infinite = torch.isinf(x)
        if not negative:
            infinite = infinite & (x > 0)
        return infinite if positive else infinite & (x < 0)

    return run


@register("Clip")
def clip_attributes(op: NodeSpec) -> Kernel:
    low, high = op.attr("min"), op.attr("max")
    if low is None and high is None:
        return lambda x: x
    return lambda x: torch.clamp(x, low, high)


@register("Clip", since_version=11)
def clip(op: NodeSpec) -> Kernel:
    # Plain numbers where they are known: a clamp by tensors is slower, and compiled worse.
    known = [op.constants[i].item() if i in op.constants and op.constants[i].size == 1 else None for i in (1, 2)]
    if all(known[i - 1] is not None or not op.has(i) for i in (1, 2)):
        if known == [None, None]:
            return lambda x, *_: x
        return lambda x, *_: torch.clamp(x, known[0], known[1])

    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        if low is not None:
            x = torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)

    return run


@register("Identity")
def identity(op: NodeSpec) -> Kernel:
    return lambda x: x


@register("Cast", context=True)
def cast(op: NodeSpec) -> Kernel:
    to = dtype_of(op.attr("to"), op.label)
    # A Cast to the type of the weights follows the weights when the module is moved to another type.
    return lambda context, x: x.to(context.moved(to)) if to.is_floating_point else x.to(to)


@register("CastLike")
def cast_like(op: NodeSpec) -> Kernel:
    return lambda x, like: x.to(like.dtype)


@register("Dropout", context=True, foldable=False)
def dropout_attribute(op: NodeSpec) -> Kernel:
    ratio = op.attr("ratio", 0.5)
    return lambda context, x: _dropout(op, context, x, ratio)


@register("Dropout", context=True, since_version=12, foldable=False, sizes=(1,))
def dropout(op: NodeSpec) -> Kernel:
    """Active in training mode whatever the file's third input says: that is what it is in the file for."""
    return lambda context, x, ratio=0.5, training=None: _dropout(op, context, x, 0.5 if ratio is None else ratio)


def _dropout(op: NodeSpec, context: Context, x: Tensor, ratio: float) -> Tensor | tuple[Tensor, Tensor]:
    if not context.training or ratio == 0:
        return (x, torch.ones_like(x, dtype=torch.bool)) if op.outputs > 1 else x
    kept = torch.rand_like(x) >= ratio
    y = x * kept / (1 - ratio)
    return (y, kept) if op.outputs > 1 else y
