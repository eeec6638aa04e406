"""Ranges of computed values: can a branch make an infinity, or no number at all, of finite values?

A branch that ends in a layer of zeros gives zeros only where what that layer reads is finite. Every value gets an
interval that holds it whenever the values of the original are finite and no larger than ``REACH``: norms bound what
they give by the square root of their width, a softmax by 1 whatever masks it reads, a linear layer by the sums of its
weights' magnitudes. What has no interval (a quotient by what may be 0, a logarithm, an unknown operator) is not proved.
The intervals end far from where float32 does; float16 overflows earlier, which the certificate's assumptions name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.blocks import blocks
from onnxgrow.verify.certificate.readers import Reader
from onnxgrow.verify.certificate.side import Side, input_name, input_names

__all__ = ["REACH", "Range", "Ranges"]

Range = tuple[float, float]
REACH = 2.0**16
"""Magnitude that values of the original are taken to stay below."""
LIMIT = 2.0**120
SMALLEST = 1e-30
"""Least magnitude of a divisor."""
STEEPEST = 80.0
"""Largest exponent of e."""
DEPTH = 400

MOVES = frozenset(
    "DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalAveragePool GlobalMaxPool Identity "
    "MaxPool ReduceMax ReduceMean ReduceMin Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Ops whose entries lie between those of their first input."""
