"""Where grown activations are read: by weights, or by another computed value (queries by keys).

The alive check looks at these places, and moves only entries on the axes that a weight writes, or only those it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import AxisMap, GrowthMap, TensorGrowth
from onnxgrow.verify.float64.interpreter import values_read
from onnxgrow.verify.float64.kernels.registry import Array
from onnxgrow.verify.float64.prepared import Prepared
from onnxgrow.verify.float64.restrict import Origin, axes_of, origins

__all__ = ["Layout", "Site", "entries"]

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})


@dataclass(frozen=True)
class Site:
    """A value at which a channel set is read.

    Attributes:
        reader: The weight that reads it; empty where another computed value does.
        value: The activation with its new channels; for a contraction of two computed values, the contraction's result.
        axis: The grown axis of ``value``; −1 for a contraction, whose result has no such axis.
    """

    reader: str
    value: str
    axis: int = -1


def entries(shape: Sequence[int], axes: Mapping[int, AxisMap], old_on: Iterable[int] = ()) -> Array:
    """Mask of the entries of a tensor that are new on one of ``axes``, less those that are new on axis ``old_on``."""
    mask, excluded = np.zeros(shape, bool), np.zeros(shape, bool)
    for axis, axis_map in axes.items():
        line = [1] * len(shape)
        line[axis] = shape[axis]
        new = (axis_map.source() < 0).reshape(line)
        if axis in old_on:
            excluded |= new
        else:
            mask |= new
    return mask & ~excluded


class Layout:
    """The result's graph, as far as it says where weights write and read."""

    def __init__(self, prepared: Prepared, growth_map: GrowthMap, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.prepared = prepared
        self.shapes = shapes
        self.growth_map = growth_map
        self.kinds = origins(prepared.order, prepared.graph.inputs, growth_map)
        self.by_name = {
            str(v.name): v
            for v in (*prepared.graph.inputs, *prepared.graph.initializers.values(), *prepared.by_name.values())
        }

        self.pieces: dict[str, list[str]] = {}
        for name, growth in growth_map.tensors.items():
            if growth.axes:
                self.pieces.setdefault(growth.of or name, []).append(name)

    def tensors_named(self, names: Iterable[str]) -> list[str]:
        """The tensors of the result that hold what the original has under ``names``.

        A weight that a node computed from constants becomes a new initializer, and one that an exporter merged from
        several may fall into pieces of names of their own: the map's ``of`` leads to them.
        """
        return list(dict.fromkeys(piece for name in names for piece in self.pieces.get(name, [name])))

    def is_data(self, value: ir.Value) -> bool:
        """Whether a value depends on the graph's inputs."""
        return self.kinds.get(value, Origin()).data

    def data_nodes(self, name: str) -> list[tuple[ir.Node, ir.Value]]:
        """Where a weight, transposed or cast on its way perhaps, first meets data: nodes, and the value they read."""
        start = self.by_name.get(name)
        reached, found = {start}, []
        for node in self.prepared.order if start is not None else ():
            read = [v for v in values_read(node) if v in reached]
            if not read:
                continue
            if any(self.is_data(v) for v in values_read(node)):
                found.append((node, read[0]))
            else:
                reached.update(node.outputs)
        return found

    def writing_axes(self, name: str, growth: TensorGrowth, rank: int) -> set[int]:
        """The grown axes of a weight along which its node makes new channels, as opposed to reading them."""
        found: set[int] = set()
        for node, read in self.data_nodes(name):
            if read.name == name and node.domain in ("", "ai.onnx"):
                found |= set(growth.axes) & _writing(node, node.inputs.index(read), rank)
            else:
                made = [m for v in node.outputs for m in axes_of(v.name or "", self.growth_map).values()]
                found |= {axis for axis, axis_map in growth.axes.items() if axis_map in made}
        return found

    def reading_sites(self, reader: str) -> list[Site]:
        """The grown activations that a weight meets."""
        found = []
        for node, _ in self.data_nodes(reader):
            for value in dict.fromkeys(v for v in node.inputs if v is not None and self.is_data(v)):
                for axis, axis_map in axes_of(value.name or "", self.growth_map).items():
                    if (axis_map.source() < 0).any():
                        found.append(Site(reader, str(value.name), axis))
        return found

    def written(self, writers: Iterable[str]) -> tuple[set[str], list[Site]]:
        """Where the channels that ``writers`` write arrive.

        Returns:
            Names of the grown values up to the next weights, and the products of two computed values in which the
            channels are summed up.
        """
        grown: set[ir.Value] = set()
        starts = {node for name in writers for node, _ in self.data_nodes(name)}
        contractions = []
        for node in self.prepared.order:
            inputs = [v for v in node.inputs if v is not None]
            reached = [v for v in inputs if v in grown]
            if node in starts:
                grown.update(v for v in node.outputs if axes_of(v.name or "", self.growth_map))
            elif reached and node.op_type == "MatMul" and all(self.is_data(v) for v in inputs):
                if any(self._summed(v, inputs.index(v)) for v in reached):
                    contractions.append(Site("", str(node.outputs[0].name)))
            elif reached and node.op_type not in _LINEAR:
                grown.update(v for v in node.outputs if axes_of(v.name or "", self.growth_map))
        return {v.name or "" for v in grown}, contractions

    def _summed(self, value: ir.Value, index: int) -> bool:
        axes = axes_of(value.name or "", self.growth_map)
        shape = self.shapes.get(value.name or "", value.shape)
        rank = len(shape) if shape is not None else max(axes, default=0) + 1
        return (rank - 2 if index else rank - 1) in axes


def _writing(node: ir.Node, index: int, rank: int) -> set[int]:
    """Axes of input ``index`` (a weight of that rank) that become axes of the output: all where none is summed up."""
    if node.op_type == "Conv" and index == 1:
        return {0}
    if node.op_type == "ConvTranspose" and index == 1:
        return {1}
    if node.op_type == "Gemm" and index < 2:
        flag = node.attributes.get("transB" if index else "transA")
        swapped = flag is not None and bool(flag.as_int())
        return {1 - index if swapped else index}
    if node.op_type == "MatMul":
        return set(range(rank)) - {rank - 2 if index else rank - 1}
    if node.op_type in _RECURRENT and index in (1, 2):
        return {0, 1}
    return set(range(rank))
