"""The growth map's claims about single values, checked for consistency with the concrete shapes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from onnxgrow.axis_map import COPY, MEAN, ZERO
from onnxgrow.growth_map import SCALED, Axes, GrowthMap, TensorGrowth
from onnxgrow.verify.certificate.axis import Axis, AxisTable, IntArray, Mask
from onnxgrow.verify.certificate.factors import square_of
from onnxgrow.verify.certificate.facts import unprovable
from onnxgrow.verify.certificate.side import Side
from onnxgrow.verify.certificate.state import Claim, ProofError

__all__ = ["Claims"]


class Claims:
    """Looks up what the growth map claims of a value of the result. Unlisted values are claimed not to have grown."""

    def __init__(self, growth_map: GrowthMap, old: Side, new: Side, table: AxisTable) -> None:
        self.map = growth_map
        self.old = old
        self.new = new
        self.table = table

    def of(self, name: str) -> str:
        """Name of the original's value that ``name`` stands for; empty when it stands for none."""
        entry = self.map.tensors.get(name) or self.map.values.get(name)
        counterpart = (entry.of if entry is not None else "") or name
        return counterpart if self.old.exists(counterpart) else ""

    def listed(self, name: str) -> bool:
        return name in self.map.tensors or name in self.map.values

    def claim(self, name: str, of: str) -> Claim:
        """The claim that ``name`` stands for ``of``. Raises ProofError where the map contradicts the shapes."""
        entry = self.map.tensors.get(name) or self.map.values.get(name)
        listed: Axes = entry.axes if entry is not None else {}
        shape, old_shape = self.new.shape(name), self.old.shape(of)
        if shape is None or old_shape is None:
            if listed:
                raise ProofError("its shape is not known, so its growth cannot be proved")
            return Claim(name, of, shape, old_shape, (), listed=entry is not None)
        if len(shape) != len(old_shape):
            raise ProofError(f"rank {len(old_shape)} became {len(shape)}")
        stray = [axis for axis in listed if not 0 <= axis < len(shape)]
        if stray:
            raise ProofError(f"the growth map lists axis {stray[0]}, which does not exist")
        axes: list[Axis] = []
        zero: dict[int, Mask] = {}
        mean: dict[int, Mask] = {}
        copies: dict[int, IntArray] = {}
        for number, (size, old_size) in enumerate(zip(shape, old_shape, strict=True)):
            axis_map = listed.get(number)
            # Sizes first: a map may speak of more entries than any memory holds.
            said = (old_size, old_size) if axis_map is None else (axis_map.old_size, axis_map.new_size)
            if said != (old_size, size):
                raise ProofError(
                    f"axis {number} went from {old_size} to {size}, the growth map says {said[0]} to {said[1]}"
                )
            axis = self.table.identity(old_size) if axis_map is None else self.table.from_map(axis_map)
            if isinstance(axis, str):
                raise ProofError(f"axis {number} of the growth map: {axis}")
            axes.append(axis)
            if axis_map is None:
                continue
            for reason in (unprovable(segment) for segment in axis_map.segments):
                if reason:
                    raise ProofError(reason)
            facts = {segment.fact for segment in axis_map.segments if segment.is_new}
            for fact, masks in ((ZERO, zero), (MEAN, mean)):
                if fact in facts:
                    masks[number] = np.concatenate(
                        [np.full(s.length, s.is_new and s.fact == fact) for s in axis_map.segments]
                    )
            if COPY in facts:
                copies[number] = axis_map.copied()
        weights, square = "", Fraction(1)
        over: tuple[int, ...] = ()
        if isinstance(entry, TensorGrowth):
            weights, over = entry.weights, entry.over
            if any(not 0 <= number < len(shape) or not axes[number].identity for number in over):
                raise ProofError("means over axes that do not exist, or that grew themselves")
            square = square_of(entry.factor) if entry.formula == SCALED else square
        elif entry is not None:
            square = square_of(entry.factor)
        return Claim(
            *(name, of, shape, old_shape, tuple(axes), zero, mean, copies),
            weights=weights,
            over=over,
            square=square,
            listed=entry is not None,
        )
