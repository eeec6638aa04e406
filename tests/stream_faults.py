"""Faults put into residual streams that grew, each with a growth map that does not give it away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import AxisMap
from onnxgrow.concrete.values import constants
from onnxgrow.growth_map import GrowthMap, TensorGrowth, ValueGrowth

__all__ = ["Faulty", "free", "listed", "put", "stored", "with_other_rows", "without_factor"]

Faulty = tuple[ir.Model, GrowthMap]


def stored(model: ir.Model, name: str) -> np.ndarray:
    return np.array(constants(model)[name].numpy())


def put(model: ir.Model, name: str, values: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(values, name=name)


def listed(growth_map: GrowthMap, name: str, growth: TensorGrowth) -> GrowthMap:
    return replace(growth_map, tensors={**growth_map.tensors, name: growth})


def without_factor(old: ir.Model, new: ir.Model, growth_map: GrowthMap, name: str) -> Faulty:
    """The scale (or ε) of a norm is left as it was."""
    growth = growth_map.tensors[name]
    values = stored(new, name)
    index = tuple(m.positions() for _, m in sorted(growth.axes.items()))
    values[np.ix_(*index) if index else ()] = stored(old, name)
    put(new, name, values)
    if not growth.axes:
        rest = {k: t for k, t in growth_map.tensors.items() if k != name}
        return new, replace(growth_map, tensors=rest)
    return new, listed(growth_map, name, replace(growth, formula="", factor=1.0))


def with_other_rows(old: ir.Model, new: ir.Model, growth_map: GrowthMap, name: str = "w0", axis: int = 1) -> Faulty:
    """New channels that are no combination of the old ones, and nothing is claimed of them."""
    values = np.moveaxis(stored(new, name), axis, 0)
    added = growth_map.tensors[name].axes[axis].source() < 0
    values[added] = np.random.default_rng(0).normal(size=values[added].shape)
    put(new, name, np.ascontiguousarray(np.moveaxis(values, 0, axis)))
    return new, free(growth_map)


def free(growth_map: GrowthMap) -> GrowthMap:
    """The map without any claim on new entries."""

    def axes(given: Mapping[int, AxisMap]) -> dict[int, AxisMap]:
        return {a: AxisMap.from_source(m.source()) for a, m in given.items()}

    tensors = {k: replace(t, axes=axes(t.axes)) for k, t in growth_map.tensors.items()}
    values = {k: ValueGrowth(axes(v.axes), v.of, v.factor) for k, v in growth_map.values.items()}
    return replace(growth_map, tensors=tensors, values=values)
