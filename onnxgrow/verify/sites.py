"""Where grown activations are read: by weights, or by another computed value (queries by keys).

The alive check looks at these places, and moves only entries on the axes that a weight writes, or only those it reads.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap, TensorGrowth
from onnxgrow.verify.equation import letters
from onnxgrow.verify.float64.interpreter import values_read
from onnxgrow.verify.float64.prepared import Prepared
from onnxgrow.verify.float64.restrict import Origin, axes_of, origins

__all__ = ["Layout", "Site"]

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention"})


@dataclass(frozen=True)
class Site:
    """A value at which a channel set is read.

    Attributes:
        reader: The weight that reads it; empty where another computed value does, or the caller.
        value: The activation with its new channels; for a contraction of two computed values, the contraction's result;
            where only the caller reads it, the graph output.
        axis: The grown axis of ``value``; −1 for a contraction, whose result has no such axis.
    """

    reader: str
    value: str
    axis: int = -1


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

        self._place = {node: i for i, node in enumerate(prepared.order)}
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in prepared.order:
            for value in dict.fromkeys(values_read(node)):
                self._readers.setdefault(value, []).append(node)
        self._met: dict[str, list[tuple[ir.Node, ir.Value]]] = {}
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
        if name not in self._met:
            start, found = self.by_name.get(name), []
            front = _Front(self._place, self._readers)
            reached = set(front.reach([start] if start is not None else []))
            for node in front:
                read = values_read(node)
                if any(self.is_data(v) for v in read):
                    found.append((node, next(v for v in read if v in reached)))
                else:
                    reached.update(front.reach(node.outputs))
            self._met[name] = found
        return self._met[name]

    def writing_axes(self, name: str, growth: TensorGrowth, rank: int) -> set[int]:
        """The grown axes of a weight along which its node makes new channels, as opposed to reading them."""
        found: set[int] = set()
        for node, read in self.data_nodes(name):
            # what a body reads is no input of the node that runs it
            if read.name == name and read in node.inputs and node.domain in ("", "ai.onnx"):
                found |= set(growth.axes) & _writing(node, node.inputs.index(read), rank)
            elif read.name == name or axes_of(read.name or "", self.growth_map):
                # Otherwise what grew was summed up among constants already.
                made = self._layouts(node.outputs)
                summed = self._layouts([v for v in node.inputs if v is not None and self.is_data(v)])
                # Behind a Concat or a Slice a weight's own map is neither of the two.
                own = {axis: axis_map.source().tobytes() for axis, axis_map in growth.axes.items()}
                found |= {axis for axis, mine in own.items() if mine in made or mine not in summed}
        return found

    def _layouts(self, values: Iterable[ir.Value]) -> set[bytes]:
        """Where old entries lie on the grown axes of values, whatever is claimed of the new ones."""
        maps = [m for v in values for m in axes_of(v.name or "", self.growth_map).values()]
        return {m.source().tobytes() for m in maps}

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
        front = _Front(self._place, self._readers, starts)
        for node in front:
            inputs = [v for v in node.inputs if v is not None]
            reached = [v for v in inputs if v in grown]
            if node in starts or (reached and node.op_type not in _LINEAR):
                made = [v for v in node.outputs if axes_of(v.name or "", self.growth_map)]
                grown.update(front.reach(made))
                # One that multiplies by its weight inside sums up its queries and keys in there, too.
                inside = node in starts and node.op_type == "Attention" and node.domain == "com.microsoft"
                summed = any(inputs.index(v) < 2 and self._summed(v, 0) for v in reached)
                if node.op_type in _ATTENTION and (inside or summed):
                    contractions.append(Site("", str(node.outputs[0].name)))
            # Queries that a weight makes of constants meet the keys as a weight would, and are none.
            if (node in starts or all(self.is_data(v) for v in inputs)) and any(
                self._summed_by(node, inputs.index(v)) for v in reached
            ):
                contractions.append(Site("", str(node.outputs[0].name)))
        return {v.name or "" for v in grown}, contractions

    def _summed_by(self, node: ir.Node, index: int) -> bool:
        """Whether a product of computed values sums over an axis of an operand that grew."""
        value = node.inputs[index]
        if value is None:
            return False
        if node.op_type == "Einsum":
            return bool(set(axes_of(value.name or "", self.growth_map)) - _kept(node, index))
        return node.op_type in ("MatMul", "FusedMatMul") and self._summed(value, _side(node, index))

    def _summed(self, value: ir.Value, index: int) -> bool:
        axes = axes_of(value.name or "", self.growth_map)
        shape = self.shapes.get(value.name or "", value.shape)
        rank = len(shape) if shape is not None else max(axes, default=0) + 1
        return (rank - 2 if index else rank - 1) in axes


class _Front:
    """Nodes that read what was reached, each once, in the order of evaluation; more may be reached on the way."""

    def __init__(
        self,
        place: Mapping[ir.Node, int],
        readers: Mapping[ir.Value, Sequence[ir.Node]],
        starts: Iterable[ir.Node] = (),
    ) -> None:
        self._place, self._readers = place, readers
        self._seen: set[ir.Node] = set()
        self._waiting: list[tuple[int, ir.Node]] = []
        self._add(starts)

    def _add(self, nodes: Iterable[ir.Node]) -> None:
        for node in nodes:
            if node not in self._seen:
                self._seen.add(node)
                heapq.heappush(self._waiting, (self._place[node], node))

    def reach(self, values: Iterable[ir.Value]) -> list[ir.Value]:
        """The values again; the nodes that read them are now on the way."""
        values = list(values)
        for value in values:
            self._add(self._readers.get(value, ()))
        return values

    def __iter__(self) -> Iterator[ir.Node]:
        while self._waiting:
            yield heapq.heappop(self._waiting)[1]


def _side(node: ir.Node, index: int) -> int:
    """On which side of a product an operand stands, once it is transposed as FusedMatMul may ask for."""
    flag = node.attributes.get("transB" if index else "transA")
    return index ^ int(flag is not None and bool(flag.as_int()))


def _kept(node: ir.Node, index: int) -> set[int]:
    """Axes of an operand of an Einsum that are axes of the result."""
    terms, result = letters(node)
    return {axis for axis, letter in enumerate(terms[index]) if letter in result}


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
    if node.op_type == "Einsum":
        return _kept(node, index)
    if node.op_type == "MatMul":
        return set(range(rank)) - {rank - 2 if index else rank - 1}
    if node.op_type in _RECURRENT and index in (1, 2):
        return {0, 1}
    return set(range(rank))
