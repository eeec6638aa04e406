"""The old region of a grown array, and what depends on data, on shapes, or on formulas.

Restrict property: growth is exact when the old region of *every* computed value is unchanged, not only of the outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.interpreter import values_read
from onnxgrow.verify.float64.kernels.registry import Array

__all__ = ["Origin", "axes_of", "counterparts", "factor_of", "old_region", "origins", "with_old_region"]


def old_region(grown: Array, axes: Mapping[int, AxisMap]) -> Array:
    """The entries of ``grown`` that stand for old ones, in the old order.

    Raises:
        ValueError: The map does not fit the array's shape.
    """
    for axis, axis_map in sorted(axes.items()):
        if not 0 <= axis < grown.ndim or grown.shape[axis] != axis_map.new_size:
            raise ValueError(f"shape {list(grown.shape)} does not fit the growth map on axis {axis}")
        if not axis_map.is_identity or axis_map.new_size != axis_map.old_size:
            kept = axis_map.positions()
            if kept.size and np.array_equal(kept, np.arange(kept[0], kept[0] + kept.size)):  # a view, no copy
                grown = grown[(slice(None),) * axis + (slice(kept[0], kept[-1] + 1),)]
            else:
                grown = np.take(grown, kept, axis=axis)
    return grown


def with_old_region(grown: Array, axes: Mapping[int, AxisMap], old: Array) -> Array:
    """A copy of ``grown`` whose entries that stand for old ones are ``old``; the shapes have to fit."""
    filled = np.array(grown)
    places = [
        axes[i].positions() if i in axes and not axes[i].is_identity else np.arange(size)
        for i, size in enumerate(grown.shape)
    ]
    filled[np.ix_(*places)] = old
    return filled


def axes_of(name: str, growth_map: GrowthMap) -> Mapping[int, AxisMap]:
    """The axes on which a computed value (or the output of a Constant node) of the result grew."""
    growth = growth_map.values.get(name) or growth_map.tensors.get(name)
    return {} if growth is None else growth.axes


def counterparts(order: Iterable[ir.Node], known: Collection[str], growth_map: GrowthMap) -> dict[str, str]:
    """Computed value of the result → the value of the original it stands for.

    Args:
        order: Nodes of the result.
        known: Names of the computed values of the original.
        growth_map: What the result claims.
    """
    inserted = set(growth_map.inserted)
    found = {}
    for node in order:
        names = [value.name for value in node.outputs if value.name]
        if names and names[0] in inserted:
            continue
        for name in names:
            growth = growth_map.values.get(name) or growth_map.tensors.get(name)
            stands_for = (growth.of if growth is not None else "") or name
            if stands_for in known:
                found[name] = stands_for
    return found


def factor_of(name: str, growth_map: GrowthMap) -> float:
    """What the old entries of a computed value of the result are multiplied by."""
    growth = growth_map.values.get(name)
    return 1.0 if growth is None else growth.factor


@dataclass(frozen=True)
class Origin:
    """What a value is computed from.

    Attributes:
        data: The graph's inputs (their entries, not only their shapes).
        shape: Shapes of values.
        formula: Constants that a named formula, or an operand of a shape operator, changed.
    """

    data: bool = False
    shape: bool = False
    formula: bool = False

    def __or__(self, other: Origin) -> Origin:
        return Origin(self.data or other.data, self.shape or other.shape, self.formula or other.formula)

    @property
    def comparable(self) -> bool:
        """Whether the old region has to be unchanged.

        A value that is computed from shapes or changed constants alone may differ (an axis that grew is longer); it
        is judged by the values that it leads to.
        """
        return self.data or not (self.shape or self.formula)


def origins(order: Sequence[ir.Node], fed: Iterable[ir.Value], growth_map: GrowthMap) -> dict[ir.Value, Origin]:
    """The origin of every value that a node of ``order`` computes; ``growth_map`` describes the same model."""
    # Before IR version 4 every initializer is listed as an input, too: that makes it no data.
    found: dict[ir.Value, Origin] = {value: Origin(data=True) for value in fed if not value.is_initializer()}
    for node in order:
        origin = Origin()
        for value in values_read(node):
            origin |= found.get(value) or Origin(formula=_changed(value, growth_map))
        if node.op_type in ("Shape", "Size"):
            origin = Origin(shape=True)
        for value in node.outputs:
            found[value] = origin | Origin(formula=_changed(value, growth_map))
    return found


def _changed(value: ir.Value, growth_map: GrowthMap) -> bool:
    tensor = growth_map.tensors.get(value.name or "")
    return tensor is not None and bool(tensor.formula)
