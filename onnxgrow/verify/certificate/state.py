"""What is claimed and what is proved of one value of the grown model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask

__all__ = ["SCALAR", "Claim", "ProofError", "Proved", "Unrelated", "Zeros"]


class ProofError(Exception):
    """Something could not be proved; the text says what. Never leaves the certificate: it becomes a finding."""


@dataclass(frozen=True)
class Claim:
    """What the growth map says of a value.

    Attributes:
        name: The value of the result.
        of: The value of the original that it stands for.
        shape, old_shape: Concrete shapes; None where unknown (sequences, maps), then nothing grew.
        axes: One map per axis.
        zero: Axis → new indices at which the value is claimed to be exactly 0.
        mean: Axis → new indices at which it is claimed to be the mean of all old ones.
        copies: Axis → old index that each new index is claimed to repeat, −1 elsewhere.
        weights: Constant of the original that weighs the old entries in a mean; empty when they count alike.
        over: Further axes that a mean is taken over.
        square: Square of the factor that old entries are multiplied by.
        listed: Whether the growth map lists the value.
    """

    name: str
    of: str
    shape: tuple[int, ...] | None
    old_shape: tuple[int, ...] | None
    axes: tuple[Axis, ...]
    zero: Mapping[int, Mask] = field(default_factory=dict)
    mean: Mapping[int, Mask] = field(default_factory=dict)
    copies: Mapping[int, IntArray] = field(default_factory=dict)
    weights: str = ""
    over: tuple[int, ...] = ()
    square: Fraction = Fraction(1)
    listed: bool = False

    @property
    def identity(self) -> bool:
        """Whether no axis grew and no entry changed."""
        return self.square == 1 and all(axis.identity for axis in self.axes)


Zeros = Mapping[int, Mask]
"""Axis → True at every index where the whole slab of the value is proved to be exactly 0 (of either sign)."""

SCALAR = -1
"""Stands for the axis that a scalar does not have, so that a scalar can be proved zero, too."""


class Proved:
    """A value whose restrict property holds: at old indices it equals the original's value.

    Args:
        claim: The maps that were proved.
        zeros: Proved zero slabs, or how to find them when they are first asked for.
    """

    def __init__(self, claim: Claim, zeros: Zeros | Callable[[], Zeros]) -> None:
        self.claim = claim
        self._zeros = zeros

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One map per axis. Raises ProofError where the shape is not known: such a value is no scalar."""
        if self.claim.shape is None:
            raise ProofError(f"the shape of {self.claim.name!r} is not known")
        return self.claim.axes

    @property
    def identity(self) -> bool:
        return self.claim.identity

    @property
    def square(self) -> Fraction:
        """Square of the factor on its old entries."""
        return self.claim.square

    @property
    def shape(self) -> tuple[int, ...]:
        if self.claim.shape is None:
            raise ProofError(f"the shape of {self.claim.name!r} is not known")
        return self.claim.shape

    @property
    def old_shape(self) -> tuple[int, ...]:
        if self.claim.old_shape is None:
            raise ProofError(f"the shape of {self.claim.of!r} is not known")
        return self.claim.old_shape

    @property
    def zeros(self) -> Zeros:
        """Proved zero slabs, found when first asked for."""
        if callable(self._zeros):
            self._zeros = self._zeros()
        return self._zeros

    def zero(self, axis: int) -> Mask:
        """Zero slabs along one axis; all False where nothing is known. Shape (size of the axis,)."""
        known = self.zeros.get(axis)
        return np.zeros(self.axes[axis].size, np.bool_) if known is None else known

    @property
    def all_zero(self) -> bool:
        """Whether the whole value is proved to be 0."""
        return any(bool(mask.all()) for mask in self.zeros.values())


@dataclass(frozen=True)
class Unrelated:
    """A value without a restrict property: whatever reads it must be proved without it."""

    reason: str
