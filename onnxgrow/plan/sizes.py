"""How many channels a set gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from onnxgrow.errors import UsageError

__all__ = ["DEFAULT_FACTOR", "Target"]

DEFAULT_FACTOR = 2.0
"""Widening once by two is what paid off in training; larger single steps did not."""

ADVISED_FACTOR = 4.0
LARGEST = 2**41
"""Most channels that a set can get: arrays and kernels count entries in 64 bits, of several axes together."""


@dataclass(frozen=True)
class Target:
    """The wanted size of every selected set: at most one of ``factor``, ``add`` and ``to``.

    Attributes:
        factor: New size as a multiple (> 1) of the old one, rounded up.
        add: Channels added, ≥ 1.
        to: New size; sets that already have as many are left alone.
        multiple_of: New sizes are rounded up to a multiple of this, ≥ 1.
    """

    factor: float | None = None
    add: int | None = None
    to: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        given = [n for n in ("factor", "add", "to") if getattr(self, n) is not None]
        if len(given) > 1:
            raise UsageError(" and ".join(given), "only one of them can be given")
        if self.factor is not None and not (math.isfinite(self.factor) and self.factor > 1):
            raise UsageError("factor", f"{self.factor} is not a number above 1")
        if self.add is not None and self.add < 1:
            raise UsageError("add", f"{self.add} is not at least 1")
        if self.to is not None and self.to < 1:
            raise UsageError("to", f"{self.to} is not at least 1")
        if self.multiple_of < 1:
            raise UsageError("multiple-of", f"{self.multiple_of} is not at least 1")

    def size(self, old: int) -> int:
        """New size of a set of ``old`` channels; ``old`` where it is left alone."""
        if self.to is not None:
            wanted = self.to
        elif self.add is not None:
            wanted = old + self.add
        else:
            wanted = math.ceil(Fraction(str(self.factor or DEFAULT_FACTOR)) * old)
        if wanted <= old:
            return old
        rounded = -(-wanted // self.multiple_of) * self.multiple_of
        if rounded > LARGEST:
            raise UsageError("size", f"{old} channels would become more than {LARGEST:,}")
        return rounded
