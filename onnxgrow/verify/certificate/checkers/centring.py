"""Constants whose new entries are the mean of their old ones over several axes, and what takes that mean away.

Judged on the numbers that are stored: what a weight is computed from does not depend on data.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_ir as ir

from onnxgrow.verify.certificate.pair import Pair
from onnxgrow.verify.certificate.patterns import Pattern, follows
from onnxgrow.verify.certificate.side import Side, input_name
from onnxgrow.verify.certificate.state import Proved

__all__ = ["holds_means", "own_mean"]

_LAID = ("Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Ops behind which a mean is still laid out in the order of the axes that are left."""


def holds_means(pair: Pair, state: Proved, axis: int, reduced: Collection[int]) -> bool:
    """Whether the first input is a constant whose new entries along ``axis`` are the mean of its old ones over all of
    ``reduced``, the only axis of them that grew; for every index of the other axes.

    Args:
        state: Its proved state.
    """
    reader, grown = pair.reader(0), state.axes[axis]
    if reader is None or input_name(pair.node, 0) not in pair.new.static or reader.dtype.kind not in "fV":
        return False
    others = tuple(k for k in sorted(reduced) if k != axis and reader.shape[k] != 1)
    alone = all(state.axes[k].identity for k in others)
    return alone and follows(reader, axis, Pattern.mean(grown, grown.new, over=others))


def own_mean(side: Side, x: str, y: str, *, channel: int | None = None) -> frozenset[int] | None:
    """The axes of ``x`` of more than one entry over which ``y`` is its mean, laid where ``y`` is taken from ``x``.

    Only what is written as a mean, or as a sum divided by its number of terms; None otherwise.

    Args:
        side: The model.
        x, y: Values of it.
        channel: The only axis that is left, where ``y`` is a vector along it; else it is laid over ``x`` by its shape.
    """
    shape, laid = side.shape(x), side.shape(y)
    node, terms = _reduction(side, y)
    if node is None or shape is None or laid is None or input_name(node, 0) != x:
        return None
    axes = _axes(side, node, len(shape))
    if axes is None or (terms is not None and terms != math.prod(shape[a] for a in axes)):
        return None
    over = frozenset(a for a in axes if shape[a] != 1)
    if channel is not None:
        whole = over == {a for a, n in enumerate(shape) if a != channel and n != 1}
        return over if whole and channel not in axes and laid == (shape[channel],) else None
    aligned = (*[1] * (len(shape) - len(laid)), *laid)
    return over if aligned == tuple(1 if a in axes else n for a, n in enumerate(shape)) else None


def _reduction(side: Side, name: str) -> tuple[ir.Node | None, float | None]:
    """The ReduceMean that makes a value; or the ReduceSum, and what its sum is divided by."""
    terms: float | None = None
    while True:
        node = side.producer[name][0] if name in side.producer else None
        if node is None or side.domain(node) or side.is_function(node):
            return None, None
        if node.op_type == ("ReduceMean" if terms is None else "ReduceSum"):
            return node, terms
        if node.op_type == "Div" and terms is None:
            divisor = side.value(input_name(node, 1))
            if divisor is None or divisor.size != 1:
                return None, None
            terms = float(divisor.reshape(-1)[0])
        elif node.op_type not in _LAID:
            return None, None
        name = input_name(node, 0)


def _axes(side: Side, node: ir.Node, rank: int) -> frozenset[int] | None:
    given = node.attributes.get("axes")
    if given is not None:
        return frozenset(a % rank for a in given.as_ints())
    value = side.value(input_name(node, 1)) if input_name(node, 1) else None
    if value is None or not value.size:
        return None
    return frozenset(int(a) % rank for a in value.reshape(-1))
