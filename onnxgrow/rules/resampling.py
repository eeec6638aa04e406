"""Resize and Upsample: an axis whose scale is exactly 1 passes through, the others do not grow. GridSample, RoiAlign.

Spec: https://onnx.ai/onnx/operators/onnx__Resize.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgrow.algebra import Growth
from onnxgrow.rules.context import IntArray, NodeContext, Terms
from onnxgrow.rules.movement import target_shape
from onnxgrow.rules.registry import register

__all__: list[str] = []

RESIZED = "it is resized"


@register("Resize", "Upsample")
def resize(op: NodeContext) -> Sequence[Terms | None]:
    """Interpolate along axes; a target size (fourth input) follows the growth of axes that pass through."""
    x, sizes = op.terms(0), op.out_shape()
    axes = [op.axis(int(a), len(x)) for a in op.attr("axes") or range(len(x))]
    scales = _scales(op, axes)
    crops = op.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    out = []
    for axis, (term, size) in enumerate(zip(x, sizes, strict=True)):
        unscaled = axis not in axes or scales.get(axis) == 1
        if term.size == size and unscaled and not crops:
            out.append(term)
        else:
            op.freeze_axis(x, axis, RESIZED)
            out.append(op.fresh(size, RESIZED, axis))
    if op.node.op_type == "Resize" and op.has(3):

        def wanted(growth: Growth, natural: IntArray) -> IntArray:
            new = natural.copy()
            for i, axis in enumerate(axes):
                if op.grows(out[axis], growth):
                    new[i] = op.size(out[axis], growth)
            return new

        op.operand(3, target_shape(op, out, wanted))
    return [out]


def _scales(op: NodeContext, axes: Sequence[int]) -> dict[int, float]:
    """Scale of each resized axis as far as known; with target sizes, 1 where the size stays."""
    if op.node.op_type == "Resize" and op.has(3):
        return {a: 1.0 for a in axes if op.shape(0)[a] == op.out_shape()[a]}
    attribute = op.attr("scales")
    if attribute is not None:
        return dict(zip(axes, (float(s) for s in attribute), strict=False))
    for index in (2, 1):
        known = op.constant(index) if op.has(index) else None
        if known is not None and np.asarray(known).size == len(axes):
            return dict(zip(axes, (float(s) for s in np.asarray(known).reshape(-1)), strict=True))
    # Scales computed from data: channels in front of two or more spatial axes are not interpolated by any exporter,
    # but only the op's own operand could prove it.
    return {}


@register("GridSample", "RoiAlign")
def sample(op: NodeContext) -> Sequence[Terms | None]:
    """Every channel of [batch, channels, …] is read at the same positions, which are data."""
    x, sizes = op.terms(0), op.out_shape()
    for i in range(len(op.inputs)):
        if op.has(i):
            op.freeze([t for a, t in enumerate(op.terms(i)) if i or a != 1], "it holds or counts positions")
    positions = op.fresh_all(sizes, "it counts positions")
    return [[positions[0], x[1], *positions[2:]]]
