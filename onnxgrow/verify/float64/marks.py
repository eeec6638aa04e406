"""Which entries of a grown tensor are new, and values drawn for them: by rows, never for all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxgrow.axis_map import ANY, AxisMap
from onnxgrow.verify.float64.kernels.pieces import pieces
from onnxgrow.verify.float64.kernels.registry import Array

__all__ = ["Marks", "draws", "free_marks", "new_marks"]

Rows = npt.NDArray[np.intp]
Lines = Mapping[int, npt.NDArray[np.bool_]]

_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
"""Odd constants with well mixed bits (xxHash, https://github.com/Cyan4973/xxHash)."""


@dataclass(frozen=True)
class Marks:
    """Entries of a tensor: those on one of the lines ``on``, less those on one of the lines ``off``.

    Attributes:
        shape: Of the tensor, of rank 1 at least.
        on, off: Axis → which of its indices are meant.
    """

    shape: tuple[int, ...]
    on: Lines
    off: Lines

    def at(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """The mask of some rows (indices of the first axis)."""
        return self._any(self.on, rows) & ~self._any(self.off, rows)

    def _any(self, lines: Lines, rows: Rows) -> npt.NDArray[np.bool_]:
        found = np.zeros((len(rows), *self.shape[1:]), bool)
        for axis, line in lines.items():
            form = [1] * len(self.shape)
            form[axis] = -1
            found |= (line[rows] if axis == 0 else line).reshape(form)
        return found

    def any_in(self, array: Array) -> bool:
        """Whether a marked entry of ``array`` is not zero."""
        return any(bool(np.any(part[self.at(np.arange(r.start, r.stop))])) for r, part in pieces(array))


def new_marks(shape: Sequence[int], axes: Mapping[int, AxisMap], old_on: Iterable[int] = ()) -> Marks:
    """The entries that are new on one of ``axes``, less those that are new on an axis of ``old_on``."""
    lines = {axis: axis_map.source() < 0 for axis, axis_map in axes.items()}
    excluded = set(old_on)
    return Marks(
        tuple(shape),
        {axis: line for axis, line in lines.items() if axis not in excluded},
        {axis: line for axis, line in lines.items() if axis in excluded},
    )


def free_marks(shape: Sequence[int], axes: Mapping[int, AxisMap]) -> Marks:
    """The new entries of which nothing is claimed: new on one axis at least, and ``any`` on each such axis."""
    bound = {axis: np.array([fact not in ("", ANY) for fact in m.facts()], bool) for axis, m in axes.items()}
    return Marks(tuple(shape), {axis: m.source() < 0 for axis, m in axes.items()}, bound)


def draws(shape: Sequence[int], rows: Rows, seed: int) -> npt.NDArray[np.uint32]:
    """32 bits for each entry of some rows; they depend on the entry's place and the seed only."""
    found = np.full((len(rows),) + (1,) * (len(shape) - 1), seed & 0xFFFFFFFF, np.uint32)
    for axis, size in enumerate(shape):
        form = [1] * len(shape)
        form[axis] = -1
        index = (rows if axis == 0 else np.arange(size)).astype(np.uint32).reshape(form)
        found = (found ^ (index * np.uint32(_FACTORS[axis % 4]))) * np.uint32(_FACTORS[(axis + 1) % 4])
        found ^= found >> np.uint32(15)
    return found
