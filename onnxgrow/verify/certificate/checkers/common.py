"""Steps that several checkers share: axes that must agree, and zero slabs under broadcasting."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, Mask
from onnxgrow.verify.certificate.pair import require
from onnxgrow.verify.certificate.state import Proved, Zeros

__all__ = ["agree", "all_zero_zeros", "broadcast_axes", "carry_zeros", "operand_zero", "repeated"]


def agree(a: Axis, b: Axis, what: str) -> None:
    """Two axes must map every index alike."""
    require(a.same(b), f"{what}: the growth maps differ")


def broadcast_axes(state: Proved, axes: tuple[Axis, ...], what: str, *, offset: int | None = None) -> None:
    """An operand must agree with the result's axes under NumPy's broadcasting.

    Args:
        state: The operand.
        axes: Axes of the result.
        what: Name of the operand, for the reason.
        offset: Axis of the result that the operand's first axis belongs to; by default they are aligned
            at the end.
    """
    first = len(axes) - len(state.axes) if offset is None else offset
    require(0 <= first <= len(axes) - len(state.axes), f"{what} has more axes than the result")
    for number, axis in enumerate(state.axes):
        if axis.size == 1 and axis.old_size == 1:
            continue
        agree(axis, axes[first + number], f"axis {number} of {what}")


def operand_zero(state: Proved, axes: tuple[Axis, ...], axis: int) -> Mask:
    """Where, along one axis of a broadcast result, an operand is proved to be zero. Shape (size of the axis,)."""
    size = axes[axis].size
    if state.all_zero:
        return np.ones(size, np.bool_)
    own = axis - (len(axes) - len(state.axes))
    if own < 0 or state.axes[own].size != size:
        return np.zeros(size, np.bool_)
    return state.zero(own)


def repeated(state: Proved, axis: int) -> bool:
    """Whether the new entries along an axis are proved to repeat every old one equally often."""
    source = state.claim.copies.get(axis)
    grown = state.axes[axis]
    if source is None or not np.array_equal(source >= 0, grown.new):
        return False
    counts = np.bincount(source[grown.new], minlength=grown.old_size)
    return bool(np.all(counts == counts[:1]))


def carry_zeros(state: Proved, pairs: Iterable[tuple[int, int]]) -> Zeros:
    """Zero slabs that pass unchanged from axis to axis, given as (input axis, output axis)."""
    zeros = state.zeros
    return {to: zeros[axis] for axis, to in pairs if axis in zeros}


def all_zero_zeros(axes: tuple[Axis, ...]) -> Zeros:
    """The zero slabs of a value that is zero everywhere."""
    return {number: np.ones(axis.size, np.bool_) for number, axis in enumerate(axes)}
