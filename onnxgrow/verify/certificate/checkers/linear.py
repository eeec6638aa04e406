"""Gemm and MatMul: sums of products over one axis.

Old outputs must read exactly the old terms: over the contracted axis both operands have the same map, and
    every term at
a new index is zero at old outputs, because one operand is proved zero there or, for a weight, because its
entries (old output × new input) are exactly zero. Where both operands repeat all terms, each equally often, the sum
is a multiple of the old one. Specs: https://onnx.ai/onnx/operators/onnx__Gemm.html and
__MatMul.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.checkers.common import agree, broadcast_axes, operand_zero, repeated
from onnxgrow.verify.certificate.compare import Tally, nonzero
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.patterns import Pattern, follows
from onnxgrow.verify.certificate.readers import Reader
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import ProofError, Proved, Zeros


@dataclass
class Operand:
    """One operand of a contraction.

    Attributes:
        state: Its proved state.
        reader: Its reader when it is constant.
        free: Its axis that becomes an axis of the result; None for a vector.
        summed: Its axis that is summed over.
        what: Its name for reasons.
    """

    state: Proved
    reader: Reader | None
    free: int | None
    summed: int
    what: str

    @property
    def axis(self) -> Axis:
        return self.state.axes[self.summed]

    def may_be_nonzero(self, free: Mask, summed: Mask, tally: Tally) -> Mask:
        """Whether an entry may be other than zero at (chosen free indices) × (chosen summed indices)."""
        rows, columns = np.flatnonzero(free), np.flatnonzero(summed)
        if self.reader is None:
            zero = np.zeros((rows.size, columns.size), np.bool_)
            if self.free is not None:
                zero |= self.state.zero(self.free)[rows][:, None]
            return ~(zero | self.state.zero(self.summed)[columns][None, :])
        if self.free is None:
            return nonzero(self.reader, {self.summed: columns}, tally)[None, :].repeat(rows.size, axis=0)
        found = nonzero(self.reader, {self.free: rows, self.summed: columns}, tally)
        return found if self.free < self.summed else found.T


def contract(pair: Pair, a: Operand, b: Operand) -> Fraction:
    """The sum over the shared axis must have the original's terms and no others at old outputs, or each equally often.

    Returns:
        Square of the factor on the sum: that of the number of copies, where both operands repeat all terms alike.
    """
    tally = pair.tally
    agree(a.axis, b.axis, "the summed axis of both operands")
    if a.axis.identity:
        return Fraction(1)
    open_terms = a.axis.new & ~a.state.zero(a.summed) & ~b.state.zero(b.summed)
    for operand in (a, b):
        if operand.reader is not None and open_terms.any():
            free = _old(operand)
            found = operand.may_be_nonzero(free, open_terms, tally).any(axis=0)
            open_terms[np.flatnonzero(open_terms)] = found
    left = np.flatnonzero(open_terms)
    if left.size and any(o.reader is None and pair.is_zero(i, o.summed, left) for i, o in enumerate((a, b))):
        return Fraction(1)
    # A weight that is computed from constants has to be zero for old outputs only.
    computed = [
        (i, o) for i, o in enumerate((a, b)) if o.reader is None and input_name(pair.node, i) in pair.new.static
    ]
    if left.size and any(pair.is_zero(i, o.summed, left, _old_only(o)) for i, o in computed):
        return Fraction(1)
    if left.size and any(_repeats(x, y) for x, y in ((a, b), (b, a))):
        return Fraction(a.axis.size, a.axis.old_size) ** 2
    if open_terms.any():
        index = int(np.flatnonzero(open_terms)[0])
        weights = [o.what for o in (a, b) if o.reader is not None]
        reason = f"{' and '.join(weights)} not zero there" if weights else "neither operand is proved zero there"
        raise ProofError(f"old outputs read new input {index}: {reason}")
    return Fraction(1)


def _repeats(a: Operand, b: Operand) -> bool:
    """Whether all terms come equally often: ``a`` is proved to repeat every old entry, ``b`` repeats the same ones."""
    if not repeated(a.state, a.summed):
        return False
    copies, other = a.state.claim.copies[a.summed], b.state.claim.copies.get(b.summed)
    if other is not None and np.array_equal(copies, other):
        return True
    return b.reader is not None and follows(b.reader, b.summed, Pattern.copies(b.axis, copies))


def _old_only(operand: Operand) -> dict[int, IntArray]:
    """The old indices of the free axis, where it grew."""
    if operand.free is None or operand.state.axes[operand.free].identity:
        return {}
    return {operand.free: np.flatnonzero(_old(operand))}


def _old(operand: Operand) -> Mask:
    return np.ones(1, np.bool_) if operand.free is None else ~operand.state.axes[operand.free].new


def free_zeros(a: Operand, b: Operand) -> Mask:
    """Where along ``a``'s free axis the whole sum is proved zero, whatever old or new term it has."""
    assert a.free is not None
    axis = a.state.axes[a.free]
    zero = a.state.zero(a.free).copy()
    if a.reader is not None and not axis.identity:
        rows = axis.new & ~zero
        if rows.any():
            relevant = ~b.state.zero(b.summed)
            found = a.may_be_nonzero(rows, relevant, Tally())
            zero[np.flatnonzero(rows)] = ~found.any(axis=1)
    return zero


