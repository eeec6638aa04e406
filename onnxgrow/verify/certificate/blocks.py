"""Bit comparison and zero tests in blocks, so that no weight is ever held in memory twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxgrow.verify.certificate.axis import IntArray

__all__ = ["BLOCK_BYTES", "Array", "Index", "as_index", "blocks", "not_finite", "same_bits", "same_memory", "take"]

Array = npt.NDArray[np.generic]
Index = slice | IntArray

BLOCK_BYTES = 32 * 2**20


def blocks(shape: Sequence[int], itemsize: int, limit: int = BLOCK_BYTES) -> Iterator[tuple[slice, ...]]:
    """Slices that cover an array of ``shape`` in blocks of at most ``limit`` bytes (or one element)."""
    if math.prod(shape) == 0:
        return
    whole = [slice(0, n) for n in shape]
    room = max(limit // max(itemsize, 1), 1)
    axis = len(shape)
    inner = 1
    while axis > 0 and inner * shape[axis - 1] <= room:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield tuple(whole)
        return
    step = max(room // inner, 1)
    for outer in itertools.product(*(range(n) for n in shape[: axis - 1])):
        lead = [slice(i, i + 1) for i in outer]
        for start in range(0, shape[axis - 1], step):
            yield (*lead, slice(start, min(start + step, shape[axis - 1])), *whole[axis:])


def as_index(positions: IntArray) -> Index:
    """A slice where the positions are consecutive, so that reading them makes a view and no copy."""
    if positions.size and np.array_equal(positions, np.arange(positions[0], positions[0] + positions.size)):
        return slice(int(positions[0]), int(positions[0]) + positions.size)
    return positions


def take(array: Array, index: Sequence[Index]) -> Array:
    """Orthogonal indexing: one slice or index array per axis; a view where all are slices."""
    out = array[tuple(i if isinstance(i, slice) else slice(None) for i in index)]
    for axis, i in enumerate(index):
        if not isinstance(i, slice):
            out = out[(slice(None),) * axis + (i,)]
    return out


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays agree in dtype, shape and every bit (NaN payloads and the sign of zero included)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.size == 0:
        return True
    if a.dtype.kind in "OUS":
        return bool(np.all(a == b))
    width = a.dtype.itemsize
    if width in (1, 2, 4, 8):
        unsigned = np.dtype(f"u{width}")
        return bool(np.array_equal(a.view(unsigned), b.view(unsigned)))
    return bool(
        np.array_equal(
            np.ascontiguousarray(a).reshape(-1).view(np.uint8),
            np.ascontiguousarray(b).reshape(-1).view(np.uint8),
        )
    )


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are one and the same piece of memory: then they need not be read."""
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
        and a.dtype.kind != "O"
    )


def not_finite(a: Array) -> bool:
    """Whether a floating-point array holds a NaN or an infinity; False for every other dtype."""
    if a.dtype.kind in "fc":
        return not bool(np.isfinite(a).all())
    if a.dtype.kind == "V":  # ml_dtypes: bfloat16, float8 …
        return not bool(np.isfinite(a.astype(np.float32)).all())
    return False
