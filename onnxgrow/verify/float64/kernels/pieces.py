"""Constants that are too large to be converted to float64 as one: kernels read them in pieces along their first axis.

What stands for such a constant is the stored array itself (mapped from a file, perhaps, and of another float dtype), a
view that repeats one element, or a :class:`Derived` tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.verify.float64.kernels.registry import Array

__all__ = [
    "FLOATS",
    "PIECE",
    "Change",
    "Derived",
    "Large",
    "is_float",
    "is_large",
    "pieces",
    "spans",
    "to_float64",
    "whole",
]

FLOATS = frozenset(t for t in ir.DataType if t.is_floating_point())
"""All ONNX float dtypes, down to 8 and 4 bits."""
PIECE = 16 << 20
"""Bytes of float64 that are made of a constant at a time."""
_ENTRY = 8

Change = Callable[[npt.NDArray[np.float64], npt.NDArray[np.intp]], Array]


class Derived:
    """A float tensor that is computed from a stored one when it is read.

    Args:
        base: The stored values, of any float dtype and of rank 1 at least.
        change: Gets some rows (entries along the first axis) in float64 and their indices; gives the changed rows.
    """

    def __init__(self, base: Array, change: Change) -> None:
        self._base, self._change = base, change
        self.shape, self.ndim, self.size = base.shape, base.ndim, base.size

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> Array:
        return self._change(to_float64(self._base[rows]), np.arange(self.shape[0])[rows])


Large = Array | Derived


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds floats of any width (ml_dtypes included)."""
    if dtype.kind in "biucSUO":
        return False
    return dtype.kind == "f" or ir.DataType.from_numpy(dtype) in FLOATS


def to_float64(x: Array) -> Array:
    """``x`` itself unless it holds floats of another width (ml_dtypes included)."""
    return x.astype(np.float64) if x.dtype != np.float64 and is_float(x.dtype) else x


def is_large(x: Any) -> bool:
    """Whether making a float64 array of a constant takes more memory than one piece may."""
    if isinstance(x, Derived):
        return _ENTRY * x.size > PIECE
    if not isinstance(x, np.ndarray) or _ENTRY * x.size <= PIECE:
        return False
    return 0 in x.strides if x.dtype == np.float64 else is_float(x.dtype)


def whole(x: Any) -> Any:
    """A constant as one float64 array; anything else as it is."""
    if isinstance(x, Derived):
        found = np.empty(x.shape)
        for rows, piece in pieces(x):
            found[rows] = piece
        return found
    return to_float64(x) if isinstance(x, np.ndarray) else x


def spans(size: int, row: int) -> Iterator[slice]:
    """Slices that cover an axis of ``size`` rows, of ``row`` entries each, in pieces."""
    step = max(1, PIECE // (_ENTRY * max(row, 1)))
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))


def pieces(x: Large) -> Iterator[tuple[slice, Array]]:
    """Rows of a tensor (of rank 1 at least) and their values in float64."""
    for rows in spans(x.shape[0], math.prod(x.shape[1:])):
        yield rows, to_float64(x[rows])
