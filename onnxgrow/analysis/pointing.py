"""Indices that are computed channel by channel: those of new channels could point outside what they look up.

ONNX gives an index outside its axis no meaning, and ONNX Runtime stops there: then a network that ran runs no more.
What the old channels learned keeps only them inside; new ones are kept by what the operators in front guarantee, as a
Clip, an ArgMax or a whole remainder does. Spec: https://onnx.ai/onnx/operators/onnx__Gather.html and its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis.network import Network

__all__ = ["AS_THEIR_INPUT", "points_outside"]

Interval = tuple[float, float]
ANYTHING: Interval = (-math.inf, math.inf)
DEPTH = 64
"""Number of operators that are looked back."""

POINTERS = dict.fromkeys(("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"), 1)
"""Op → its input of indices; those of all of them point into the first input."""
AS_THEIR_INPUT = frozenset(
    "DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalAveragePool "
    "GlobalMaxPool Identity MaxPool ReduceMax ReduceMean ReduceMin Reshape Slice SpaceToDepth Split Squeeze Tile "
    "Transpose Unsqueeze".split()
)
"""Ops whose first output (Split: any) has entries, or means of entries, of the first input."""
ROUNDS = frozenset(("Ceil", "Floor", "Round"))
UNITS: dict[str, Interval] = {
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Cos", "Erf", "Sign", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
}


def points_outside(network: Network, node: ir.Node) -> int | None:
    """The input of a node whose new entries may point outside what it looks up; None where there is none."""
    index = POINTERS.get(node.op_type)
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    if index is None or value is None or value.name in network.derived:
        return None
    size = _least_size(network, node)
    low, high = _Intervals(network).of(node, index)
    return None if size is not None and -size <= low and high < size else index


def _least_size(network: Network, node: ir.Node) -> int | None:
    """The size of the axis that is looked up, the smallest one of several."""
    shape, tuples = (_shape(network, node, i) for i in (0, 1))
    if shape is None or tuples is None:
        return None
    if not node.op_type.endswith("ND"):
        return shape[node.attributes.get_int("axis", 0)]
    first = node.attributes.get_int("batch_dims", 0)
    return min(shape[first : first + tuples[-1]], default=None)


def _shape(network: Network, node: ir.Node, index: int) -> tuple[int, ...] | None:
    value = node.inputs[index]
    return network.concrete.shapes.get(value.name or "") if value is not None else None


class _Intervals:
    """What entries of values lie between, new ones included."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._known: dict[str, Interval] = {}
        self._depth = 0

    def of(self, node: ir.Node, index: int) -> Interval:
        """The interval of an operand."""
        value = node.inputs[index] if index < len(node.inputs) else None
        name = value.name if value is not None else None
        if not name:
            return ANYTHING
        if name not in self._known:
            self._known[name] = ANYTHING  # of what is computed from itself, or from too far away
            self._depth += 1
            self._known[name] = self._found(name)
            self._depth -= 1
        return self._known[name]

    def _found(self, name: str) -> Interval:
        if name in self.network.tensors or name in self.network.derived:
            return self._known_numbers(name)
        node = self.network.producer(name)
        if node is None or node.domain not in ("", "ai.onnx") or self._depth > DEPTH:
            return ANYTHING
        op, first = node.op_type, name == node.outputs[0].name
        if op == "TopK" and not first:
            return self._places(node, -1)
        if not first and op != "Split":
            return ANYTHING
        low, high = self._made(node)
        return ANYTHING if math.isnan(low) or math.isnan(high) else (low, high)

    def _known_numbers(self, name: str) -> Interval:
        known = self.network.concrete.values.get(name)
        if known is None or known.dtype.kind not in "fiub" or not known.size:
            return ANYTHING
        # Where it grows it is filled with 0 or 1, which leave sums and products as they are.
        filling = [0.0, 1.0] if known.size > 1 else []
        values = np.append(known.astype(np.float64).reshape(-1), filling)
        return float(values.min()), float(values.max())

    def _made(self, node: ir.Node) -> Interval:
        op = node.op_type
        if op in UNITS:
            return UNITS[op]
        if op in ROUNDS:
            low, high = self.of(node, 0)
            return _rounded(low, high)
        if op in AS_THEIR_INPUT:
            return self.of(node, 0)
        return _MADE[op](self, node) if op in _MADE else ANYTHING

    def _places(self, node: ir.Node, default: int) -> Interval:
        """Of indices along an axis of the first input."""
        shape = _shape(self.network, node, 0)
        return ANYTHING if shape is None else (0.0, float(shape[node.attributes.get_int("axis", default)] - 1))

    def _cast(self, node: ir.Node) -> Interval:
        value, to = node.inputs[0], ir.DataType(node.attributes.get_int("to", 0))
        if value is not None and self.network.concrete.dtypes.get(value.name or "") == ir.DataType.BOOL:
            return 0.0, 1.0
        low, high = self.of(node, 0)
        if to.is_floating_point():
            return low, high
        if not (math.isfinite(low) and math.isfinite(high)):
            return ANYTHING
        low, high = math.trunc(low), math.trunc(high)
        kind = to.numpy()
        fits = to.is_integer() and np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
        return (low, high) if fits else ANYTHING  # whole numbers wrap around

    def _remainder(self, node: ir.Node) -> Interval:
        low, high = self.of(node, 1)
        whole = not node.attributes.get_int("fmod", 0)
        return (0.0, high - 1) if whole and low == high > 0 else ANYTHING

    def _clip(self, node: ir.Node) -> Interval:
        low, high = self.of(node, 0)
        for index, key in ((1, "min"), (2, "max")):
            stored = node.attributes.get(key)
            given = index < len(node.inputs) and node.inputs[index] is not None
            if stored is None and not given:
                continue
            least, most = (stored.as_float(),) * 2 if stored is not None else self.of(node, index)
            pick = max if key == "min" else min
            low, high = pick(low, least), pick(high, most)
        return low, high


