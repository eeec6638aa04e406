"""Where the old entries of one axis went, run-length encoded, and what is claimed of the new ones.

Ground floor, as the growth map that is made of these maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxgrow import strict_json as js

__all__ = ["ANY", "COPY", "FACTS", "MEAN", "ZERO", "AxisMap", "Segment"]

ANY = "any"
ZERO = "zero"
MEAN = "mean"
COPY = "copy"
FACTS = (ANY, ZERO, MEAN, COPY)


@dataclass(frozen=True)
class Segment:
    """A run of indices on one grown axis.

    Attributes:
        length: Number of consecutive new indices, > 0.
        start: First old index of an old run; −1 for a new run.
        fact: What is claimed of the entries of a new run: ``any``, ``zero``, ``mean`` (of the old entries
            along this axis) or ``copy`` (of the old indices from ``source`` on); empty for an old run.
        source: First old index of those that a ``copy`` run copies, one for each of its indices, in order; −1
            otherwise.
        share: For ``copy``: the share α of the source's reader weight that this copy's reader weight has.
    """

    length: int
    start: int = -1
    fact: str = ""
    source: int = -1
    share: float = 1.0

    @property
    def is_new(self) -> bool:
        return self.start < 0


@dataclass(frozen=True)
class AxisMap:
    """Old → new positions on one axis, run-length encoded in the new order."""

    segments: tuple[Segment, ...]

    @classmethod
    def identity(cls, size: int) -> AxisMap:
        return cls((Segment(size, 0),) if size else ())

    @classmethod
    def from_source(cls, source: npt.ArrayLike, fact: str = ANY) -> AxisMap:
        """Encode ``source`` (1-D, old index or −1 per new index); all new runs get the same ``fact``."""
        src = np.asarray(source, np.int64)
        if src.size == 0:
            return cls(())
        old = src >= 0
        breaks = np.flatnonzero((old[1:] != old[:-1]) | (old[1:] & (src[1:] != src[:-1] + 1))) + 1
        starts = [0, *breaks.tolist()]
        ends = [*breaks.tolist(), src.size]
        return cls(
            tuple(
                Segment(e - s, int(src[s])) if old[s] else Segment(e - s, fact=fact)
                for s, e in zip(starts, ends, strict=True)
            )
        )

    @classmethod
    def copying(cls, source: npt.ArrayLike, copied: npt.ArrayLike, shares: npt.ArrayLike = 0.0) -> AxisMap:
        """Encode ``source`` as :meth:`from_source` does, with new indices that copy old ones.

        Args:
            source: Old index or −1, per new index.
            copied: For new indices, the old index that it copies; −1 for ``any``.
            shares: Share of each copy, or of all of them.
        """
        old, copies = np.asarray(source, np.int64), np.asarray(copied, np.int64)
        share = np.broadcast_to(np.asarray(shares, np.float64), old.shape)
        kept = old >= 0
        at = np.where(kept, old, copies)
        kind = np.where(kept, 0, np.where(copies >= 0, 1, 2))
        goes_on = (kind[1:] == kind[:-1]) & ((kind[1:] == 2) | (at[1:] == at[:-1] + 1))
        goes_on &= (kind[1:] != 1) | (share[1:] == share[:-1])
        starts = np.flatnonzero(np.concatenate([[True], ~goes_on])) if old.size else np.zeros(0, np.int64)
        lengths = np.diff(np.append(starts, old.size))
        return cls(
            tuple(
                Segment(n, int(at[s]))
                if kind[s] == 0
                else Segment(n, fact=ANY)
                if kind[s] == 2
                else Segment(n, fact=COPY, source=int(at[s]), share=float(share[s]))
                for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
            )
        )

    @property
    def new_size(self) -> int:
        return sum(s.length for s in self.segments)

    @property
    def old_size(self) -> int:
        return sum(s.length for s in self.segments if not s.is_new)

    @property
    def is_identity(self) -> bool:
        position = 0
        for s in self.segments:
            if s.start != position:
                return False
            position += s.length
        return True

    def source(self) -> npt.NDArray[np.int64]:
        """Old index of each new index, −1 where it is new; int64, shape (new_size,)."""
        if not self.segments:
            return np.zeros(0, np.int64)
        return np.concatenate(
            [
                np.full(s.length, -1, np.int64) if s.is_new else np.arange(s.start, s.start + s.length, dtype=np.int64)
                for s in self.segments
            ]
        )

    def positions(self) -> npt.NDArray[np.int64]:
        """New index of each old index; int64, shape (old_size,). Needs a map whose old indices are 0..n−1."""
        src = self.source()
        kept = np.flatnonzero(src >= 0)
        out = np.full(kept.size, -1, np.int64)
        out[src[kept]] = kept
        return out

    def copied(self) -> npt.NDArray[np.int64]:
        """Old index that each new index is claimed to copy, −1 elsewhere; int64, shape (new_size,)."""
        out = np.full(self.new_size, -1, np.int64)
        position = 0
        for s in self.segments:
            if s.is_new and s.fact == COPY:
                out[position : position + s.length] = np.arange(s.source, s.source + s.length)
            position += s.length
        return out

    def facts(self) -> list[str]:
        """Fact of each new index; empty string at old entries."""
        return [s.fact for s in self.segments for _ in range(s.length)]

    def problems(self) -> str:
        """Why this is no valid map (every old index exactly once, known facts), or an empty string."""
        if any(s.length <= 0 for s in self.segments):
            return "a segment of no length"
        kept = 0
        for start, length in sorted((s.start, s.length) for s in self.segments if not s.is_new):
            if start != kept:
                return "old indices are not each kept exactly once"
            kept += length
        for s in self.segments:
            if s.is_new and s.fact not in FACTS:
                return f"unknown fact {s.fact!r}"
            if s.is_new and s.fact == COPY and not 0 <= s.source <= kept - s.length:
                missing = s.source if s.source < 0 else max(s.source, kept)
                return f"a copy of index {missing}, which does not exist"
            if not math.isfinite(s.share):
                return "a share that is not finite"
        return ""

    def to_json(self) -> list[list[Any]]:
        """``[start, length]`` for an old run; ``[fact, length]`` (copy: and source, share) for a new one."""
        out: list[list[Any]] = []
        for s in self.segments:
            if not s.is_new:
                out.append([s.start, s.length])
            elif s.fact == COPY:
                out.append([s.fact, s.length, s.source, s.share])
            else:
                out.append([s.fact, s.length])
        return out

    @classmethod
    def from_json(cls, data: Iterable[list[Any]]) -> AxisMap:
        """Rebuild from :meth:`to_json` data. Raises ValueError when it is malformed or no valid map."""
        segments = []
        for item in js.items(data, "map"):
            parts = js.items(item, "segment")
            js.require(len(parts) == (4 if parts[:1] == [COPY] else 2), "segment", f"{item!r} is too long or short")
            head, size = parts[0], js.integer(parts[1], "length")
            if head == COPY:
                source, share = js.integer(parts[2], "source"), js.number(parts[3], "share")
                segments.append(Segment(size, fact=head, source=source, share=share))
            elif isinstance(head, str):
                segments.append(Segment(size, fact=head))
            else:
                segments.append(Segment(size, js.integer(head, "start", least=0)))
        made = cls(tuple(segments))
        js.require(not made.problems(), "map", made.problems())
        return made
