"""Formulas before they were rounded: what a result would hold if its numbers had more digits.

A norm compensation or a mean is stored rounded once to its tensor's type, which moves a network by a unit of that
type. That it is that number rounded is the certificate's business; here it is put in with all its digits, so that the
comparison sees faults as small as 1e-13 instead of such roundings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import MEAN, AxisMap
from onnxgrow.concrete.values import constants
from onnxgrow.growth_map import SCALED, TAKEN_BACK, GrowthMap, TensorGrowth
from onnxgrow.io.copy import copy_model

__all__ = ["unrounded", "with_exact_attributes"]


def unrounded(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> dict[str, Any]:
    """Float64 values of the tensors of ``grown`` that follow a formula.

    Args:
        original, grown: The models; only tensors of the main graph.
        growth_map: Names the formulas, and the axes along which new entries are means.
    """
    found: dict[str, Any] = {}
    old_tensors, new_tensors = constants(original), constants(grown)
    for name, growth in growth_map.tensors.items():
        means = [axis for axis, m in growth.axes.items() if MEAN in m.facts()]
        if growth.formula == TAKEN_BACK:
            found[name] = np.asarray(growth.factor, np.float64)
        tensor, source = new_tensors.get(name), old_tensors.get(growth.of or name)
        if tensor is None or source is None or not (means or growth.formula == SCALED):
            continue
        values = np.asarray(tensor.numpy()).astype(np.float64)
        if growth.formula == SCALED:
            values[_old(growth, values.shape)] = np.asarray(source.numpy()).astype(np.float64) * growth.factor
            for axis, axis_map in growth.axes.items():
                _repeat(np.moveaxis(values, axis, 0), axis_map)
        weighing = old_tensors.get(growth.weights)
        for axis in means:
            weights = None if weighing is None else np.asarray(weighing.numpy()).astype(np.float64).reshape(-1)
            _average(values, growth, axis, weights)
        found[name] = values
    return found


def _old(growth: TensorGrowth, shape: tuple[int, ...]) -> Any:
    """Index of the old entries, in the old order."""
    return np.ix_(*(growth.axes[a].positions() if a in growth.axes else np.arange(n) for a, n in enumerate(shape)))


def _repeat(lines: Any, axis_map: AxisMap) -> None:
    """Put the old entries along the first axis into the new ones that are claimed to be copies of them."""
    copied = axis_map.copied()
    lines[copied >= 0] = lines[axis_map.positions()[copied[copied >= 0]]]


def _average(values: Any, growth: TensorGrowth, axis: int, weights: Any) -> None:
    """Put the mean of the old entries along an axis, and over others, into the new ones that are claimed to be it."""
    axis_map = growth.axes[axis]
    old = np.take(values, axis_map.positions(), axis=axis)
    if weights is not None:
        old = old * weights.reshape([-1 if a == axis else 1 for a in range(old.ndim)])
    new = np.asarray([fact == MEAN for fact in axis_map.facts()])
    np.moveaxis(values, axis, 0)[new] = np.moveaxis(old.mean(axis=(axis, *growth.over), keepdims=True), axis, 0)


def with_exact_attributes(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> ir.Model:
    """``grown``, or a copy of it in which an ``epsilon`` that was scaled has all its digits.

    The factor is that of the normalised axis: the share of old entries on the only axis of the node's input that grew
    and is normalised over. Where that is not to be seen the attribute stays as it is stored.
    """
    changes: Mapping[str, float] = {
        key: exact
        for key, change in growth_map.nodes.items()
        if "epsilon" in change.attributes and (exact := _exact(key, original, growth_map)) is not None
    }
    if not changes:
        return grown
    copied = copy_model(grown)  # nodes may stand in any order
    for node in copied.graph:
        key = next((v.name for v in node.outputs if v.name), "") or ""
        if key in changes:
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", changes[key])
    return copied


def _exact(key: str, original: ir.Model, growth_map: GrowthMap) -> float | None:
    node = next((n for n in original.graph if any(v.name == key for v in n.outputs)), None)
    growth = growth_map.values.get(key)
    if node is None or growth is None or not growth.axes:
        return None
    last = growth.axes[max(growth.axes)]
    if not last.new_size:
        return None
    old = np.float64(np.float32(node.attributes.get_float("epsilon", 1e-5)))
    return float(old * last.old_size / last.new_size)
