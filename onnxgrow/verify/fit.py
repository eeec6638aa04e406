"""Does a growth map fit the models it speaks of? Told from shapes alone, before anything is indexed by it.

A map may name axes that a tensor does not have, or sizes that no memory holds. The tiers that run the models take
entries out of arrays as it says, so where it does not fit they report that and run nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxgrow.axis_map import MEAN
from onnxgrow.concrete.values import constants, dims_of
from onnxgrow.growth_map import CONTENTS, Axes, GrowthMap, TensorGrowth
from onnxgrow.verify.certificate.formulas import OPERAND
from onnxgrow.verify.report import Finding

__all__ = ["axes_difference", "misfits", "shape_difference"]

Shape = tuple[int, ...]


def shape_difference(old: Shape, new: Shape, axes: Axes) -> str:
    """Why shape ``new`` is not ``old`` grown by ``axes``; empty where it is."""
    if len(old) != len(new) or any(not 0 <= axis < len(old) for axis in axes):
        return f"shapes {old} and {new} do not fit the growth map"
    for number, (a, b) in enumerate(zip(old, new, strict=True)):
        axis_map = axes.get(number)
        expected = (a, a) if axis_map is None else (axis_map.old_size, axis_map.new_size)
        if (a, b) != expected:
            return f"axis {number} went from {a} to {b}, the growth map says {expected[0]} to {expected[1]}"
    return ""


def axes_difference(shape: Shape, axes: Axes) -> str:
    """Why maps of axes are none of an array of ``shape`` that has grown; empty where they are."""
    for axis, axis_map in axes.items():
        if not 0 <= axis < len(shape):
            return f"the growth map lists axis {axis}, which its shape {list(shape)} does not have"
        if axis_map.new_size != shape[axis]:
            return f"axis {axis} has size {shape[axis]}, the growth map says {axis_map.new_size}"
    return ""


def misfits(
    original: ir.Model, grown: ir.Model, growth_map: GrowthMap, shapes: Mapping[str, Shape]
) -> tuple[Finding, ...]:
    """What the growth map says of tensors and values that their shapes contradict.

    Args:
        original, grown: The models; no weight is read.
        growth_map: What the result claims.
        shapes: Computed value of ``grown`` → shape, where it is known. Values of unknown shape are left to the tiers.
    """
    return tuple(Finding(name, reason) for name, reason in _misfits(original, grown, growth_map, shapes) if reason)


def _misfits(
    original: ir.Model, grown: ir.Model, growth_map: GrowthMap, shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, str]]:
    listed = [growth.axes for growth in growth_map.tensors.values()] + [v.axes for v in growth_map.values.values()]
    for axis_map in {id(m): m for axes in listed for m in axes.values()}.values():  # many values share one
        yield "growth map", axis_map.problems()
    before, after = constants(original), constants(grown)
    for name, tensor in growth_map.tensors.items():
        if name in after:
            yield name, _tensor_difference(tensor, before.get(tensor.of or name), dims_of(after[name]))
            weighing = before.get(tensor.weights)
            if weighing is not None:
                yield name, _weights_difference(tensor, math.prod(dims_of(weighing)))
    for name, value in growth_map.values.items():
        if name in shapes:
            yield name, axes_difference(shapes[name], value.axes)


def _tensor_difference(growth: TensorGrowth, old: ir.TensorProtocol | None, shape: Shape) -> str:
    difference = axes_difference(shape, growth.axes)
    if any(not 0 <= axis < len(shape) for axis in growth.over):
        return f"means over the axes {list(growth.over)} of {len(shape)}"
    if difference or old is None or growth.formula in (OPERAND, *CONTENTS):
        return difference
    return shape_difference(dims_of(old), shape, growth.axes)


def _weights_difference(growth: TensorGrowth, count: int) -> str:
    """Means are weighed with one number for each old entry."""
    for axis, axis_map in growth.axes.items():
        if axis_map.old_size != count and any(s.fact == MEAN for s in axis_map.segments):
            return f"{count} weights {growth.weights!r} for {axis_map.old_size} entries on axis {axis}"
    return ""
