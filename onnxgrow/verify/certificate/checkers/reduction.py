"""Reductions, ArgMax, TopK and CumSum: nothing may have grown on the axis they run over.

The one exception: a sum over new entries that are all proved zero adds nothing.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Zeros

_SUMS = frozenset(["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
_KEEPS_ZERO = _SUMS | frozenset(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])


def _reduced_axes(pair: Pair, rank: int) -> tuple[int, ...]:
    """The reduced axes, the same in both models."""
    found: list[tuple[int, ...]] = []
    for which, (side, node) in enumerate(((pair.new, pair.node), (pair.old, pair.original))):
        given = pair.ints_attribute("axes")[which]
        name = input_name(node, 1)
        if given is None and name:
            value = side.value(name)
            require(value is not None, "the axes depend on data")
            assert value is not None
            given = tuple(int(i) for i in value.reshape(-1))
        if not given:
            none = side_int(node, "noop_with_empty_axes")
            given = () if none else tuple(range(rank))
        found.append(tuple(sorted(pair.axis(axis, rank) for axis in given)))
    require(found[0] == found[1], f"axes {found[1]} became {found[0]}")
    return found[0]


def side_int(node: object, name: str) -> int:
    """An integer attribute of one node, 0 where absent."""
    attr = getattr(node, "attributes", {}).get(name)
    return 0 if attr is None else int(attr.as_int())


@register(
    *sorted(_KEEPS_ZERO),
    "ReduceLogSum",
    "ReduceLogSumExp",
)
def check_reduce(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    reduced = _reduced_axes(pair, rank)
    keep = pair.same_int_attribute("keepdims", 1)
    for axis in reduced:
        if x.axes[axis].identity:
            continue
        require(pair.node.op_type in _SUMS, f"axis {axis}, which it reduces, grew")
        open_entries = x.axes[axis].new & ~x.zero(axis)
        require(not open_entries.any(), f"axis {axis}, which it sums, grew by entries that are not proved zero")
    kept = [axis for axis in range(rank) if keep or axis not in reduced]
    require(len(claim.axes) == len(kept), "the rank of the output does not follow from its input's")
    for to, axis in enumerate(kept):
        if axis in reduced:
            require(claim.axes[to].identity and claim.axes[to].size == 1, f"axis {to} of the output grew")
        else:
            agree(x.axes[axis], claim.axes[to], f"axis {axis}")

    def zeros() -> Zeros:
        if pair.node.op_type not in _KEEPS_ZERO:
            return {}
        if x.all_zero:
            return {to: np.ones(claim.axes[to].size, np.bool_) for to in range(len(kept))}
        return {to: x.zeros[axis] for to, axis in enumerate(kept) if axis in x.zeros and axis not in reduced}

    pair.zeros[0] = zeros


@register("ArgMax", "ArgMin")
def check_arg(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    axis = pair.axis(pair.same_int_attribute("axis", 0), rank)
    require(x.axes[axis].identity, f"axis {axis}, which it searches, grew")
    kept = [k for k in range(rank) if k != axis or pair.same_int_attribute("keepdims", 1)]
    require(len(kept) == len(claim.axes), "the rank of the output does not follow from its input's")
    for to, number in enumerate(kept):
        if number != axis:
            agree(x.axes[number], claim.axes[to], f"axis {number}")
        else:
            require(claim.axes[to].identity, f"axis {to} of the output grew")


@register("TopK")
def check_top_k(pair: Pair) -> None:
    pair.same_attributes()
    x = pair.input(0)
    if pair.has(1):
        require(pair.input(1).identity, "k grew")
    axis = pair.axis(pair.same_int_attribute("axis", -1), len(x.axes))
    require(x.axes[axis].identity, f"axis {axis}, which it searches, grew")
    for claim in pair.claims.values():
        require(len(claim.axes) == len(x.axes) and claim.axes[axis].identity, "the output's searched axis grew")
        for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
            if number != axis:
                agree(a, b, f"axis {number}")


@register("CumSum", "CumProd")
def check_cum_sum(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    new, old = pair.known(1)
    require(new.size == old.size == 1, "the axis is no scalar")
    axis = pair.axis(int(new.reshape(-1)[0]), len(x.axes))
    require(axis == pair.axis(int(old.reshape(-1)[0]), len(x.axes)), "the axis differs")
    require(x.axes[axis].identity, f"axis {axis}, which it sums along, grew")
    require(len(x.axes) == len(claim.axes), "the ranks differ")
    for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
        agree(a, b, f"axis {number}")
    pair.zeros[0] = lambda: {n: mask for n, mask in x.zeros.items() if n != axis}
