"""The restrict property of constants and known values, compared number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.blocks import Array, Index, as_index, blocks, not_finite, same_bits, same_memory, take
from onnxgrow.verify.certificate.readers import ArrayReader, Reader
from onnxgrow.verify.certificate.state import SCALAR, Claim, Zeros

__all__ = ["Tally", "compare_constants", "compare_values", "nonzero", "zero_slabs"]


@dataclass
class Tally:
    """How much was compared.

    Attributes:
        bit_compared: Old entries found bit-equal.
        proved_zero: Entries tested that must be zero (and are).
        tensors: Constant tensors compared.
    """

    bit_compared: int = 0
    proved_zero: int = 0
    tensors: int = 0


def _old_index(axis: Axis, part: slice) -> Index:
    return part if axis.identity else as_index(axis.positions[part])


def compare_constants(new: Reader, old: Reader, claim: Claim, tally: Tally) -> str:
    """Why a constant of the result does not hold the original's entries, bit for bit; empty when it does.

    New entries of floating-point tensors must be finite: a channel of infinities times a zero weight is NaN.
    """
    if new.dtype != old.dtype:
        return f"dtype {old.dtype} became {new.dtype}"
    if new.shape != tuple(a.size for a in claim.axes) or old.shape != tuple(a.old_size for a in claim.axes):
        return f"shapes {old.shape} and {new.shape} do not fit the growth map"
    tally.tensors += 1
    if (
        isinstance(new, ArrayReader)
        and isinstance(old, ArrayReader)
        and same_memory(new.array, old.array)
        and claim.identity
    ):
        tally.bit_compared += math.prod(old.shape)
        return ""
    for block in blocks(old.shape, old.dtype.itemsize):
        index = tuple(_old_index(axis, part) for axis, part in zip(claim.axes, block, strict=True))
        if not same_bits(new.read(index), old.read(block)):
            return "an old entry is not bit-equal to the original's"
    tally.bit_compared += math.prod(old.shape)
    for number, axis in enumerate(claim.axes):
        if not axis.identity and _has_non_finite(new, number, axis):
            return "a new entry is not finite"
    return ""


def _has_non_finite(reader: Reader, number: int, axis: Axis) -> bool:
    index = np.flatnonzero(axis.new)
    shape = tuple(index.size if k == number else n for k, n in enumerate(reader.shape))
    for block in blocks(shape, reader.dtype.itemsize):
        own = tuple(as_index(index[part]) if k == number else part for k, part in enumerate(block))
        if not_finite(reader.read(own)):
            return True
    return False


def compare_values(new: Array, old: Array, claim: Claim) -> bool:
    """Whether a known value of the result equals the original's at all old indices, bit for bit."""
    if new.shape != tuple(a.size for a in claim.axes) or old.shape != tuple(a.old_size for a in claim.axes):
        return False
    index = tuple(slice(None) if a.identity else a.positions for a in claim.axes)
    return same_bits(np.ascontiguousarray(take(new, index)), np.ascontiguousarray(old))


def zero_slabs(reader: Reader, axes: tuple[Axis, ...], tally: Tally, limit: int = 2**24) -> Zeros:
    """Zero slabs of a constant: along grown axes at new indices, and along every axis when the whole is zero.

    The whole is looked at only up to ``limit`` entries; above that only the new slabs are.
    """
    found: dict[int, Mask] = {}
    for number, axis in enumerate(axes):
        index = np.flatnonzero(axis.new) if not axis.identity else np.zeros(0, np.int64)
        if index.size:
            zero = ~nonzero(reader, {number: index}, tally)
            if zero.any():
                found[number] = np.zeros(axis.size, np.bool_)
                found[number][index] = zero
    if axes and math.prod(reader.shape) <= limit and (found or all(a.identity for a in axes)):
        whole = tuple(slice(0, n) for n in reader.shape)
        if not np.any(reader.read(whole) != 0):
            return {number: np.ones(axis.size, np.bool_) for number, axis in enumerate(axes)}
    if not axes and not np.any(reader.read(()) != 0):
        return {SCALAR: np.ones(1, np.bool_)}
    return found


def nonzero(reader: Reader, keep: Mapping[int, IntArray], tally: Tally) -> Mask:
    """Whether any entry is not exactly zero, for every combination of the kept indices.

    Args:
        reader: The constant.
        keep: Axis → the indices of it to look at; all other axes are looked at whole and reduced by "any".
        tally: Takes the number of entries found zero.

    Returns:
        Booleans, one axis per kept axis in ascending order, each as long as its indices.
    """
    indices = [keep.get(axis, np.arange(n, dtype=np.int64)) for axis, n in enumerate(reader.shape)]
    shape = tuple(i.size for i in indices)
    kept = sorted(keep)
    others = tuple(axis for axis in range(len(shape)) if axis not in keep)
    out = np.zeros(tuple(shape[axis] for axis in kept), np.bool_)
    for block in blocks(shape, reader.dtype.itemsize):
        own = tuple(as_index(i[part]) for i, part in zip(indices, block, strict=True))
        out[tuple(block[axis] for axis in kept)] |= np.any(reader.read(own) != 0, axis=others)
    per_entry = math.prod(shape[axis] for axis in others)
    tally.proved_zero += per_entry * int(out.size - np.count_nonzero(out))
    return out
