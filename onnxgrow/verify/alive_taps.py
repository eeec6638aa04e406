"""Can the new taps of enlarged kernels learn?

The gradient of a tap is what it reads times what comes back: so it has to read something else than padding and zeros
somewhere, and moving the new taps has to move the graph's outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import Axes, GrowthMap
from onnxgrow.verify.alive_inserted import ENOUGH, STEP, measured
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.kernels.conv import transposed_sizes
from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.float64.kernels.registry import Array, Call
from onnxgrow.verify.float64.kernels.windows import pad, window_of
from onnxgrow.verify.float64.prepared import Prepared, prepare
from onnxgrow.verify.float64.rerandomise import tensors_of
from onnxgrow.verify.report import AliveResult

__all__ = ["check"]

UNIT = "kernel"
CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class _Site:
    """A convolution with new taps.

    Attributes:
        layer: Name of its weight.
        value: What it reads, (batch, channels, spatial …).
        call: The node, for its attributes.
        kernel: New sizes.
        taps: Positions of the new taps.
    """

    layer: str
    value: ir.Value
    call: Call
    kernel: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]

    def active(self, x: Array) -> Array:
        """Whether each new tap reads anything but padding and zeros."""
        lively = np.asarray((x != 0).any(axis=(0, 1)))
        cells = dict(self._cells(lively))
        return np.array([bool(cells[tap].any()) for tap in self.taps])

    def _cells(self, lively: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Each tap with the cells of the input that it reads (transposed: carries into the output)."""
        if self.call.node.op_type == "Conv":
            window = window_of(self.call, lively.shape, self.kernel)
            padded = pad(lively, window, 0.0)
            yield from ((tap, padded[cells]) for tap, cells in window.taps())
            return
        rank = lively.ndim
        strides = self.call.attr("strides") or (1,) * rank
        dilations = self.call.attr("dilations") or (1,) * rank
        begins, out = transposed_sizes(self.call, lively.shape, self.kernel, strides, dilations)
        for tap in itertools.product(*map(range, self.kernel)):
            around = zip(lively.shape, strides, dilations, begins, out, tap, strict=True)
            kept = [
                np.flatnonzero(((goal := np.arange(n) * s + t * d - b) >= 0) & (goal < o))
                for n, s, d, b, o, t in around
            ]
            yield tap, lively[np.ix_(*kept)]


def check(
    grown: ir.Model, growth_map: GrowthMap, feeds_list: Sequence[Mapping[str, Any]], seed: int = 0
) -> tuple[AliveResult, ...]:
    """For every kernel that got larger: how many of its new taps read something, and whether they move the outputs.

    Args:
        grown: The result.
        growth_map: Says which taps are new; one with channel sets has none.
        feeds_list: Inputs; the first two are used.
        seed: Of the probes.

    Returns:
        One result per weight; ``channels`` counts new taps.
    """
    if growth_map.sets or not feeds_list or not any(t.axes for t in growth_map.tensors.values()):
        return ()
    layers = [name for name, growth in growth_map.tensors.items() if growth.axes]
    try:
        base = prepare(grown)
        sites = list(_sites(base, growth_map))
        layers = list(dict.fromkeys(site.layer for site in sites))
        if not layers:
            return ()
        moved = _moved(grown, {name: growth_map.tensors[name].axes for name in layers}, seed)
        found, moves = measured(base, prepare(grown, moved), sites, feeds_list[:ENOUGH])
    except (NoFloat64Error, EvaluationError) as e:
        return tuple(AliveResult(name, 1, None, f"not measured: {e}", unit=UNIT) for name in layers)
    results = []
    for name in layers:
        active = np.logical_or.reduce([found[site] for site in sites if site.layer == name])
        alive = int(active.sum()) if moves else 0
        note = "its new taps read padding or zeros only, on these inputs"
        if alive:
            note = "gradient reaches its new taps"
        elif not moves:
            note = "moving the new taps moves no output"
        results.append(AliveResult(name, active.size, alive, note, unit=UNIT))
    return tuple(results)


def _sites(base: Prepared, growth_map: GrowthMap) -> Iterator[_Site]:
    grown: dict[str, Axes] = {n: v.axes for n, v in growth_map.values.items()}
    grown |= {n: t.axes for n, t in growth_map.tensors.items()}
    for node in base.order:
        weight = node.inputs[1] if node.op_type in CONVOLUTIONS and len(node.inputs) > 1 else None
        x = node.inputs[0] if weight is not None else None
        axes = grown.get(weight.name or "") if weight is not None else None
        if weight is None or x is None or not axes or weight.shape is None:
            continue
        kernel = tuple(int(n) for n in weight.shape.numpy()[2:])
        old = [
            set(np.flatnonzero(axes[i + 2].source() >= 0)) if i + 2 in axes else set(range(k))
            for i, k in enumerate(kernel)
        ]
        taps = [tap for tap in np.ndindex(*kernel) if any(t not in o for t, o in zip(tap, old, strict=True))]
        if taps and _stored_name(weight) in growth_map.tensors:
            call = Call(node, base.opsets.get("", 1), ())
            yield _Site(_stored_name(weight), x, call, kernel, tuple(taps))


def _stored_name(value: ir.Value) -> str:
    maker = value.producer()
    while maker is not None and maker.op_type != "Constant" and maker.inputs and maker.inputs[0] is not None:
        value, maker = maker.inputs[0], maker.inputs[0].producer()
    return value.name or ""


def _moved(model: ir.Model, axes_of: Mapping[str, Axes], seed: int) -> dict[str, Array]:
    """The weights, by name with the axes that grew, with their new taps moved."""
    held = tensors_of(model.graph)
    found = {}
    for index, (name, axes) in enumerate(sorted(axes_of.items())):
        array = to_float64(held[name].numpy())
        if any(axis >= array.ndim or m.new_size != array.shape[axis] for axis, m in axes.items()):
            continue  # the map does not fit, which accounting says
        new = np.zeros(array.shape, bool)
        for axis, m in axes.items():
            line = [1] * array.ndim
            line[axis] = -1
            new |= (m.source() < 0).reshape(line)
        draws = np.random.Generator(np.random.Philox(key=seed * 100_003 + index))
        scale = float(np.abs(array).max(initial=0.0)) or 1.0
        found[name] = array + new * STEP * scale * draws.uniform(0.5, 1.0, array.shape)
    return found
