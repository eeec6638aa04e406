"""Is a computed value finite whenever the values it is made from are?

Every value gets a bound |y| ≤ slope · m + offset, where m is the largest of the values it starts from. A slope of up to
2 counts as finite: no network computes with numbers in the last factor of two before overflow. What has no such bound
(the cube of an unbounded value) is not proved to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.values import LIMIT
from onnxgrow.verify.certificate.side import Side, input_name, input_names

__all__ = ["is_finite"]

Bound = tuple[float, float]
UNIT: Bound = (0.0, 1.0)
STEEPEST = 2.0
FARTHEST = 1e4
"""Largest offset that still counts as finite: float16 ends at 65,504."""
DEPTH = 40

BETWEEN_ONES = frozenset(("Erf", "HardSigmoid", "Sigmoid", "Softsign", "Tanh"))
NO_LARGER = frozenset(("Gelu", "HardSwish", "Identity", "Mish", "Relu", "Swish"))


def is_finite(side: Side, name: str, sourced: Callable[[str], bool]) -> bool:
    """Whether a value is finite for all finite values of those that ``sourced`` names."""
    bound = _bound(side, name, sourced, DEPTH)
    return bound is not None and bound[0] <= STEEPEST and bound[1] <= FARTHEST


def _bound(side: Side, name: str, sourced: Callable[[str], bool], depth: int) -> Bound | None:
    reader = side.reader(name)
    if reader is not None:
        if math.prod(reader.shape) > LIMIT:
            return None
        values = np.abs(np.asarray(reader.read(tuple(slice(0, n) for n in reader.shape))).astype(np.float64))
        return (0.0, float(values.max(initial=0.0))) if bool(np.isfinite(values).all()) else None
    if sourced(name):
        return (1.0, 0.0)
    if name not in side.producer or depth == 0:
        return None
    node = side.producer[name][0]
    if side.domain(node) or side.is_function(node):
        return None
    found = [_bound(side, n, sourced, depth - 1) for n in input_names(node) if n]
    bounds = [b for b in found if b is not None]
    if len(bounds) != len(found) or not bounds:
        return None
    return _made(side, node, bounds)


def _made(side: Side, node: ir.Node, bounds: list[Bound]) -> Bound | None:
    """The bound of what a node makes of bounded inputs."""
    slope, offset = bounds[0]
    attribute = node.attributes.get_float
    if node.op_type in BETWEEN_ONES:
        return UNIT if math.isfinite(slope) else None
    if node.op_type in NO_LARGER:
        return slope, offset
    if node.op_type == "LeakyRelu":
        steepness = max(1.0, abs(attribute("alpha", 0.01)))
        return slope * steepness, offset * steepness
    if node.op_type == "Elu":
        return slope, offset + abs(attribute("alpha", 1.0))
    if node.op_type == "Selu":
        gamma = abs(attribute("gamma", 1.0507010221481323))
        return slope * gamma, offset * gamma + gamma * abs(attribute("alpha", 1.6732631921768188))
    if node.op_type == "Softplus":
        return slope, offset + math.log(2.0)
    if node.op_type == "Clip":
        limits = [_number(side, node, i, key) for i, key in ((1, "min"), (2, "max"))]
        kept = [abs(x) for x in limits if x is not None]
        return (0.0, max(kept)) if len(kept) == 2 and all(map(math.isfinite, kept)) else (slope, offset)
    if node.op_type in ("Add", "Sub"):
        return sum(b[0] for b in bounds), sum(b[1] for b in bounds)
    if node.op_type == "Mul" and len(bounds) == 2:
        (m, c), (k, d) = bounds
        return None if m and k else (m * d + k * c, c * d)
    return None


def _number(side: Side, node: ir.Node, index: int, key: str) -> float | None:
    stored = node.attributes.get(key)
    if stored is not None:
        return float(stored.as_float())
    value = side.value(input_name(node, index)) if input_name(node, index) else None
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])
