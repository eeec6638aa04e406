"""From the carrier model to protobuf, faithfully: names, order, metadata and everything carried.

The leaves (types, shapes, plain attributes, device placement) are written by ``onnx_ir.serde``; graphs, nodes
and functions are written here, because there ``serde`` reorders, adds and drops (see
:mod:`onnxgrow.io.carry`). Tensors are handed to the caller's :class:`TensorWriter`, so that structure can be
written without touching any weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import onnx
import onnx_ir as ir

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.io.carry import Carried, carried_attribute, carried_type, frame_of, model_carried
from onnxgrow.io.tensors import SparseTensor

__all__ = ["Place", "TensorWriter", "write_header", "write_metadata", "write_model"]

_FUNCTION_VALUE_INFO = 10  # IR version that gave FunctionProto its value_info
_QUANTIZATION = "quant_parameter_tensor_names"  # key under which onnx_ir keeps quantisation annotations


class Place:
    """Where a tensor stands."""

    MAIN = "initializer of the main graph"
    SUBGRAPH = "initializer of a subgraph"
    ATTRIBUTE = "attribute"


class TensorWriter(Protocol):
    """Fills a TensorProto whose name, type, shape, doc string and metadata are already written."""

    def __call__(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None: ...


def write_model(
    model: ir.Model, tensors: TensorWriter, *, carried: Carried | None = None, canonical: bool = False
) -> onnx.ModelProto:
    """Write a model as protobuf.

    Args:
        tensors: Called once for each tensor, in the order of the result.
        carried: What to write for the model as a whole; by default what rides with the model.
        canonical: Leave out what carries no meaning: descriptions of values that do not exist or that repeat
            what initializers, inputs and outputs already say; and sort what has no order.

    Raises:
        BadInputError: An initializer without data or a value without a name.
        UnsupportedError: Something that ONNX or the installed ``onnx`` cannot express.
    """
    carried = model_carried(model) if carried is None else carried
    writer = _Writer(tensors, canonical)
    proto = onnx.ModelProto()
    proto.ir_version = model.ir_version
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(model, field):
            setattr(proto, field, getattr(model, field))
    writer.opsets(proto.opset_import, model.opset_imports)
    writer.strings(proto.metadata_props, model.metadata_props)
    for configuration in model.device_configurations:
        proto.configuration.add().CopyFrom(ir.serde.serialize_model_configuration(configuration))
    writer.graph(proto.graph, model.graph, Place.MAIN)
    in_graph: list[onnx.ValueInfoProto] = []
    for function in model.functions.values():
        written = proto.functions.add()
        infos = writer.function(written, function)
        if infos and model.ir_version < _FUNCTION_VALUE_INFO and not frame_of(function.graph).value_info:
            for info in infos:
                info.name = f"{function.domain}::{function.name}/{info.name}"
            in_graph += infos
        else:
            writer.value_info(written.value_info, frame_of(function.graph).value_info, infos)
    if in_graph:
        present = list(proto.graph.value_info)
        merged = onnx.GraphProto()
        writer.value_info(merged.value_info, frame_of(model.graph).value_info, [*present, *in_graph])
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(merged.value_info)
    proto.training_info.extend(carried.training_info)
    return proto


def write_header(proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str | None) -> None:
    """Write everything of a tensor but its data."""
    if name:
        proto.name = name
    proto.data_type = tensor.dtype.value
    proto.dims.extend(int(size) for size in tensor.shape.numpy())
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    for key, value in tensor.metadata_props.items():
        proto.metadata_props.add(key=key, value=value)


def write_metadata(proto: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Replace the metadata of a model that is written already."""
    del proto.metadata_props[:]
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)


