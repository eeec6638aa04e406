"""Which new entries along an axis combine which old ones, and whether stored numbers do.

A mean is a number that was rounded once, so a stored one may be half a unit in the last place away; a copy is equal
bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from onnxgrow.verify.certificate.axis import Axis, IntArray
from onnxgrow.verify.certificate.blocks import same_bits
from onnxgrow.verify.certificate.readers import Reader

__all__ = ["Pattern", "follows"]

_CHUNK = 1 << 22
"""Entries read at once."""


@dataclass(frozen=True)
class Pattern:
    """Which entries along an axis combine which.

    Attributes:
        new: New indices.
        old: For means: indices of the old entries, in their old order.
        source: For copies: the index that each new one repeats; None for means.
        weights: For means: a weight for each old entry; None when they count alike.
        over: For means: further axes that they are taken over.
    """

    new: IntArray
    old: IntArray
    source: IntArray | None = None
    weights: npt.NDArray[np.float64] | None = None
    over: tuple[int, ...] = ()

    @classmethod
    def mean(
        cls,
        axis: Axis,
        new: npt.NDArray[np.bool_],
        weights: npt.NDArray[np.float64] | None = None,
        over: tuple[int, ...] = (),
    ) -> Pattern:
        """New indices of ``axis`` (True in ``new``) are the mean of all old ones, and over further axes."""
        return cls(np.flatnonzero(new).astype(np.int64), axis.positions, None, weights, over)

    @classmethod
    def copies(cls, axis: Axis, source: IntArray) -> Pattern:
        """New indices of ``axis`` repeat old index ``source`` (−1 elsewhere)."""
        new = np.flatnonzero(source >= 0).astype(np.int64)
        return cls(new, np.zeros(0, np.int64), axis.positions[source[new]])

    def fits(self, size: int) -> bool:
        """Whether it can be a pattern of an axis of this size. Of copies it may leave entries out."""
        if self.source is None:
            return size == self.new.size + self.old.size
        return int(max(self.new.max(initial=-1), self.source.max(initial=-1))) < size

    def moved(self, new: IntArray, source: IntArray) -> Pattern:
        """Copies of other indices: where an op takes these ones from."""
        pairs = np.unique(np.stack([new, source]), axis=1)
        pairs = pairs[:, pairs[0] != pairs[1]]
        return Pattern(pairs[0], np.zeros(0, np.int64), pairs[1])

    @property
    def key(self) -> tuple[bytes, ...]:
        parts = (self.new, self.old, self.source, self.weights)
        return (*(b"" if part is None else part.tobytes() for part in parts), str(self.over).encode())

    def reweighed(self, factors: npt.NDArray[np.float64]) -> Pattern | None:
        """The pattern of a value whose product with ``factors`` along the axis has this one; None where it has none."""
        if self.source is not None:
            alike = np.array_equal(factors[self.new], factors[self.source])
            return self if alike else None
        last = factors[self.new]
        if not np.all(last == last[:1]) or not np.all(last != 0):
            return None
        weights = factors[self.old] / last[0]
        return Pattern(self.new, self.old, None, weights if self.weights is None else weights * self.weights)


def _rounds_to(stored: npt.NDArray[np.generic], exact: npt.NDArray[np.float64], slack: float) -> bool:
    """Whether every stored number is the exact one rounded once to its type; ``slack``: error of ``exact`` itself."""
    wide = stored.astype(np.float64)
    if stored.dtype == np.float64:
        room = np.zeros_like(exact)
    else:
        near = exact.astype(stored.dtype)
        unit = np.abs(np.spacing(near).astype(np.float64)) if stored.dtype.kind == "f" else _unit(near)
        room = unit * 0.5
    return bool(np.all(np.abs(wide - exact) <= room * (1 + 1e-6) + slack))


def _unit(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """One unit in the last place of a type that NumPy has no spacing for (bfloat16: 8 bits of precision)."""
    size = np.maximum(np.abs(values.astype(np.float64)), 2.0**-126)
    return np.asarray(2.0 ** (np.floor(np.log2(size)) - 7), np.float64)


def follows(reader: Reader, axis: int, pattern: Pattern) -> bool:
    """Whether the numbers of a constant follow a pattern, judged in slices across its largest other axis."""
    others = [n for k, n in enumerate(reader.shape) if k != axis]
    free = (k for k in range(len(reader.shape)) if k != axis and k not in pattern.over)
    across = max(free, key=lambda k: reader.shape[k], default=None)
    width = 1 if across is None else reader.shape[across]
    step = max(1, _CHUNK // max(1, prod(others) // max(1, width) * reader.shape[axis]))
    for start in range(0, max(width, 1), step):
        index: list[slice | IntArray] = [slice(0, n) for n in reader.shape]
        if across is not None:
            index[across] = slice(start, min(start + step, width))

        def lines(at: IntArray, index: list[slice | IntArray] = index) -> npt.NDArray[np.generic]:
            return np.moveaxis(reader.read([*index[:axis], at, *index[axis + 1 :]]), axis, 0)

        if pattern.source is not None:
            if not same_bits(np.ascontiguousarray(lines(pattern.new)), np.ascontiguousarray(lines(pattern.source))):
                return False
            continue
        old = lines(pattern.old).astype(np.float64)
        if pattern.weights is not None:
            old *= pattern.weights.reshape(-1, *[1] * (old.ndim - 1))
        # Axes behind the first one keep their order there.
        summed = (0, *(k + 1 if k < axis else k for k in pattern.over))
        mean = old.mean(axis=summed, keepdims=True)[0]
        slack = 1e-14 * float(np.max(np.abs(old), initial=0.0))
        if not _rounds_to(lines(pattern.new), np.broadcast_to(mean, (pattern.new.size, *old.shape[1:])), slack):
            return False
    return True
