"""Shape arithmetic over plain integers: no tensors, no transfers, nothing that stops ``torch.compile``.

A host value is an ``int`` (a 0-D tensor) or a tuple of them (a 1-D tensor); now and then, of floats or bools.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrow.torch.registry import HostValue, Kernel, NodeSpec, register_host

__all__: list[str] = []


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[[HostValue, HostValue], HostValue]:
    def run(x: HostValue, y: HostValue) -> HostValue:
        if not isinstance(x, tuple) and not isinstance(y, tuple):
            return function(x, y)  # type: ignore[no-any-return] # a number, as its operands are
        a, b = (v if isinstance(v, tuple) else (v,) for v in (x, y))
        n = len(b) if len(a) == 1 else len(a)
        pairs = zip(a * n if len(a) == 1 else a, b * n if len(b) == 1 else b, strict=True)
        return tuple(function(p, q) for p, q in pairs)

    return run


def _each(function: Callable[[Any], Any]) -> Callable[[HostValue], HostValue]:
    return lambda x: tuple(function(v) for v in x) if isinstance(x, tuple) else function(x)


def _divide(x: Any, y: Any) -> Any:
    if isinstance(x, float) or isinstance(y, float):
        return x / y
    # Toward zero, as integers divide in ONNX; sizes are not negative, so floor division is the usual case.
    return x // y if x >= 0 and y > 0 else math.trunc(x / y)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divide,
    "Pow": operator.pow,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "And": lambda x, y: bool(x) and bool(y),
    "Or": lambda x, y: bool(x) or bool(y),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": operator.neg,
    "Not": operator.not_,
    "Abs": abs,
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Sqrt": math.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Identity": lambda x: x,
}
_KEEPS_FLOAT = ("Floor", "Ceil")


@register_host(*_BINARY)
def binary(op: NodeSpec) -> Kernel:
    return _pairwise(_BINARY[op.node.op_type])


@register_host(*_UNARY)
def unary(op: NodeSpec) -> Kernel:
    function = _UNARY[op.node.op_type]
    return _each((lambda x: float(function(x))) if op.node.op_type in _KEEPS_FLOAT else function)


@register_host("Mod")
def mod(op: NodeSpec) -> Kernel:
    return _pairwise(math.fmod if op.attr("fmod", 0) else operator.mod)


@register_host("Max", "Min")
def extreme(op: NodeSpec) -> Kernel:
    pair = _pairwise(max if op.node.op_type == "Max" else min)

    def run(first: HostValue, *others: HostValue) -> HostValue:
        for other in others:
            first = pair(first, other)
        return first

    return run


@register_host("Cast")
def cast(op: NodeSpec) -> Kernel:
    to = ir.DataType(op.attr("to"))
    kind = bool if to == ir.DataType.BOOL else float if to.is_floating_point() else int
    # What is an integer already is left as it is: int() would make a constant of a symbolic size.
    return _each(lambda x: kind(x) if kind is not int or isinstance(x, float | bool) else x)


@register_host("Where")
def where(op: NodeSpec) -> Kernel:
    def run(condition: HostValue, x: HostValue, y: HostValue) -> HostValue:
        both = _pairwise(lambda a, b: (a, b))(x, y)
        if not isinstance(condition, tuple) and not isinstance(x, tuple) and not isinstance(y, tuple):
            return x if condition else y
        pairs: Any = both if isinstance(x, tuple) or isinstance(y, tuple) else (both,)
        return _pairwise(lambda c, p: p[0] if c else p[1])(condition, tuple(pairs))

    return run


@register_host("Gather", rank=lambda op, ranks: ranks[1] if ranks[0] == 1 else None)
def gather(op: NodeSpec) -> Kernel:
    def run(x: HostValue, index: HostValue) -> HostValue:
        assert isinstance(x, tuple)
        return tuple(x[int(i)] for i in index) if isinstance(index, tuple) else x[int(index)]

    return run


@register_host("Concat", rank=lambda op, ranks: 1)
def concat(op: NodeSpec) -> Kernel:
    return lambda *xs: tuple(v for x in xs for v in (x if isinstance(x, tuple) else (x,)))


@register_host("Slice", rank=lambda op, ranks: 1 if ranks[0] == 1 else None)
def slice_(op: NodeSpec) -> Kernel:
    fixed = (op.ints("starts"), op.ints("ends"))

    def run(x: HostValue, start: Any = None, end: Any = None, axes: Any = None, step: Any = None) -> HostValue:
        assert isinstance(x, tuple)
        first = start if start is not None else fixed[0]
        last = end if end is not None else fixed[1]
        if step is None:
            return x[int(_only(first)) : int(_only(last))]
        by, to = int(_only(step)), int(_only(last))
        return x[int(_only(first)) : None if by < 0 and to < -len(x) else to : by]

    return run


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


@register_host("Unsqueeze", rank=lambda op, ranks: 1 if ranks[0] == 0 else None)
def unsqueeze(op: NodeSpec) -> Kernel:
    return lambda x, axes=None: (x,)


@register_host("Squeeze", rank=lambda op, ranks: 0)
def squeeze(op: NodeSpec) -> Kernel:
    return lambda x, axes=None: x[0] if isinstance(x, tuple) else x


def _one_axis(op: NodeSpec, ranks: Sequence[int]) -> int | None:
    shape = op.constants.get(1)
    return 1 if shape is not None and shape.shape == (1,) else None


@register_host("Reshape", rank=_one_axis)
def reshape(op: NodeSpec) -> Kernel:
    return lambda x, shape=None: x if isinstance(x, tuple) else (x,)


@register_host("Shape", rank=lambda op, ranks: 1)
def shape(op: NodeSpec) -> Kernel:
    return lambda x: (len(x),) if isinstance(x, tuple) else ()


@register_host("ConstantOfShape", rank=lambda op, ranks: 1)
def constant_of_shape(op: NodeSpec) -> Kernel:
    """Of a shape of one entry: as many copies as it says."""
    tensor = op.attr("value")
    fill = 0.0 if tensor is None else tensor.numpy().reshape(-1)[0].item()
    return lambda x: (fill,) * x[0]


@register_host("ReduceProd", rank=lambda op, ranks: ranks[0] if op.attr("keepdims", 1) else 0)
def reduce_prod(op: NodeSpec) -> Kernel:
    keep = bool(op.attr("keepdims", 1))

    def run(x: HostValue, axes: HostValue | None = None) -> HostValue:
        value = math.prod(x) if isinstance(x, tuple) else x
        return (value,) if keep and isinstance(x, tuple) else value

    return run
