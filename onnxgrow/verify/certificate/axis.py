"""Axis maps as index arrays, one shared object per distinct map.

A model has few distinct maps and many values; sharing makes most comparisons a comparison of two references.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxgrow.axis_map import AxisMap

__all__ = ["Axis", "AxisTable", "IntArray", "Mask"]

IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Axis:
    """One axis of a value: where each of its indices lies in the original.

    Attributes:
        size: New size.
        old_size: Old size.
        identity: True when nothing grew; such an axis allocates no array until asked for one.
    """

    def __init__(self, size: int, source: IntArray | None = None) -> None:
        self.size = size
        self._source = source
        self.identity = source is None
        self.old_size = size if source is None else int(np.count_nonzero(source >= 0))

    @cached_property
    def source(self) -> IntArray:
        """Old index of each new index, −1 where it is new; shape (size,)."""
        return np.arange(self.size, dtype=np.int64) if self._source is None else self._source

    @cached_property
    def new(self) -> Mask:
        """True at new indices; shape (size,)."""
        return self.source < 0

    @cached_property
    def positions(self) -> IntArray:
        """New index of each old index; shape (old_size,)."""
        kept = np.flatnonzero(self.source >= 0)
        out = np.empty(kept.size, np.int64)
        out[self.source[kept]] = kept
        return out

    def same(self, other: Axis) -> bool:
        """Whether both axes map every index alike."""
        if self is other:
            return True
        if self.size != other.size or self.identity != other.identity:
            return False
        return self.identity or bool(np.array_equal(self.source, other.source))


class AxisTable:
    """Makes axes, one object per distinct map."""

    def __init__(self) -> None:
        self._identities: dict[int, Axis] = {}
        self._by_bytes: dict[bytes, Axis] = {}
        # Maps are long to hash and shared between values: keyed by identity, kept alive by the entry itself.
        self._by_map: dict[int, tuple[AxisMap, Axis | str]] = {}

    def identity(self, size: int) -> Axis:
        """The axis of ``size`` entries that did not grow."""
        axis = self._identities.get(size)
        if axis is None:
            axis = self._identities[size] = Axis(size)
        return axis

    def from_source(self, source: IntArray) -> Axis:
        """The axis with this source array (old index or −1 per new index)."""
        if np.array_equal(source, np.arange(source.size)):
            return self.identity(source.size)
        key = np.ascontiguousarray(source, np.int64).tobytes()
        axis = self._by_bytes.get(key)
        if axis is None:
            axis = self._by_bytes[key] = Axis(source.size, source)
        return axis

    def from_map(self, axis_map: AxisMap) -> Axis | str:
        """The axis of a growth map's entry, or why the entry is no valid map."""
        entry = self._by_map.get(id(axis_map))
        if entry is None:
            problem = axis_map.problems()
            entry = self._by_map[id(axis_map)] = (axis_map, problem or self.from_source(axis_map.source()))
        return entry[1]