def _rounded(low: float, high: float) -> Interval:
    """The whole numbers around; what is no whole number may have been rounded up to one, too."""
    return (math.floor(low) if math.isfinite(low) else low), (math.ceil(high) if math.isfinite(high) else high)


def _all(of: _Intervals, node: ir.Node) -> tuple[list[float], list[float]]:
    parts = [of.of(node, i) for i in range(len(node.inputs))]
    return [low for low, _ in parts], [high for _, high in parts]


def _hull(of: _Intervals, node: ir.Node, start: int = 0) -> Interval:
    lows, highs = _all(of, node)
    return min(lows[start:]), max(highs[start:])


def _added(of: _Intervals, node: ir.Node) -> Interval:
    lows, highs = _all(of, node)
    return _rounded(sum(lows), sum(highs))


def _less(of: _Intervals, node: ir.Node) -> Interval:
    (a, c), (b, d) = _all(of, node)
    return _rounded(a - d, b - c)


def _times(of: _Intervals, node: ir.Node) -> Interval:
    (a, c), (b, d) = _all(of, node)
    products = [x * y for x in (a, b) for y in (c, d)]
    return ANYTHING if any(map(math.isnan, products)) else _rounded(min(products), max(products))


def _largest(of: _Intervals, node: ir.Node) -> Interval:
    lows, highs = _all(of, node)
    return max(lows), max(highs)


def _smallest(of: _Intervals, node: ir.Node) -> Interval:
    lows, highs = _all(of, node)
    return min(lows), min(highs)


def _magnitude(of: _Intervals, node: ir.Node) -> Interval:
    low, high = of.of(node, 0)
    return max(low, 0.0, -high), max(-low, high)


_MADE: dict[str, Callable[[_Intervals, ir.Node], Interval]] = {
    "Abs": _magnitude,
    "Add": _added,
    "ArgMax": lambda of, node: of._places(node, 0),
    "ArgMin": lambda of, node: of._places(node, 0),
    "Cast": _Intervals._cast,
    "Clip": _Intervals._clip,
    "Concat": _hull,
    "Max": _largest,
    "Min": _smallest,
    "Mod": _Intervals._remainder,
    "Mul": _times,
    "Relu": lambda of, node: (max(of.of(node, 0)[0], 0.0), max(of.of(node, 0)[1], 0.0)),
    "Sub": _less,
    "Where": lambda of, node: _hull(of, node, 1),
}
