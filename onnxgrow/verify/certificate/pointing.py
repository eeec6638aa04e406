"""Do new indices stay inside what they look up? ONNX Runtime stops at one outside, whatever is made of the result.

Indices that are computed are judged by the operators that make them, never by what samples show.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.side import Side, input_name, input_names

__all__ = ["POINTERS", "require_inside"]

LOOK_BACK = 64
"""Operators that are followed back."""
POINTERS = frozenset(("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"))
"""Ops whose second input points into their first."""

BETWEEN = {
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Cos", "Erf", "Sign", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
}
MOVES = frozenset(
    "DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalAveragePool GlobalMaxPool Identity "
    "MaxPool ReduceMax ReduceMean ReduceMin Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Ops whose entries lie between those of their first input."""


class _UnknownError(Exception):
    """Nothing bounds a value."""


def require_inside(pair: Pair) -> None:
    """Require that computed indices lie in the axes they look up. Raises ProofError."""
    node, side = pair.node, pair.new
    name = input_name(node, 1)
    shape, tuples = side.shape(input_name(node, 0)), side.shape(name)
    require(shape is not None and tuples is not None, f"the shapes that {node.op_type} reads are not known")
    assert shape is not None
    assert tuples is not None
    if node.op_type.endswith("ND"):
        first = node.attributes.get_int("batch_dims", 0)
        size = min(shape[first : first + tuples[-1]], default=0)
    else:
        size = shape[node.attributes.get_int("axis", 0)]
    try:
        low, high = _between(side, name)
    except _UnknownError:
        low, high = -math.inf, math.inf
    inside = -size <= low and high < size
    require(
        inside, f"{node.op_type} may have no number for new entries of {name}: nothing keeps them in 0 to {size - 1}"
    )


def _between(side: Side, name: str, depth: int = 0) -> tuple[float, float]:
    """What every entry of a value lies between. Raises _UnknownError where nothing is known of it."""
    value = side.value(name) if name else None
    if value is not None and value.dtype.kind in "fiub" and value.size:
        numbers = value.astype(np.float64)
        return float(numbers.min()), float(numbers.max())
    node, output = side.producer.get(name, (None, 0))
    if node is None or side.domain(node) or side.is_function(node) or depth == LOOK_BACK:
        raise _UnknownError
    op = node.op_type
    if (output and op != "Split") and (op, output) != ("TopK", 1):
        raise _UnknownError
    if op in BETWEEN:
        return BETWEEN[op]
    if op in ("ArgMax", "ArgMin", "TopK"):
        return _place(side, node, output)
    if op == "Cast" and side.concrete.dtypes.get(input_name(node, 0)) == ir.DataType.BOOL:
        return 0.0, 1.0
    if op in ("Clip", "Max", "Min", "Mod"):
        return _limited(side, node, depth)
    first = 1 if op == "Where" else 0
    count = 1 if op in MOVES or op in ("Cast", "Ceil", "Floor", "Round") else None
    read = [_between(side, n, depth + 1) for n in input_names(node)[first:][:count]]
    low, high = min(p[0] for p in read), max(p[1] for p in read)
    if op in MOVES or op in ("Concat", "Where"):
        return low, high
    if op == "Cast":
        return _cast(node, low, high)
    if op in ("Ceil", "Floor", "Round"):
        return _around(low, high)
    if op == "Relu":
        return max(low, 0.0), max(high, 0.0)
    if op == "Abs":
        return 0.0, max(abs(low), abs(high))
    if op == "Add":
        return _around(sum(p[0] for p in read), sum(p[1] for p in read))
    if op == "Sub":
        return _around(read[0][0] - read[1][1], read[0][1] - read[1][0])
    if op == "Mul":
        products = [a * b for a in read[0] for b in read[1]]
        return _around(min(products), max(products))
    raise _UnknownError


def _around(low: float, high: float) -> tuple[float, float]:
    """The whole numbers around: a sum just below one may be rounded up to it."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _UnknownError
    return math.floor(low), math.ceil(high)


def _place(side: Side, node: ir.Node, output: int) -> tuple[float, float]:
    """Of places along an axis."""
    shape = side.shape(input_name(node, 0))
    if shape is None or (node.op_type == "TopK" and not output):
        raise _UnknownError
    return 0.0, float(shape[node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0)] - 1)


def _limited(side: Side, node: ir.Node, depth: int) -> tuple[float, float]:
    """Of what other operands limit: one of them is enough for each side."""
    op, names = node.op_type, input_names(node)
    ends: list[tuple[float, float]] = []
    for name in names:
        try:
            ends.append(_between(side, name, depth + 1) if name else (math.nan, math.nan))
        except _UnknownError:
            ends.append((-math.inf, math.inf))
    if op == "Mod":
        if node.attributes.get_int("fmod", 0) or not ends[1][0] == ends[1][1] > 0:
            raise _UnknownError
        return 0.0, ends[1][1] - 1
    if op in ("Max", "Min"):
        pick = max if op == "Max" else min
        return pick(low for low, _ in ends), pick(high for _, high in ends)
    low, high = ends[0]
    for index, key, pick in ((1, "min", max), (2, "max", min)):
        stored = node.attributes.get(key)
        least, most = ends[index] if index < len(ends) else (math.nan, math.nan)
        if stored is not None:
            least = most = stored.as_float()
        if not math.isnan(least):
            low, high = pick(low, least), pick(high, most)
    return low, high


def _cast(node: ir.Node, low: float, high: float) -> tuple[float, float]:
    to = ir.DataType(node.attributes.get_int("to", 0))
    if to.is_floating_point():
        return low, high
    if not (to.is_integer() and math.isfinite(low) and math.isfinite(high)):
        raise _UnknownError
    limits = np.iinfo(to.numpy())
    if not limits.min <= low <= high <= limits.max:
        raise _UnknownError  # it wraps around
    return math.trunc(low), math.trunc(high)