@register("MatMul")
def check_matmul(pair: Pair) -> None:
    pair.same_attributes()
    x, y, claim = pair.scaled(0), pair.scaled(1), pair.claim()
    pair.squares[0] = x.square * y.square
    rank_x, rank_y = len(x.axes), len(y.axes)
    require(rank_x and rank_y, "an operand is a scalar")
    a = Operand(x, pair.reader(0), rank_x - 2 if rank_x > 1 else None, rank_x - 1, "the left operand is")
    b = Operand(y, pair.reader(1), rank_y - 1 if rank_y > 1 else None, max(rank_y - 2, 0), "the right operand is")
    batch = max(rank_x, rank_y) - 2
    batch = max(batch, 0)
    require(
        len(claim.axes) == batch + (a.free is not None) + (b.free is not None),
        "its rank does not follow from its inputs",
    )
    out = claim.axes[:batch]
    for operand in (x, y):
        lead = operand.axes[: max(len(operand.axes) - 2, 0)]
        for number, axis in enumerate(lead):
            if not (axis.size == 1 and axis.old_size == 1):
                agree(axis, out[batch - len(lead) + number], f"batch axis {number}")
    row = batch if a.free is not None else None
    column = len(claim.axes) - 1 if b.free is not None else None
    if row is not None and a.free is not None:
        agree(x.axes[a.free], claim.axes[row], "rows")
    if column is not None and b.free is not None:
        agree(y.axes[b.free], claim.axes[column], "columns")
    pair.squares[0] *= contract(pair, a, b)

    def zeros() -> Zeros:
        found: dict[int, Mask] = {}
        for number in range(batch):
            mask = np.zeros(out[number].size, np.bool_)
            for operand in (x, y):
                own = number - (batch - max(len(operand.axes) - 2, 0))
                if own >= 0 and operand.axes[own].size == mask.size:
                    mask |= operand.zero(own)
            found[number] = mask
        if row is not None:
            found[row] = free_zeros(a, b)
        if column is not None:
            found[column] = free_zeros(b, a)
        return found

    pair.zeros[0] = zeros


@register("Gemm")
def check_gemm(pair: Pair) -> None:
    # Only the layout attributes and factors exist; all must be the same (alpha and beta bit for bit).
    pair.same_attributes()
    x, y, claim = pair.scaled(0), pair.scaled(1), pair.claim()
    pair.squares[0] = x.square * y.square
    trans_a, trans_b = pair.same_int_attribute("transA", 0), pair.same_int_attribute("transB", 0)
    require(len(x.axes) == len(y.axes) == len(claim.axes) == 2, "it is not two-dimensional")
    a = Operand(x, pair.reader(0), 1 if trans_a else 0, 0 if trans_a else 1, "A is")
    b = Operand(y, pair.reader(1), 0 if trans_b else 1, 1 if trans_b else 0, "B is")
    assert a.free is not None
    assert b.free is not None
    agree(x.axes[a.free], claim.axes[0], "rows")
    agree(y.axes[b.free], claim.axes[1], "columns")
    pair.squares[0] *= contract(pair, a, b)
    bias = pair.scaled(2) if pair.has(2) else None
    if bias is not None:
        require(bias.square == pair.squares[0], "its operands are multiplied differently")
        broadcast_axes(bias, claim.axes, "C")

    def zeros() -> Zeros:
        found = {0: free_zeros(a, b), 1: free_zeros(b, a)}
        if bias is not None:
            found = {axis: mask & operand_zero(bias, claim.axes, axis) for axis, mask in found.items()}
        return found

    pair.zeros[0] = zeros
