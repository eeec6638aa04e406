"""A copy of a model that shares its tensor data and nothing else.

``onnx_ir.Model.clone`` needs nodes in topological order, drops the model's ``meta`` and shares type objects,
which ``value.dtype = …`` changes in place; this copy keeps everything and shares neither values, nodes,
graphs nor types.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

__all__ = ["copy_body", "copy_model"]

TensorMap = Callable[[ir.TensorProtocol], ir.TensorProtocol]


def copy_model(model: ir.Model, *, tensor_map: TensorMap | None = None) -> ir.Model:
    """Copy a model: names, order, metadata, doc strings, annotations, opset imports, functions, device
    placement.

    Args:
        tensor_map: Gives the tensor to use in place of each initializer and tensor attribute; by default the
            same.
    """
    copier = _Copier(tensor_map or (lambda tensor: tensor))
    result = ir.Model(
        copier.graph(model.graph),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=[copier.function(function) for function in model.functions.values()],
        metadata_props=dict(model.metadata_props),
        device_configurations=model.device_configurations,
    )
    _copy_meta(model, result)
    return result


def copy_body(graph: ir.Graph, given: Mapping[str, ir.Value], stored: Sequence[ir.Value] = ()) -> ir.Graph:
    """A copy of a subgraph that stands alone.

    Args:
        graph: The subgraph; it may hold others.
        given: Values to read in place of those of the same name outside; they become inputs, after its own, unless
            they have a graph already.
        stored: Initializers and outputs of Constant nodes outside of it, to be copied along, before its own nodes.
    """
    copier = _Copier(lambda tensor: tensor)
    result = copier.body(graph, given, stored)
    for value in given.values():
        if value.graph is None:
            result.inputs.append(value)
    return result


def _copy_meta(source: Any, target: Any) -> None:
    if source.meta:
        for key, value in source.meta.items():
            target.meta[key] = value
            if not source.meta.is_valid(key):
                target.meta.invalidate(key)


def _copy_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    # By far the commonest, and much faster than deepcopy.
    if type(kind) is ir.TensorType:
        return ir.TensorType(kind.dtype, denotation=kind.denotation)
    return copy.deepcopy(kind)


class _Copier:
    """Values are made graph by graph before any node is, so that nodes may stand in any order."""

    def __init__(self, tensor_map: TensorMap) -> None:
        self._values: dict[ir.Value, ir.Value] = {}
        self._tensor = tensor_map

    def _value(self, value: ir.Value) -> ir.Value:
        known = self._values.get(value)
        if known is not None:
            return known
        result = ir.Value(
            name=value.name,
            shape=value.shape.copy() if value.shape is not None else None,
            type=_copy_type(value.type),
            doc_string=value.doc_string,
            const_value=self._tensor(value.const_value) if value.const_value is not None else None,
            metadata_props=dict(value.metadata_props) if value.metadata_props else None,
        )
        _copy_meta(value, result)
        self._values[value] = result
        return result

    def graph(self, graph: ir.Graph) -> ir.Graph:
        inputs = [self._value(value) for value in graph.inputs]
        initializers = [self._value(value) for value in graph.initializers.values()]
        nodes = list(graph)
        for node in nodes:
            for output in node.outputs:
                self._value(output)
        result = ir.Graph(
            inputs,
            [self._value(value) for value in graph.outputs],
            nodes=[self._node(node) for node in nodes],
            initializers=initializers,
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props) if graph.metadata_props else None,
        )
        _copy_meta(graph, result)
        return result

    def body(self, graph: ir.Graph, given: Mapping[str, ir.Value], stored: Sequence[ir.Value]) -> ir.Graph:
        """A subgraph whose outer values are replaced by name, with the constants it needs."""
        makers = {value: value.producer() for value in stored}
        copies = [self._node(maker) for maker in makers.values() if maker is not None]
        outer = dict(given)
        outer.update((value.name or "", self._value(value)) for value in stored)
        inside = set(_inside(graph))
        for value in _read(graph):
            if value not in inside and value.name in outer:
                self._values[value] = outer[value.name]
        result = self.graph(graph)
        for value, maker in makers.items():
            if maker is None:
                result.register_initializer(self._values[value])
        if copies and len(result):
            result.insert_before(result[0], copies)
        else:
            result.extend(copies)
        return result

    def _node(self, node: ir.Node) -> ir.Node:
        result = ir.Node(
            node.domain,
            node.op_type,
            [self._value(value) if value is not None else None for value in node.inputs],
            [self._attribute(attribute) for attribute in node.attributes.values()],
            overload=node.overload,
            outputs=[self._value(value) for value in node.outputs],
            version=node.version,
            name=node.name,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props) if node.metadata_props else None,
            device_configurations=tuple(
                dataclasses.replace(
                    configuration,
                    sharding_specs=tuple(
                        dataclasses.replace(spec, value=self._value(spec.value)) if spec.value is not None else spec
                        for spec in configuration.sharding_specs
                    ),
                )
                for configuration in node.device_configurations
            ),
        )
        _copy_meta(node, result)
        return result

    def _attribute(self, attribute: ir.Attr) -> ir.Attr:
        value = attribute.value
        if not attribute.is_ref():
            match attribute.type:
                case ir.AttributeType.GRAPH:
                    value = self.graph(attribute.as_graph())
                case ir.AttributeType.GRAPHS:
                    value = tuple(self.graph(graph) for graph in attribute.as_graphs())
                case ir.AttributeType.TENSOR:
                    value = self._tensor(attribute.as_tensor())
                case ir.AttributeType.TENSORS:
                    value = tuple(self._tensor(tensor) for tensor in attribute.as_tensors())
        result = ir.Attr(
            attribute.name, attribute.type, value, attribute.ref_attr_name, doc_string=attribute.doc_string
        )
        _copy_meta(attribute, result)
        return result

    def function(self, function: ir.Function) -> ir.Function:
        # Function keeps its metadata and its ``meta`` on its graph.
        return ir.Function(
            function.domain,
            function.name,
            function.overload,
            graph=self.graph(function.graph),
            attributes=[self._attribute(attribute) for attribute in function.attributes.values()],
        )


def _inside(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values that a graph and those inside it define."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
        for attribute in node.attributes.values():
            for inner in _graphs_of(attribute):
                yield from inner.inputs
                yield from inner.initializers.values()


def _read(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values that a graph and those inside it read."""
    yield from graph.outputs
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from (value for value in node.inputs if value is not None)
        for attribute in node.attributes.values():
            for inner in _graphs_of(attribute):
                yield from inner.outputs


def _graphs_of(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else ()
