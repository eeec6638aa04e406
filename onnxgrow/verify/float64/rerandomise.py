"""A cheap test of non-interference: larger new weights must not move what is old.

An exact growth does not depend on what its free new entries hold. So they are scaled up, with other signs, and the same
comparison has to pass again; a fault that small initial values hid in the noise shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import ANY, GrowthMap, TensorGrowth
from onnxgrow.verify.float64.kernels.dtype import FLOATS, to_float64
from onnxgrow.verify.float64.kernels.registry import Array

__all__ = ["SCALE", "free_entries", "rerandomise", "tensors_of"]

SCALE = 3.0


def tensors_of(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Initializers and tensors of Constant nodes of the main graph, by name."""
    found = {name: v.const_value for name, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        if node.op_type == "Constant" and "value" in node.attributes:
            found[str(node.outputs[0].name)] = node.attributes["value"].as_tensor()
    return found


def free_entries(shape: tuple[int, ...], growth: TensorGrowth) -> Array:
    """Mask of the new entries of which nothing is claimed: new on at least one axis, and ``any`` on each such axis."""
    new, bound = np.zeros(shape, bool), np.zeros(shape, bool)
    for axis, axis_map in growth.axes.items():
        line = [1] * len(shape)
        line[axis] = shape[axis]
        new |= (axis_map.source() < 0).reshape(line)
        bound |= np.asarray([fact not in ("", ANY) for fact in axis_map.facts()]).reshape(line)
    return new & ~bound


def rerandomise(grown: ir.Model, growth_map: GrowthMap, scale: float = SCALE, seed: int = 0) -> dict[str, Any]:
    """Float64 values for the tensors of ``grown`` that have free new entries: zeros stay, the others grow.

    Signs are drawn anew, except in tensors without a negative entry (variances, scales). Tensors that follow a formula
    are left alone. The result is meant as ``overrides`` of :func:`onnxgrow.verify.float64.lockstep.prepare`.
    """
    found: dict[str, Any] = {}
    for index, (name, tensor) in enumerate(sorted(tensors_of(grown.graph).items())):
        growth = growth_map.tensors.get(name)
        if growth is None or growth.formula or tensor.dtype not in FLOATS or not growth.axes:
            continue
        array = to_float64(tensor.numpy())
        free = free_entries(array.shape, growth)
        if not np.any(array[free]):
            continue
        factor = np.full(array.shape, scale)
        if (array < 0).any():
            draws = np.random.Generator(np.random.Philox(key=seed * 100_003 + index)).integers(0, 2, array.shape)
            factor *= 2 * draws - 1
        found[name] = np.where(free, array * factor, array)
    return found