ALL_OUTPUTS = frozenset(("Split",))
WITH_ZERO = frozenset(("AveragePool", "Trilu"))
UNITS: dict[str, Range] = {
    **dict.fromkeys(("Cos", "Erf", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
    **dict.fromkeys(("HardSigmoid", "Sigmoid"), (0.0, 1.0)),
}
NO_LARGER = frozenset(("FastGelu", "Gelu", "HardSwish", "Mish", "QuickGelu", "Swish"))
NORMS = frozenset(
    "GroupNormalization InstanceNormalization LayerNormalization RMSNormalization SimplifiedLayerNormalization".split()
)
MICROSOFT = frozenset(("FastGelu", "Gelu", "QuickGelu"))


class _Unbounded(Exception):
    """There is no interval."""


class Ranges:
    """The intervals of one model's values.

    Args:
        side: The model.
        sourced: Tells values that the model had before.
    """

    def __init__(self, side: Side, sourced: Callable[[str], bool]) -> None:
        self.side, self._sourced = side, sourced
        self._known: dict[str, Range | None] = {}
        self._depth = 0

    def of(self, name: str) -> Range | None:
        """The interval of a value; its lower end may be −Inf. None where there is none."""
        if name not in self._known:
            self._known[name] = None  # also what a value is that is computed from itself, or from too far
            self._depth += 1
            try:
                if self._depth <= DEPTH:
                    self._known[name] = self._found(name)
            except (_Unbounded, OverflowError):
                pass
            finally:
                self._depth -= 1
        return self._known[name]

    def finite(self, name: str) -> bool:
        """Whether a value is proved to be finite."""
        found = self.of(name)
        return found is not None and found[0] >= -LIMIT and found[1] <= LIMIT

    def _found(self, name: str) -> Range:
        reader = self.side.reader(name)
        if reader is not None:
            low, high = _stored(reader)
            if math.isinf(low) and not self._sourced(name):
                raise _Unbounded  # a mask that the original does not have may mask whole rows, where softmax fails
            return low, high
        if self._sourced(name):
            return -REACH, REACH
        if name not in self.side.producer:
            raise _Unbounded
        node, output = self.side.producer[name]
        domain = self.side.domain(node)
        known = not domain or (domain == "com.microsoft" and node.op_type in MICROSOFT)
        if self.side.is_function(node) or not known or (output and node.op_type not in ALL_OUTPUTS):
            raise _Unbounded
        low, high = self._made(node, name)
        if math.isnan(low) or math.isnan(high):
            raise _Unbounded
        return low, high

    def _input(self, node: ir.Node, index: int) -> Range:
        name = input_name(node, index)
        found = self.of(name) if name else None
        if found is None:
            raise _Unbounded
        return found

    def _size(self, node: ir.Node, index: int) -> float:
        """Largest magnitude of an input; 0 where it is absent."""
        if not input_name(node, index):
            return 0.0
        size = max(map(abs, self._input(node, index)))
        if not size <= LIMIT:
            raise _Unbounded
        return size

    def _made(self, node: ir.Node, name: str) -> Range:
        op = node.op_type
        if op in MOVES:
            return self._input(node, 0)
        if op in WITH_ZERO:
            return _hull([self._input(node, 0), (0.0, 0.0)])
        if op in _MOST:
            return _MOST[op](self, node)
        if op in UNITS:
            self._size(node, 0)
            return UNITS[op]
        if op in NO_LARGER:
            return _around(self._size(node, 0) + self._size(node, 1))
        if op in NORMS:
            return self._norm(node)
        if op in ("ReduceL2", "ReduceSum", "ReduceSumSquare"):
            return self._summed(node, name)
        raise _Unbounded

    def _norm(self, node: ir.Node) -> Range:
        """A normalised vector of n entries has none larger than √n, if a positive number is added to its variance."""
        self._size(node, 0)
        shape = self.side.shape(input_name(node, 0))
        if shape is None or not node.attributes.get_float("epsilon", 1e-5) > 0:
            raise _Unbounded
        axis = node.attributes.get_int("axis", -1) if node.op_type.endswith("LayerNormalization") else 1
        if node.op_type == "RMSNormalization":
            axis = node.attributes.get_int("axis", -1)
        return _around(math.sqrt(math.prod(shape[axis:])) * self._size(node, 1) + self._size(node, 2))

    def _summed(self, node: ir.Node, name: str) -> Range:
        before, after = self.side.shape(input_name(node, 0)), self.side.shape(name)
        if before is None or after is None:
            raise _Unbounded
        count, size = math.prod(before) / max(1, math.prod(after)), self._size(node, 0)
        if node.op_type == "ReduceSum":
            return _around(count * size)
        return 0.0, count * size * size if node.op_type == "ReduceSumSquare" else math.sqrt(count) * size

    def _gain(self, node: ir.Node, index: int, axes: Sequence[int], count: int) -> float:
        """Largest sum of magnitudes over some axes of a weight; of one that is computed, a bound on it."""
        reader = self.side.reader(input_name(node, index))
        if reader is None:
            return count * self._size(node, index)
        self._size(node, index)
        kept = tuple(a for a in range(len(reader.shape)) if a not in {b % len(reader.shape) for b in axes})
        total = np.zeros([reader.shape[a] for a in kept])
        for block in blocks(reader.shape, reader.dtype.itemsize):
            part = np.abs(reader.read(block).astype(np.float64))
            total[tuple(block[a] for a in kept)] += part.sum(tuple(a for a in range(part.ndim) if a not in kept))
        return float(total.max(initial=0.0))


def _stored(reader: Reader) -> Range:
    if reader.dtype.kind in "OSU":
        raise _Unbounded
    low, high = math.inf, -math.inf
    for block in blocks(reader.shape, reader.dtype.itemsize) if reader.shape else [()]:
        part = np.asarray(reader.read(block)).astype(np.float64)
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    return (low, high) if low <= high else (0.0, 0.0) if math.isinf(low) and low > 0 else (math.nan, math.nan)


def _around(size: float) -> Range:
    return -size, size


def _hull(parts: Sequence[Range]) -> Range:
    if any(math.isnan(x) for part in parts for x in part):
        raise _Unbounded
    return min(p[0] for p in parts), max(p[1] for p in parts)


def _sum(of: Ranges, node: ir.Node) -> Range:
    parts = [of._input(node, i) for i in range(len(node.inputs))]
    if any(high > LIMIT for _, high in parts):
        raise _Unbounded
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def _sub(of: Ranges, node: ir.Node) -> Range:
    (a, b), size = of._input(node, 0), of._size(node, 1)
    low, high = of._input(node, 1)
    return (a - high, b - low) if size <= LIMIT else (math.nan, math.nan)


def _mul(of: Ranges, node: ir.Node) -> Range:
    a, b = of._size(node, 0), of._size(node, 1)
    if input_name(node, 0) == input_name(node, 1):
        return 0.0, a * b
    products = [x * y for x in of._input(node, 0) for y in of._input(node, 1)]
    return min(products), max(products)


def _div(of: Ranges, node: ir.Node) -> Range:
    size, (low, high) = of._size(node, 0), of._input(node, 1)
    least = low if low > 0 else -high
    if not least >= SMALLEST:
        raise _Unbounded
    positive = of._input(node, 0)[0] >= 0 and low > 0
    return (0.0 if positive else -size / least), size / least


def _reciprocal(of: Ranges, node: ir.Node) -> Range:
    low, high = of._input(node, 0)
    if not low >= SMALLEST:
        raise _Unbounded
    return (1 / high if high > 0 else 0.0), 1 / low


def _sqrt(of: Ranges, node: ir.Node) -> Range:
    low, high = of._input(node, 0)
    of._size(node, 0)
    if low < 0:
        raise _Unbounded
    return math.sqrt(low), math.sqrt(high)


def _pow(of: Ranges, node: ir.Node) -> Range:
    power = of.side.value(input_name(node, 1))
    if power is None or power.size != 1:
        raise _Unbounded
    exponent, size = float(power.reshape(-1)[0]), of._size(node, 0)
    low, high = of._input(node, 0)
    if exponent > 0 and exponent.is_integer():
        return (0.0, size**exponent) if exponent % 2 == 0 else (low**exponent, high**exponent)
    if exponent == 0.5 and low >= 0:
        return math.sqrt(low), math.sqrt(high)
    if exponent in (-0.5, -1.0) and low >= SMALLEST:
        return high**exponent, low**exponent
    raise _Unbounded


def _exp(of: Ranges, node: ir.Node) -> Range:
    low, high = of._input(node, 0)
    if high > STEEPEST:
        raise _Unbounded
    return math.exp(low), math.exp(high)


def _relu(of: Ranges, node: ir.Node) -> Range:
    low, high = of._input(node, 0)
    return max(low, 0.0), max(high, 0.0)


def _scaled(name: str, default: float) -> Callable[[Ranges, ir.Node], Range]:
    return lambda of, node: _around(of._size(node, 0) * max(1.0, abs(node.attributes.get_float(name, default))))


def _bent(of: Ranges, node: ir.Node) -> Range:
    """Elu, Celu and Selu: no larger than their input times gamma, or alpha times gamma."""
    alpha = abs(node.attributes.get_float("alpha", 1.6732631921768188 if node.op_type == "Selu" else 1.0))
    gamma = abs(node.attributes.get_float("gamma", 1.0507010221481323)) if node.op_type == "Selu" else 1.0
    return _around(gamma * max(of._size(node, 0), alpha))


def _clip(of: Ranges, node: ir.Node) -> Range:
    limits = []
    for index, key in ((1, "min"), (2, "max")):
        attribute, name = node.attributes.get(key), input_name(node, index)
        value = of.side.value(name) if name else None
        if name and (value is None or value.size != 1):
            raise _Unbounded
        limits.append(attribute.as_float() if attribute else float(value.reshape(-1)[0]) if value is not None else None)
    low, high = of._input(node, 0)
    least, most = limits
    low, high = (low, high) if least is None else (max(low, least), max(high, least))
    return (low, high) if most is None else (min(low, most), min(high, most))


def _pad(of: Ranges, node: ir.Node) -> Range:
    filling = of._input(node, 2) if input_name(node, 2) else _around(abs(node.attributes.get_float("value", 0.0)))
    return _hull([of._input(node, 0), filling])


def _cast(of: Ranges, node: ir.Node) -> Range:
    if not ir.DataType(node.attributes.get_int("to", 0)).is_floating_point():
        raise _Unbounded
    name = input_name(node, 0)
    if of.of(name) is None and of.side.concrete.dtypes.get(name) == ir.DataType.BOOL:
        return 0.0, 1.0
    return of._input(node, 0)


def _matmul(of: Ranges, node: ir.Node) -> Range:
    shape = of.side.shape(input_name(node, 0))
    if not shape:
        raise _Unbounded
    if of.side.reader(input_name(node, 0)) is not None:
        return _around(of._gain(node, 0, [-1], shape[-1]) * of._size(node, 1))
    other = of.side.shape(input_name(node, 1))
    return _around(of._size(node, 0) * of._gain(node, 1, [-2 if other and len(other) > 1 else -1], shape[-1]))


def _gemm(of: Ranges, node: ir.Node) -> Range:
    shape = of.side.shape(input_name(node, 0))
    if shape is None:
        raise _Unbounded
    alpha, beta = (abs(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
    count = shape[0 if node.attributes.get_int("transA", 0) else -1]
    gain = of._gain(node, 1, [1 if node.attributes.get_int("transB", 0) else 0], count)
    return _around(alpha * gain * of._size(node, 0) + beta * of._size(node, 2))


def _conv(of: Ranges, node: ir.Node) -> Range:
    shape = of.side.shape(input_name(node, 1))
    if shape is None:
        raise _Unbounded
    across = 0 if node.op_type == "ConvTranspose" else 1
    axes = [across, *range(2, len(shape))]
    gain = of._gain(node, 1, axes, math.prod(shape[a] for a in axes))
    return _around(gain * of._size(node, 0) + of._size(node, 2))


def _batch_norm(of: Ranges, node: ir.Node) -> Range:
    variance = of._input(node, 4)[0] + node.attributes.get_float("epsilon", 1e-5)
    if node.attributes.get_int("training_mode", 0) or not variance >= SMALLEST:
        raise _Unbounded
    centred = of._size(node, 0) + of._size(node, 3)
    return _around(centred / math.sqrt(variance) * of._size(node, 1) + of._size(node, 2))


def _softmax(of: Ranges, node: ir.Node) -> Range:
    if of._input(node, 0)[1] > LIMIT:
        raise _Unbounded
    return 0.0, 1.0


def _attention(of: Ranges, node: ir.Node) -> Range:
    """Averages of its values; with a cache it reads more than that."""
    if any(input_names(node)[4:]):
        raise _Unbounded
    of._size(node, 0)
    of._size(node, 1)
    return _around(of._size(node, 2))


_MOST: dict[str, Callable[[Ranges, ir.Node], Range]] = {
    "Abs": lambda of, node: (0.0, of._size(node, 0)),
    "Add": _sum,
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": _bent,
    "Clip": _clip,
    "Concat": lambda of, node: _hull([of._input(node, i) for i in range(len(node.inputs))]),
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Div": _div,
    "Elu": _bent,
    "Exp": _exp,
    "Gemm": _gemm,
    "LeakyRelu": _scaled("alpha", 0.01),
    "MatMul": _matmul,
    "Max": lambda of, node: _extreme(of, node, max),
    "Min": lambda of, node: _extreme(of, node, min),
    "Mul": _mul,
    "Neg": lambda of, node: _around(of._size(node, 0)),
    "PRelu": lambda of, node: _around(of._size(node, 0) * max(1.0, of._size(node, 1))),
    "Pad": _pad,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Selu": _bent,
    "Softmax": _softmax,
    "Softplus": lambda of, node: (0.0, of._size(node, 0) + 1.0),
    "Sqrt": _sqrt,
    "Sub": _sub,
    "Sum": _sum,
    "Where": lambda of, node: _hull([of._input(node, 1), of._input(node, 2)]),
}


def _extreme(of: Ranges, node: ir.Node, pick: Callable[[list[float]], float]) -> Range:
    parts = [of._input(node, i) for i in range(len(node.inputs))]
    return pick([p[0] for p in parts]), pick([p[1] for p in parts])
