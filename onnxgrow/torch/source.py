"""The file behind a module: read once, never changed, and written back with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass
from torch import Tensor

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model, load, save_bytes
from onnxgrow.torch.builder import build_program
from onnxgrow.torch.leaves import Leaf, Leaves, all_graphs, constant_values, filled_values, find_leaves
from onnxgrow.torch.program import Program
from onnxgrow.torch.tensors import from_torch

__all__ = ["Source"]


class Source:
    """A model, what of it is trained, and the program that runs it.

    Immutable: copies of a module share it, and a pickle holds the model as one file.

    Attributes:
        model: The model as it came in.
        found: Its leaves, and why the rest is not trained.
        program: Its steps.
    """

    def __init__(self, model: ir.Model, trainable: Sequence[str], frozen: Sequence[str]) -> None:
        self.model = model
        self.patterns = (tuple(trainable), tuple(frozen))
        working = copy_model(model)
        self._places: dict[ir.Value, tuple[int, str]] = {}
        self._positions: dict[ir.Node, tuple[int, int]] = {}
        for number, graph in enumerate(all_graphs(working.graph)):
            self._places.update((value, (number, value.name or "")) for value, _ in _stored(graph))
            self._positions.update((node, (number, position)) for position, node in enumerate(graph))
        try:
            if working.functions:
                InlinePass()(working)
            for graph in all_graphs(working.graph):
                graph.sort()
        except ValueError as error:
            raise BadInputError("model", f"its nodes cannot be put in order: {error}") from error
        self.found: Leaves = find_leaves(working, *self.patterns)
        for leaf in [leaf for leaf in self.found.leaves if leaf.value not in self._places]:
            self.found.leaves.remove(leaf)
            self.found.frozen[leaf.name] = "it is inside a function"
        self.program: Program = build_program(working, self.found.leaves)
        self.inputs = [v.name or "" for v in working.graph.inputs if v.name not in working.graph.initializers]
        self.outputs = [v.name or "" for v in working.graph.outputs]

    @classmethod
    def read(cls, given: object, trainable: Sequence[str], frozen: Sequence[str]) -> Source:
        """Read a path, ``ModelProto``, ``onnx_ir.Model`` or graphsurgeon graph; see :func:`onnxgrow.io.load`."""
        return cls(load(given).model, trainable, frozen)

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    def __reduce__(self) -> tuple[Callable[..., Source], tuple[Any, ...]]:
        return _from_bytes, (save_bytes(self.model), *self.patterns)

    def growth_map(self) -> GrowthMap | None:
        """The model's growth map. Raises BadInputError where it is malformed."""
        try:
            return GrowthMap.of_model(self.model.metadata_props)
        except ValueError as error:
            raise BadInputError("growth map", str(error)) from error

    def written(self, tensors: Iterable[tuple[Leaf, Tensor]]) -> ir.Model:
        """A copy of the model with these numbers; everything else is as it was.

        Where uses of one initializer were taken apart and now differ, the further ones get initializers of their own;
        one that an exporter had made an ``Identity`` of another gets its own name back, and the ``Identity`` goes.
        """
        model = copy_model(self.model)
        graphs = list(all_graphs(model.graph))
        by_name = [{v.name: (v, t) for v, t in _stored(graph)} for graph in graphs]
        nodes = [list(graph) for graph in graphs]
        first: dict[ir.Value, bytes] = {}
        # The use that bears the initializer's own name keeps it.
        for leaf, tensor in sorted(tensors, key=lambda pair: pair[0].name != pair[0].value.name):
            number, name = self._places[leaf.value]
            value, old = by_name[number][name]
            new = from_torch(tensor, old)
            data = new.tobytes()
            if value not in first:
                first[value] = data
                if data != old.tobytes():
                    _replace(value, new, model.ir_version)
            elif data != first[value]:
                for node, index in leaf.sites or ():
                    if node not in self._positions:
                        raise UnsupportedError(leaf.name, "a function shares this tensor with others that now differ")
                    graph_number, position = self._positions[node]
                    target = nodes[graph_number][position]
                    if not _in_place_of_copy(target, leaf.name, new):
                        target.replace_input_with(index, _added(graphs[number], leaf.name, new))
        return model


def _from_bytes(data: bytes, trainable: Sequence[str], frozen: Sequence[str]) -> Source:
    return Source.read(onnx.ModelProto.FromString(data), trainable, frozen)


def _stored(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """What a graph itself has of constants that may be trained."""
    yield from constant_values(graph)
    yield from filled_values(graph)


def _replace(value: ir.Value, tensor: ir.Tensor[Any], ir_version: int) -> None:
    node = value.producer()
    if node is None:
        value.const_value = tensor
        return
    if node.op_type == "ConstantOfShape":
        _in_place_of_filled(node, tensor, ir_version)
        return
    (attribute,) = (a for a in node.attributes.values() if a.name.startswith("value"))
    if attribute.type == ir.AttributeType.TENSOR:
        made: ir.Attr = ir.AttrTensor(attribute.name, tensor, doc_string=attribute.doc_string)
    elif attribute.type == ir.AttributeType.FLOATS:
        made = ir.AttrFloat32s(attribute.name, [float(v) for v in np.asarray(tensor.numpy())])
    else:
        made = ir.AttrFloat32(attribute.name, float(np.asarray(tensor.numpy())))
    node.attributes[attribute.name] = made
    value.const_value = None


def _in_place_of_filled(node: ir.Node, tensor: ir.Tensor[Any], ir_version: int) -> None:
    """Put what a ConstantOfShape node has become in its place.

    A Constant node where an initializer would be seen from outside: as an output, or before IR version 4 as an input.
    """
    name = node.outputs[0].name or ""
    if ir_version < 4 or not _in_place_of_node(node, name, tensor):
        node.op_type = "Constant"
        node.resize_inputs(0)
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)


def _in_place_of_copy(node: ir.Node, name: str, tensor: ir.Tensor[Any]) -> bool:
    """Put an initializer of the same name in the place of an Identity that made it; says whether it could."""
    return node.op_type == "Identity" and node.outputs[0].name == name and _in_place_of_node(node, name, tensor)


def _in_place_of_node(node: ir.Node, name: str, tensor: ir.Tensor[Any]) -> bool:
    """Put an initializer in the place of a node of one output, unless the graph gives that out."""
    output = node.outputs[0]
    graph = output.graph
    if output.is_graph_output() or not isinstance(graph, ir.Graph):
        return False
    tensor.name = name
    value = ir.Value(
        name=name, type=output.type or ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor
    )
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)
    return True


def _added(graph: ir.Graph, wanted: str, tensor: ir.Tensor[Any]) -> ir.Value:
    """A new initializer under a name that the model does not have yet."""
    taken = {v.name for inner in all_graphs(graph) for node in inner for v in (*node.inputs, *node.outputs) if v}
    taken.update(graph.initializers, (v.name for v in graph.inputs))
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}.{count}"
    tensor.name = name
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
