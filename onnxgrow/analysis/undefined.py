"""Sets whose new channels could leave the domain of an operator: a divisor of 0, the logarithm or root of less than 0.

New channels hold random values, and zeros behind them make nothing of a NaN or an infinity but a NaN. The old channels
may be safe by what was learned (a divisor that is a sum of positive weights): that says nothing of new ones. They are
safe only by what the operators in front guarantee, as a square plus ε does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.network import node_key
from onnxgrow.analysis.pointing import AS_THEIR_INPUT, points_outside
from onnxgrow.concrete.values import LIMIT, dims_of
from onnxgrow.rules import Reason
from onnxgrow.rules.elementwise import NEUTRAL

__all__ = ["freeze_undefined"]

SMALLEST = 1e-30
"""Least magnitude of a divisor."""
DEPTH = 64
"""Number of operators that are looked back."""
POSITIVE = {
    "Div": (1, "divides by it"),
    "Log": (0, "takes its logarithm"),
    "ReduceLogSum": (0, "takes its logarithm"),
    "Reciprocal": (0, "divides by it"),
}
"""Op → its input that has to be greater than 0, and what it does with it."""
INVERSE = frozenset(("Acos", "Asin", "Atanh"))
"""Ops whose input has to lie between -1 and 1; that of Atanh may not even be rounded to them."""
WITHIN_ONE = frozenset("Cos Erf HardSigmoid Sigmoid Sin Softmax Softsign Tanh".split())
"""Ops whose output does."""

FLOATS = frozenset((ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16))
NEVER_NEGATIVE = frozenset("Abs HardSigmoid ReduceL1 ReduceL2 ReduceSumSquare Relu Softmax ThresholdedRelu".split())
ALWAYS_POSITIVE = frozenset("Exp Sigmoid Softplus".split())
BARELY = 1e-45
"""What stands for a positive number that may be rounded to 0: as good as the old channels, where they had no more."""
NOT_BELOW_MINUS_ONE = frozenset("Cos Erf Sin Softsign Tanh".split())


def freeze_undefined(dims: Dimensions) -> None:
    """Freeze every set on an axis of an operand that may leave the domain of its operator in new channels."""
    bounds, before = _Bounds(dims, filled=True), _Bounds(dims, filled=False)
    for node in dims.network.nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        risks = list(_risks(node, bounds, before))
        pointer = points_outside(dims.network, node)
        if pointer is not None:
            risks.append((pointer, "it looks up entries by it, and new channels may point outside"))
        for index, why in risks:
            value = node.inputs[index]
            if value is None or value.name in dims.network.tensors:
                continue  # what its new entries are is up to the filling
            if node in dims.computed.nodes and bounds.of(node, index) >= 0:
                continue  # the norm of a weight is positive whatever is drawn, and what it is is seen when it runs
            terms = dims.at((node, index)) or []
            for axis, term in enumerate(terms):
                if any(not leaf.frozen for leaf in dims.forest.leaves(term)):
                    label = f"{node.op_type} {node.name or node_key(node)}"
                    dims.forest.freeze(term, Reason(label, axis, why))


def _risks(node: ir.Node, bounds: _Bounds, before: _Bounds) -> Iterator[tuple[int, str]]:
    """(input, why new channels may leave the op's domain there)."""
    op = node.op_type
    if op in POSITIVE:
        index, does = POSITIVE[op]
        if not _positive(node, index, bounds, before):
            yield index, f"it {does}, which new channels may bring to 0 or below"
    elif op == "Sqrt" and not bounds.of(node, 0) >= 0:
        yield 0, "it takes its root, and new channels may be negative"
    elif op == "Pow":
        exponent = bounds.number(node, 1)
        whole = exponent is not None and exponent.is_integer()
        from_zero = exponent is not None and exponent >= 0
        known = bounds.of(node, 0) >= 0 if from_zero else _positive(node, 0, bounds, before)
        if not (whole and from_zero) and not known:
            yield 0, "it takes a power of it that negative numbers or 0 do not have, as new channels may be"
            if exponent is None:
                yield 1, "it is a power of what may be negative or 0, which new channels may not have"
    elif op == "Acosh" and not bounds.of(node, 0) >= 1:
        yield 0, "new channels may lie below 1, where Acosh has no value"
    elif op in INVERSE and (op == "Atanh" or not bounds.within_one(node)):
        yield 0, f"new channels may lie outside -1 to 1, where {op} has no value"
    elif op == "Mod":
        yield 1, "it divides by it, which new channels may bring to 0"


def _positive(node: ir.Node, index: int, bounds: _Bounds, before: _Bounds) -> bool:
    """Whether new channels keep away from 0, or come no nearer to it than the old ones, on its positive side."""
    least = bounds.of(node, index)
    return least >= SMALLEST or (least > 0 and least >= before.of(node, index))


class _Bounds:
    """Lower bounds of the entries of new channels, or of old ones where they are not ``filled``."""

    def __init__(self, dims: Dimensions, *, filled: bool) -> None:
        self.network = dims.network
        self._shapes = dims.flow.names
        self._filled = filled
        self._known: dict[str, float] = {}
        self._depth = 0

    def of(self, node: ir.Node, index: int) -> float:
        """A number that no entry of an operand lies below; −Inf where there is none."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or not value.name:
            return -math.inf
        tensor = self.network.tensors.get(value.name)
        if tensor is None:
            return self._computed(value.name)
        least = _least(tensor)
        grown = self._filled and math.prod(dims_of(tensor)) > 1
        return min(least, NEUTRAL[node.op_type]) if grown and node.op_type in NEUTRAL else least

    def within_one(self, node: ir.Node) -> bool:
        """Whether what makes the first input gives nothing outside -1 to 1."""
        value = node.inputs[0]
        maker = self.network.producer(value.name or "") if value is not None else None
        return maker is not None and maker.domain in ("", "ai.onnx") and maker.op_type in WITHIN_ONE

    def number(self, node: ir.Node, index: int) -> float | None:
        """The value of an operand of one entry, or of one for each channel whose new entries are neutral."""
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = self.network.tensors.get(value.name or "") if value is not None else None
        if tensor is None:
            return None
        if math.prod(dims_of(tensor)) == 1:
            return float(np.asarray(tensor.numpy()).reshape(-1)[0])
        return NEUTRAL.get(node.op_type)

    def _computed(self, name: str) -> float:
        if name not in self._known:
            self._known[name] = -math.inf  # of what is computed from itself, or from too far away
            node, known = self.network.producer(name), self.network.concrete.values.get(name)
            self._depth += 1
            if known is not None and known.size == 1 and known.dtype.kind in "fiu" and self._fixed(name):
                self._known[name] = float(known.reshape(-1)[0])
            elif node is not None and self._depth <= DEPTH:
                if name == node.outputs[0].name or node.op_type == "Split":
                    self._known[name] = self._made(node)
            elif node is None and known is not None and known.size and known.dtype.kind in "fiu":
                self._known[name] = float(known.min())
            self._depth -= 1
        return self._known[name]

    def _fixed(self, name: str, depth: int = 0) -> bool:
        """Whether a number is made of stored numbers and of shapes, which are kept where they are computed with."""
        tensor, node = self.network.tensors.get(name), self.network.producer(name)
        if tensor is not None:
            return math.prod(dims_of(tensor)) == 1
        if name in self._shapes:
            return True
        names = [v.name or "" for v in node.inputs if v is not None] if node is not None else []
        if node is not None and node.op_type == "CastLike":
            names = names[:1]  # of the other one only the type counts
        return bool(names) and depth < DEPTH and all(self._fixed(n, depth + 1) for n in names)

    def _made(self, node: ir.Node) -> float:
        op = node.op_type
        if node.domain not in ("", "ai.onnx"):
            return -math.inf
        if op in ("Shape", "Size"):
            return 0.0
        if op in _LEAST:
            return _LEAST[op](self, node)
        if op in ALWAYS_POSITIVE:
            return BARELY
        if op in NEVER_NEGATIVE:
            return 0.0 if op != "ThresholdedRelu" or node.attributes.get_float("alpha", 1.0) >= 0 else -math.inf
        if op in NOT_BELOW_MINUS_ONE:
            return -1.0
        return self.of(node, 0) if op in AS_THEIR_INPUT else -math.inf


def _least(tensor: ir.TensorProtocol) -> float:
    if math.prod(dims_of(tensor)) > LIMIT or not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return -math.inf
    values = np.asarray(tensor.numpy()).astype(np.float64)
    least = float(values.min(initial=math.inf))
    return least if math.isfinite(least) else -math.inf


def _all(bounds: _Bounds, node: ir.Node) -> list[float]:
    return [bounds.of(node, i) for i in range(len(node.inputs))]


def _mul(bounds: _Bounds, node: ir.Node) -> float:
    if node.inputs[0] is node.inputs[1]:
        return 0.0
    a, b = _all(bounds, node)
    return a * b if min(a, b) >= 0 else -math.inf


def _quotient(a: float, b: float) -> float:
    return BARELY if min(a, b) > 0 else 0.0 if min(a, b) >= 0 else -math.inf


def _summed(bounds: _Bounds, node: ir.Node) -> float:
    """Sums of what is not negative are no smaller."""
    least = bounds.of(node, 0)
    from_zero = node.attributes.get_int("exclusive", 0)  # then the first sum is that of nothing
    return -math.inf if least < 0 else 0.0 if from_zero else least


def _cast(bounds: _Bounds, node: ir.Node) -> float:
    """Rounding keeps the order, and may lead to 0; whole numbers wrap around."""
    to = ir.DataType(node.attributes.get_int("to", 0))
    with np.errstate(over="ignore"):
        return float(np.float64(bounds.of(node, 0)).astype(to.numpy())) if to in FLOATS else -math.inf


def _pow(bounds: _Bounds, node: ir.Node) -> float:
    exponent, least = bounds.number(node, 1), bounds.of(node, 0)
    if exponent is not None and least >= 0:
        with np.errstate(over="ignore"):
            return float(np.power(least, exponent)) if exponent >= 0 else 0.0
    return 0.0 if exponent is not None and exponent % 2 == 0 and exponent >= 0 else -math.inf


def _clip(bounds: _Bounds, node: ir.Node) -> float:
    low, high = (_number(bounds, node, i, key) for i, key in ((1, "min"), (2, "max")))
    least = bounds.of(node, 0) if low is None else max(bounds.of(node, 0), low)
    return least if high is None else min(least, high)


def _number(bounds: _Bounds, node: ir.Node, index: int, key: str) -> float | None:
    """An operand that older opsets have as an attribute: None where it is left out, −Inf where it is not known."""
    stored = node.attributes.get(key)
    if stored is not None:
        return stored.as_float()
    if index >= len(node.inputs) or node.inputs[index] is None:
        return None
    found = bounds.number(node, index)
    return -math.inf if found is None else found


def _average_pool(bounds: _Bounds, node: ir.Node) -> float:
    """Where zeros of the border count, one entry of a window may be all that is not one of them."""
    least, counts = bounds.of(node, 0), node.attributes.get_int("count_include_pad", 0)
    return least / math.prod(node.attributes.get_ints("kernel_shape", ())) if counts and least > 0 else least


def _pad(bounds: _Bounds, node: ir.Node) -> float:
    if node.attributes.get_string("mode", "constant") != "constant":
        return bounds.of(node, 0)
    return min(bounds.of(node, 0), _number(bounds, node, 2, "value") or 0.0)


_LEAST: dict[str, Callable[[_Bounds, ir.Node], float]] = {
    "Add": lambda bounds, node: sum(_all(bounds, node)),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda bounds, node: min(_all(bounds, node)),
    "CumSum": _summed,
    "Div": lambda bounds, node: _quotient(*_all(bounds, node)),
    "Elu": lambda bounds, node: -abs(node.attributes.get_float("alpha", 1.0)),
    "Max": lambda bounds, node: max(_all(bounds, node)),
    "Min": lambda bounds, node: min(_all(bounds, node)),
    "Mul": _mul,
    "Pad": _pad,
    "Pow": _pow,
    "ReduceSum": _summed,
    "Sqrt": lambda bounds, node: math.sqrt(max(bounds.of(node, 0), 0.0)),
    "Sum": lambda bounds, node: sum(_all(bounds, node)),
    "Where": lambda bounds, node: min(bounds.of(node, 1), bounds.of(node, 2)),
}
