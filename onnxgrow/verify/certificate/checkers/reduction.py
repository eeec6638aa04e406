"""Reductions, ArgMax, TopK and CumSum: nothing may have grown on the axis they run over.

The exceptions: a sum over new entries that are all proved zero adds nothing; and means, sums and norms change by a
known factor where the new entries are zeros, the mean of the old ones, or copies of them.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from onnxgrow.verify.certificate.checkers.centring import holds_means
from onnxgrow.verify.certificate.checkers.common import agree, repeated
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Proved, Zeros

_SUMS = frozenset(["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
# Exponent of (new size / old size) in the square of the factor, where every old entry comes equally often.
_REPEATED = {
    "ReduceL1": 2,
    "ReduceL2": 1,
    "ReduceMax": 0,
    "ReduceMean": 0,
    "ReduceMin": 0,
    "ReduceSum": 2,
    "ReduceSumSquare": 2,
}
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


def _over_grown(op: str, x: Proved, axis: int) -> Fraction:
    """Square of the factor that a reduction over a grown axis brings. Raises ProofError where it changes more.

    New entries may be zeros, the mean of the old ones, or copies of them, each equally often.
    """
    grown = x.axes[axis]
    ratio = Fraction(grown.old_size, grown.size)
    if not (grown.new & ~x.zero(axis)).any() and (op in _SUMS or op == "ReduceMean"):
        return ratio**2 if op == "ReduceMean" else Fraction(1)
    mean = x.claim.mean.get(axis)
    if mean is not None and np.array_equal(mean, grown.new) and not x.claim.weights:
        require(op in ("ReduceMean", "ReduceSum"), f"axis {axis}, which it reduces, grew")
        return Fraction(1) if op == "ReduceMean" else 1 / ratio**2
    require(
        repeated(x, axis), f"axis {axis}, which it reduces, grew by entries that are not proved zero, mean or copies"
    )
    require(op in _REPEATED, f"axis {axis}, which it reduces, grew")
    return (1 / ratio) ** _REPEATED[op]


def _over_all(pair: Pair, x: Proved, reduced: tuple[int, ...], before: Fraction) -> Fraction:
    """The square of the factor that all reduced axes bring, where ``before`` is that of what is reduced."""
    op, found = pair.node.op_type, Fraction(1)
    grown = [axis for axis in reduced if not x.axes[axis].identity]
    if grown and op in ("ReduceMean", "ReduceSum"):
        more = Fraction(math.prod(x.axes[a].size for a in grown), math.prod(x.axes[a].old_size for a in grown))
        means = Fraction(1) if op == "ReduceMean" else more**2
        if pair.claim().square == before * means and all(holds_means(pair, x, a, reduced) for a in grown):
            return means
    for axis in grown:
        found *= 1 if _adds_nothing(pair, x, axis, reduced) else _over_grown(op, x, axis)
    return found


def _adds_nothing(pair: Pair, x: Proved, axis: int, reduced: tuple[int, ...]) -> bool:
    """Whether a constant is zero at the new indices of a reduced axis, for what makes old entries of the result."""
    if pair.node.op_type not in _SUMS or input_name(pair.node, 0) not in pair.new.static:
        return False
    others = {k: np.flatnonzero(~a.new) for k, a in enumerate(x.axes) if k not in reduced and not a.identity}
    return pair.is_zero(0, axis, np.flatnonzero(x.axes[axis].new), others)


@register(
    *sorted(_KEEPS_ZERO),
    "ReduceLogSum",
    "ReduceLogSumExp",
)
def check_reduce(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.scaled(0), pair.claim()
    rank = len(x.axes)
    reduced = _reduced_axes(pair, rank)
    keep = pair.same_int_attribute("keepdims", 1)
    op = pair.node.op_type
    require(x.square == 1 or op in _KEEPS_ZERO, "its input is multiplied")
    pair.squares[0] = x.square ** (2 if op == "ReduceSumSquare" else 1)
    require(x.square == 1 or op != "ReduceProd", "its input is multiplied")
    pair.squares[0] *= _over_all(pair, x, reduced, pair.squares[0])
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