class _Writer:
    def __init__(self, tensors: TensorWriter, canonical: bool) -> None:
        self._tensors = tensors
        self._canonical = canonical

    def strings(self, target: Any, source: Mapping[str, str]) -> None:
        for key in sorted(source) if self._canonical else source:
            target.add(key=key, value=source[key])

    def opsets(self, target: Any, source: Mapping[str, int]) -> None:
        for domain in sorted(source) if self._canonical else source:
            target.add(domain=domain, version=source[domain])

    def tensor(self, proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str | None, place: str) -> None:
        write_header(proto, tensor, name)
        if self._canonical and len(proto.metadata_props) > 1:
            ordered = sorted((entry.key, entry.value) for entry in proto.metadata_props)
            del proto.metadata_props[:]
            for key, value in ordered:
                proto.metadata_props.add(key=key, value=value)
        self._tensors(proto, tensor, place)

    def graph(self, proto: onnx.GraphProto, graph: ir.Graph, place: str = Place.SUBGRAPH) -> None:
        if graph.name:
            proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        for value in graph.inputs:
            self.value(proto.input.add(), value)
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                raise BadInputError(name, "this initializer has no data")
            if isinstance(tensor, SparseTensor):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(tensor.proto)
                sparse.values.name = name
            else:
                self.tensor(proto.initializer.add(), tensor, name, place)
        for node in graph:
            self.node(proto.node.add(), node)
        for value in graph.outputs:
            self.value(proto.output.add(), value)
        self.strings(proto.metadata_props, graph.metadata_props)
        frame = frame_of(graph)
        self.value_info(proto.value_info, frame.value_info, self._infos(graph, {n for n, _ in frame.value_info}))
        self._annotations(proto, graph)

    def _infos(self, graph: ir.Graph, listed: set[str]) -> list[onnx.ValueInfoProto]:
        """Descriptions of the inner values of a graph, from the values themselves."""
        outside = {value.name for value in (*graph.inputs, *graph.outputs)}
        infos = []
        for name, value in graph.initializers.items():
            # onnx_ir gives every initializer a type and a shape; the tensor already says both.
            plain = not value.metadata_props and not value.doc_string and carried_type(value) is None
            if name not in outside and not (plain and (self._canonical or name not in listed)):
                infos.append(self._info(value))
        for node in graph:
            infos += [self._info(value) for value in node.outputs if value.name and value.name not in outside]
        return [info for info in infos if info is not None]

    def _info(self, value: ir.Value) -> onnx.ValueInfoProto | None:
        info = onnx.ValueInfoProto()
        self.value(info, value)
        return info if info.HasField("type") or info.doc_string or info.metadata_props else None

    def value_info(
        self,
        target: Any,
        listed: Iterable[tuple[str, onnx.ValueInfoProto | None]],
        infos: list[onnx.ValueInfoProto],
    ) -> None:
        """Write descriptions in the order of the original; those of new values follow."""
        if self._canonical:
            target.extend(sorted(infos, key=lambda info: info.name))
            return
        fresh = {info.name: info for info in infos}
        for name, original in listed:
            info = fresh.pop(name, None) if original is None else original
            if info is not None:
                target.add().CopyFrom(info)
        target.extend(fresh.values())

    def _annotations(self, proto: onnx.GraphProto, graph: ir.Graph) -> None:
        fresh: dict[str, Mapping[str, str]] = {}
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        for value in (*values, *graph.outputs):
            if value.name and value.meta.get(_QUANTIZATION):
                fresh[value.name] = value.meta[_QUANTIZATION]
        listed = frame_of(graph).annotations
        if self._canonical:
            listed = tuple((name, None) for name in sorted(fresh))
        for name, original in listed:
            if original is not None:
                proto.quantization_annotation.add().CopyFrom(original)
            elif name in fresh:
                self._annotation(proto, name, fresh.pop(name))
        for name, parameters in fresh.items():
            self._annotation(proto, name, parameters)

    def _annotation(self, proto: onnx.GraphProto, name: str, parameters: Mapping[str, str]) -> None:
        annotation = proto.quantization_annotation.add(tensor_name=name)
        self.strings(annotation.quant_parameter_tensor_names, parameters)

    def value(self, proto: onnx.ValueInfoProto, value: ir.Value) -> None:
        if not value.name:
            raise BadInputError("model", "an input or output has no name")
        proto.name = value.name
        original = carried_type(value)
        if value.type is None and value.shape is None and original is not None:
            proto.type.CopyFrom(original)
        if value.type is not None:
            ir.serde.serialize_type_into(proto.type, value.type)
        if value.shape is not None:
            if value.type is None:
                proto.type.tensor_type.SetInParent()
            ir.serde.serialize_shape_into(proto.type, value.shape)
        if value.doc_string:
            proto.doc_string = value.doc_string
        self.strings(proto.metadata_props, value.metadata_props)

    def node(self, proto: onnx.NodeProto, node: ir.Node) -> None:
        proto.op_type = node.op_type
        for field in ("domain", "name", "overload", "doc_string"):
            if getattr(node, field):
                setattr(proto, field, getattr(node, field))
        proto.input.extend((value.name or "") if value is not None else "" for value in node.inputs)
        proto.output.extend(value.name or "" for value in node.outputs)
        for attribute in node.attributes.values():
            self.attribute(proto.attribute.add(), attribute, node.name or node.op_type)
        self.strings(proto.metadata_props, node.metadata_props)
        for configuration in node.device_configurations:
            try:
                written = ir.serde.serialize_node_device_configuration(configuration)
            except ValueError as error:
                raise BadInputError(node.name or node.op_type, str(error)) from None
            proto.device_configurations.add().CopyFrom(written)

    def attribute(self, proto: onnx.AttributeProto, attribute: ir.Attr, owner: str) -> None:
        original = carried_attribute(attribute)
        if original is not None:
            proto.CopyFrom(original)
            return
        if attribute.is_ref():
            ir.serde.serialize_reference_attribute_into(proto, attribute)
            return
        kinds = ir.AttributeType
        if attribute.type in (kinds.GRAPH, kinds.GRAPHS, kinds.TENSOR, kinds.TENSORS):
            proto.name = attribute.name
            proto.type = cast(onnx.AttributeProto.AttributeType, attribute.type.value)
            if attribute.doc_string:
                proto.doc_string = attribute.doc_string
        match attribute.type:
            case kinds.GRAPH:
                self.graph(proto.g, attribute.as_graph())
            case kinds.GRAPHS:
                for graph in attribute.as_graphs():
                    self.graph(proto.graphs.add(), graph)
            case kinds.TENSOR:
                tensor = attribute.as_tensor()
                self.tensor(proto.t, tensor, tensor.name, Place.ATTRIBUTE)
            case kinds.TENSORS:
                for tensor in attribute.as_tensors():
                    self.tensor(proto.tensors.add(), tensor, tensor.name, Place.ATTRIBUTE)
            case _:
                try:
                    ir.serde.serialize_attribute_into(proto, attribute)
                except (ir.serde.SerdeError, TypeError, ValueError):
                    raise UnsupportedError(
                        owner, f"attribute {attribute.name!r} of type {attribute.type.name} cannot be written"
                    ) from None

    def function(self, proto: onnx.FunctionProto, function: ir.Function) -> list[onnx.ValueInfoProto]:
        """Write a function but for its ``value_info``, which is returned."""
        proto.name = function.name
        for field in ("domain", "overload", "doc_string"):
            if getattr(function, field):
                setattr(proto, field, getattr(function, field))
        proto.input.extend(value.name or "" for value in function.inputs)
        proto.output.extend(value.name or "" for value in function.outputs)
        for attribute in function.attributes.values():
            if attribute.value is None and not attribute.is_ref():
                proto.attribute.append(attribute.name)
            else:
                self.attribute(proto.attribute_proto.add(), attribute, function.name)
        for node in function:
            self.node(proto.node.add(), node)
        self.opsets(proto.opset_import, function.opset_imports)
        self.strings(proto.metadata_props, function.metadata_props)
        values = [*function.inputs, *(value for node in function for value in node.outputs)]
        infos = [self._info(value) for value in values if value.name]
        return [info for info in infos if info is not None]
