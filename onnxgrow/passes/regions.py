"""Parts of a tensor that follow each other in C order, and index arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Region", "grid", "regions", "runs"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Region:
    """A box whose entries follow each other in C order.

    Attributes:
        start: Flat index of its first entry.
        slices: Range of every axis: single indices, then one range, then whole axes.
        shape: Number of indices along every axis.
    """

    start: int
    slices: tuple[slice, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def regions(shape: Sequence[int], most: int) -> Iterator[Region]:
    """Consecutive regions of at most ``most`` (> 0) entries that make up a tensor of ``shape``; none if it is empty."""
    if 0 in shape:
        return
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    whole = tuple(slice(0, n) for n in shape[axis:])
    if not axis:
        yield Region(0, whole, tuple(shape))
        return
    axis -= 1
    step = max(1, most // inner)
    start = 0
    for prefix in np.ndindex(*shape[:axis]):
        outer = tuple(slice(i, i + 1) for i in prefix)
        for low in range(0, shape[axis], step):
            high = min(low + step, shape[axis])
            yield Region(start, (*outer, slice(low, high), *whole), (*[1] * axis, high - low, *shape[axis + 1 :]))
            start += (high - low) * inner


def grid(indices: Sequence[Array]) -> tuple[Any, ...]:
    """What ``np.ix_`` gives, as slices where indices are consecutive: those are copied much faster."""
    parts = [_as_slice(index) for index in indices]
    if sum(part is None for part in parts) > 1:
        return np.ix_(*indices)
    return tuple(index if part is None else part for part, index in zip(parts, indices, strict=True))


def _as_slice(index: Array) -> slice | None:
    if not index.size:
        return slice(0, 0)
    first, last = int(index[0]), int(index[-1])
    consecutive = last - first == index.size - 1 and bool((np.diff(index) == 1).all())
    return slice(first, last + 1) if consecutive else None


def runs(chosen: npt.NDArray[np.bool_], shortest: int) -> list[tuple[int, int]]:
    """Ranges of flat indices that hold all chosen entries: exactly those, or one range where they are scattered.

    Args:
        chosen: One-dimensional.
        shortest: Mean length from which single runs are worth their while.
    """
    bounds = np.concatenate([[0], np.flatnonzero(chosen[1:] != chosen[:-1]) + 1, [chosen.size]])
    lows = (
        [int(b) for b in bounds[:-1] if chosen[b]] if bounds.size * shortest <= 2 * chosen.size + 2 * shortest else []
    )
    if lows:
        highs = dict(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        return [(low, highs[low]) for low in lows]
    places = np.flatnonzero(chosen)
    return [(int(places[0]), int(places[-1]) + 1)] if places.size else []
