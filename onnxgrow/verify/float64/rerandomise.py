"""A cheap test of non-interference: larger new weights must not move what is old.

An exact growth does not depend on what its free new entries hold. So they are scaled up, with other signs, and the same
comparison has to pass again; a fault that small initial values hid in the noise shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.kernels.pieces import FLOATS, Change, Derived, is_large, pieces, whole
from onnxgrow.verify.float64.kernels.registry import Array
from onnxgrow.verify.float64.marks import Marks, draws, free_marks

__all__ = ["SCALE", "rerandomise", "tensors_of"]

SCALE = 3.0


def tensors_of(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Initializers and tensors of Constant nodes of the main graph, by name."""
    found = {name: v.const_value for name, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        if node.op_type == "Constant" and "value" in node.attributes:
            found[str(node.outputs[0].name)] = node.attributes["value"].as_tensor()
    return found


def rerandomise(grown: ir.Model, growth_map: GrowthMap, scale: float = SCALE, seed: int = 0) -> dict[str, Any]:
    """Float64 values for the tensors of ``grown`` that have free new entries: zeros stay, the others grow.

    Signs are drawn anew, except in tensors without a negative entry (variances, scales). Tensors that follow a formula
    are left alone. The result is meant as ``overrides`` of :func:`onnxgrow.verify.float64.prepared.prepare`; large
    tensors are computed when they are read.
    """
    found: dict[str, Any] = {}
    for index, (name, tensor) in enumerate(sorted(tensors_of(grown.graph).items())):
        growth = growth_map.tensors.get(name)
        if growth is None or growth.formula or tensor.dtype not in FLOATS or not growth.axes:
            continue
        array = tensor.numpy()
        free = free_marks(array.shape, growth.axes)
        if free.any_in(array):
            larger = Derived(array, _larger(free, scale, seed * 100_003 + index, _has_negative(array)))
            found[name] = larger if is_large(larger) else whole(larger)
    return found


def _has_negative(array: Array) -> bool:
    return any(bool((part < 0).any()) for _, part in pieces(array))


def _larger(free: Marks, scale: float, seed: int, signed: bool) -> Change:
    """``scale`` times the free entries; with ``signed`` every other one gets the other sign."""

    def change(values: Array, rows: npt.NDArray[np.intp]) -> Array:
        factor = np.where(draws(free.shape, rows, seed) >> np.uint32(31), -scale, scale) if signed else scale
        return np.where(free.at(rows), values * factor, values)

    return change
