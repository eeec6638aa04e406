"""Can the parameters of inserted layers learn?

The gradient of a parameter is the value that it multiplies, times what comes back: so that value has to be other than
zero somewhere, and moving the parameters has to move the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import CONTENTS, DRAWN, TAKEN_BACK, GrowthMap
from onnxgrow.verify.ends import ends
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.float64.kernels.registry import Array
from onnxgrow.verify.float64.prepared import Prepared, prepare
from onnxgrow.verify.float64.rerandomise import tensors_of
from onnxgrow.verify.report import AliveResult

__all__ = ["Site", "check", "measured"]

STEP = 2.0**-10
"""How far parameters are moved."""
MOVED = 1e-13
"""Relative change that counts as movement."""
ENOUGH = 2
"""Inputs to look at."""
UNIT = "layer"
LINEAR = ("Conv", "Gemm", "MatMul")
NORMS = (
    *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
    *("RMSNormalization", "SimplifiedLayerNormalization"),
)


@dataclass(frozen=True)
class _Site:
    """A node that multiplies a value by new parameters: one line of ``value`` for each index of ``axis``."""

    layer: str
    value: ir.Value
    axis: int | None

    def active(self, x: Array) -> Array:
        """Whether each line holds anything but zeros."""
        if self.axis is None:
            return np.array([bool(np.any(x))])
        axis = max(self.axis, -x.ndim)  # a vector on the right of a MatMul has one axis only
        lines: Array = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        return np.asarray((lines != 0).any(axis=1))


def check(
    grown: ir.Model, growth_map: GrowthMap, feeds_list: Sequence[Mapping[str, Any]], seed: int = 0
) -> tuple[AliveResult, ...]:
    """For every inserted layer with parameters: how many of the values that they multiply are active.

    Args:
        grown: The result.
        growth_map: Names the new tensors; those of one layer have a name up to the last dot in common.
        feeds_list: Inputs; the first two are used.
        seed: Of the probes.

    Returns:
        One result per layer. ``channels`` counts input channels of identity layers, and the factors of an ActiSwitch.
    """
    formulas = {name: growth.formula for name, growth in growth_map.tensors.items()}
    names = [name for name, formula in formulas.items() if formula in CONTENTS and formula not in (DRAWN, TAKEN_BACK)]
    if not names or not feeds_list:
        return ()
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    try:
        base = prepare(grown)
        sites = [site for node in base.order for site in _sites(node, frozenset(names))]
        layers = list(dict.fromkeys(site.layer for site in sites))
        found, moves = measured(base, prepare(grown, _moved(grown, names, seed)), sites, feeds_list[:ENOUGH])
    except (NoFloat64Error, EvaluationError) as e:
        return tuple(AliveResult(name, 1, None, f"not measured: {e}", unit=UNIT) for name in layers)
    results = []
    for name in layers:
        active = np.concatenate([found[site] for site in sites if site.layer == name])
        alive = int(active.sum()) if moves else 0
        note = "what its parameters multiply is zero on these inputs"
        if alive:
            note = "gradient reaches its parameters"
        elif not moves:
            note = "moving the parameters of the inserted layers moves no output"
        results.append(AliveResult(name, active.size, alive, note, unit=UNIT))
    return tuple(results)


def _sites(node: ir.Node, names: frozenset[str]) -> list[_Site]:
    inputs = [v for v in node.inputs if v is not None]
    held = [_stored(v) for v in inputs]
    own = [v for v in inputs if v.name in names]
    if node.op_type in (*LINEAR, *NORMS) and len(inputs) > 1:
        for weight, data in ((1, 0), (0, 1)) if node.op_type in ("Gemm", "MatMul") else ((1, 0),):
            if held[weight].name in names:
                return [_Site(_layer(held[weight]), inputs[data], _read_axis(node, data))]
    if node.op_type == "Mul" and len(own) == 1 and len(inputs) == 2:
        factor, other = own[0], inputs[1 - inputs.index(own[0])]
        sizes = [] if factor.shape is None else [int(n) for n in factor.shape.numpy()]
        varied = [axis - len(sizes) for axis, n in enumerate(sizes) if n > 1]
        return [_Site(_layer(factor), other, varied[0] if varied else None)]
    return []


def _read_axis(node: ir.Node, data: int) -> int:
    """The axis of input ``data`` along which a linear layer or a norm multiplies new parameters."""
    if node.op_type == "Gemm":
        turned = bool(node.attributes.get_int("transB" if data else "transA", 0))
        return data if turned else 1 - data
    if node.op_type == "MatMul":
        return -2 if data else -1
    return -1 if "Layer" in node.op_type or "RMS" in node.op_type else 1


def _stored(value: ir.Value) -> ir.Value:
    """The constant that a weight is, turned as it may be."""
    maker = value.producer()
    while maker is not None and maker.op_type in ("Cast", "Identity", "Reshape", "Transpose") and maker.inputs[0]:
        value, maker = maker.inputs[0], maker.inputs[0].producer()
    return value


def _layer(value: ir.Value) -> str:
    return (value.name or "").rpartition(".")[0]


def _moved(model: ir.Model, names: Sequence[str], seed: int) -> dict[str, Array]:
    held = tensors_of(model.graph)
    found = {}
    for index, name in enumerate(sorted(held.keys() & names)):  # one that is listed only, accounting names
        array = to_float64(held[name].numpy())
        draws = np.random.Generator(np.random.Philox(key=seed * 100_003 + index))
        found[name] = array + STEP * draws.uniform(0.5, 1.0, array.shape) / max(1, array.shape[-1] if array.ndim else 1)
    return found


class Site(Protocol):
    """Where new parameters meet a value."""

    @property
    def value(self) -> ir.Value: ...
    def active(self, x: Array) -> Array:
        """Which of them meet anything but zeros."""


S = TypeVar("S", bound=Site)


def measured(
    base: Prepared, moved: Prepared, sites: Sequence[S], feeds_list: Sequence[Mapping[str, Any]]
) -> tuple[dict[S, Array], bool]:
    """Activity at every site over all feeds, and whether ``moved`` gives out others than ``base``."""
    found: dict[S, Array] = {}
    by_value: dict[ir.Value, list[S]] = {}
    for site in sites:
        by_value.setdefault(site.value, []).append(site)

    def note(value: ir.Value, x: Any) -> None:
        for site in by_value.get(value, ()):
            active = site.active(np.asarray(x))
            found[site] = found[site] | active if site in found else active

    moves = False
    for feeds in feeds_list:
        outputs = []
        for prepared in (base, moved):
            inputs = prepared.inputs(feeds)
            entries = ends(prepared)
            run = prepared.interpreter(inputs, entries)
            if prepared is base:
                for value in prepared.graph.inputs:
                    if value in run.values:
                        note(value, run.values[value])
            for node, made in run.steps():
                if prepared is base:
                    for value, x in zip(node.outputs, made, strict=True):
                        note(value, x)
            outputs.append([run.read(v) for v in entries])
        for old, new in zip(*outputs, strict=True):
            apart = difference(old, new)
            moves |= bool(apart.fault) or apart.relative > MOVED
    return found, moves
