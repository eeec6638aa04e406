"""What ``onnx_ir`` cannot hold, carried around it.

Measured on onnx_ir 1.1: reading drops ``training_info``, ``sparse_initializer``, opaque types, and entries of
``value_info`` and ``quantization_annotation`` that name no value of their graph or name one twice; reading
fails on map types, sparse attributes and strings that are not UTF-8; writing sorts metadata, drops empty
outputs at the end of a node, adds a ``value_info`` for every initializer, repeats the metadata of tensors and
moves ``value_info`` about.

Everything carried rides in ``meta`` of the object it belongs to, which copies keep, so that a pass may move,
copy or remove the object and the writer still finds what belongs to it.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx
import onnx_ir as ir

from onnxgrow.io.tensors import SparseTensor

__all__ = [
    "Carried",
    "Frame",
    "Unpacked",
    "carried_attribute",
    "carried_type",
    "frame_of",
    "model_carried",
    "unpack",
]

_FRAME = "onnxgrow.frame"
_TYPE = "onnxgrow.type"
_ATTRIBUTE = "onnxgrow.attribute"
_CARRIED = "onnxgrow.carried"

_Message = TypeVar("_Message", bound=Any)


@dataclass(frozen=True)
class Carried:
    """What belongs to the model as a whole, and a list of all that was carried.

    Attributes:
        training_info: ``ModelProto.training_info``, as it came.
        found: What was carried, in words, one entry for each thing; for messages.
    """

    training_info: tuple[onnx.TrainingInfoProto, ...] = ()
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """Order and contents of the lists of a graph or function that ``onnx_ir`` keeps only in part.

    Attributes:
        value_info: (name, entry) in the original's order. The entry is None where the value itself holds it,
            and the original's where it describes no value of the graph or repeats one.
        annotations: The same for ``quantization_annotation``.
    """

    value_info: tuple[tuple[str, onnx.ValueInfoProto | None], ...] = ()
    annotations: tuple[tuple[str, onnx.TensorAnnotation | None], ...] = ()


def frame_of(graph: ir.Graph) -> Frame:
    """The frame of a graph; an empty one for graphs that were not read by this package."""
    frame = graph.meta.get(_FRAME)
    return frame if isinstance(frame, Frame) else Frame()


def carried_type(value: ir.Value) -> onnx.TypeProto | None:
    """The type of a value that ``onnx_ir`` has no class for."""
    found = value.meta.get(_TYPE)
    return found if isinstance(found, onnx.TypeProto) else None


def carried_attribute(attribute: ir.Attr) -> onnx.AttributeProto | None:
    """The attribute that a stand-in holds the place of."""
    found = attribute.meta.get(_ATTRIBUTE)
    return found if isinstance(found, onnx.AttributeProto) else None


def model_carried(model: ir.Model) -> Carried:
    """What rides with the model as a whole."""
    found = model.graph.meta.get(_CARRIED)
    return found if isinstance(found, Carried) else Carried()


@dataclass
class _Unpacked:
    """One graph or function body: its frame and what has to be put back on its values."""

    frame: Frame = field(default_factory=Frame)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)


class Unpacked:
    """The second half of carrying: puts what :func:`unpack` took out back onto the model."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.bodies: list[_Unpacked] = []
        self.attributes: list[onnx.AttributeProto] = []
        self.training_info: tuple[onnx.TrainingInfoProto, ...] = ()
        self.found: list[str] = []

    def attach(self, model: ir.Model) -> Carried:
        """Attach to ``model``, whose graphs are met in the order in which :func:`unpack` met them."""
        bodies = iter(self.bodies)
        self._attach_graph(model.graph, bodies)
        for function in model.functions.values():
            self._attach_graph(function.graph, bodies)
        carried = Carried(self.training_info, tuple(self.found))
        model.graph.meta[_CARRIED] = carried
        return carried

    def _attach_graph(self, graph: ir.Graph, bodies: Iterator[_Unpacked]) -> None:
        body = next(bodies)
        graph.meta[_FRAME] = body.frame
        if body.types:
            for value in _values(graph):
                if value.name in body.types:
                    value.meta[_TYPE] = body.types[value.name]
        for name, proto in body.sparse.items():
            graph.initializers[name].const_value = SparseTensor(proto)
        for node in graph:
            for attribute in list(node.attributes.values()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.GRAPH:
                    self._attach_graph(attribute.as_graph(), bodies)
                elif attribute.type == ir.AttributeType.GRAPHS:
                    for subgraph in attribute.as_graphs():
                        self._attach_graph(subgraph, bodies)
                elif attribute.type == ir.AttributeType.STRING and isinstance(attribute.value, str):
                    token, _, index = attribute.value.partition(":")
                    if token == self.token:
                        attribute.meta[_ATTRIBUTE] = self.attributes[int(index)]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
    yield from graph.outputs


def unpack(proto: onnx.ModelProto) -> Unpacked:
    """Take out of ``proto``, in place, everything that ``onnx_ir`` fails on or would drop."""
    # Stand-ins are found again by a token that no attribute of the model can hold by chance.
    unpacked = Unpacked(f"onnxgrow.carried.{secrets.token_hex(8)}")
    if proto.training_info:
        unpacked.training_info = tuple(_detached(info) for info in proto.training_info)
        del proto.training_info[:]
        unpacked.found.append("training_info")
    _unpack_graph(proto.graph, unpacked, "the graph", proto)
    for function in proto.functions:
        # onnx_ir gives no type to the inputs of a function that has its own value_info.
        names = _function_names(function) - set(function.input)
        _unpack_body(function, unpacked, names, f"function {function.name!r}", ())
    return unpacked


def _function_names(function: onnx.FunctionProto) -> set[str]:
    return {*function.input, *(name for node in function.node for name in node.output)} - {""}


def _unpack_graph(graph: onnx.GraphProto, unpacked: Unpacked, where: str, model: onnx.ModelProto | None = None) -> None:
    outside = {info.name for info in (*graph.input, *graph.output)}
    inner = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    inner |= {sparse.values.name for sparse in graph.sparse_initializer}
    names = inner - outside - {""}
    if model is not None and model.ir_version < 10:
        # Before IR version 10, onnx_ir finds the types of values in functions under these names.
        for function in model.functions:
            prefix = f"{function.domain}::{function.name}/"
            names |= {prefix + name for name in _function_names(function)}
    body = _unpack_body(graph, unpacked, names, where, (*graph.input, *graph.output))
    known = inner | outside
    counts = Counter(annotation.tensor_name for annotation in graph.quantization_annotation)
    entries = [
        (
            annotation.tensor_name,
            _detached(annotation)
            if annotation.tensor_name not in known or counts[annotation.tensor_name] > 1
            else None,
        )
        for annotation in graph.quantization_annotation
    ]
    keep = [a for a, (_, carried) in zip(graph.quantization_annotation, entries, strict=True) if carried is None]
    _replace(graph.quantization_annotation, keep)
    unpacked.found += [f"quantization annotation of {name!r}" for name, carried in entries if carried is not None]
    body.frame = Frame(body.frame.value_info, tuple(entries))
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        body.sparse[name] = _detached(sparse)
        unpacked.found.append(f"sparse initializer {name!r}")
        # A stand-in of the same name, type and shape, for onnx_ir to make the value from.
        graph.initializer.add(name=name, data_type=sparse.values.data_type, dims=sparse.dims)
    del graph.sparse_initializer[:]


def _unpack_body(
    body: onnx.GraphProto | onnx.FunctionProto,
    unpacked: Unpacked,
    names: set[str],
    where: str,
    interface: Sequence[onnx.ValueInfoProto],
) -> _Unpacked:
    result = _Unpacked()
    unpacked.bodies.append(result)
    counts = Counter(info.name for info in body.value_info)
    entries = [
        (info.name, None if info.name in names and counts[info.name] == 1 else _detached(info))
        for info in body.value_info
    ]
    keep = [info for info, (_, carried) in zip(body.value_info, entries, strict=True) if carried is None]
    _replace(body.value_info, keep)
    result.frame = Frame(tuple(entries))
    for info in (*body.value_info, *interface):
        if info.HasField("type") and not _holds_type(info.type):
            result.types[info.name] = _detached(info.type)
            info.ClearField("type")
            unpacked.found.append(f"type of {info.name!r} in {where}")
    for node in body.node:
        label = node.name or (node.output[0] if node.output else node.op_type)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _unpack_graph(attribute.g, unpacked, f"a graph of node {label!r}")
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    _unpack_graph(graph, unpacked, f"a graph of node {label!r}")
            elif not _holds_attribute(attribute):
                stand_in = f"{unpacked.token}:{len(unpacked.attributes)}"
                unpacked.attributes.append(_detached(attribute))
                unpacked.found.append(f"attribute {attribute.name!r} of node {label!r}")
                attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, stand_in))
    return result


def _holds_type(proto: onnx.TypeProto) -> bool:
    if proto.HasField("tensor_type") and not proto.denotation and proto.tensor_type.elem_type in _ELEMENT_TYPES:
        return True
    if proto.WhichOneof("value") is None:
        return False  # onnx_ir does not tell an empty type from none, but the checker asks for one
    try:
        held = ir.TypeAndShape(
            ir.serde.deserialize_type_proto_for_type(proto), ir.serde.deserialize_type_proto_for_shape(proto)
        )
        again = onnx.TypeProto()
        if held.type is not None:
            ir.serde.serialize_type_into(again, held.type)
        if held.shape is not None:
            if held.type is None:
                again.tensor_type.SetInParent()
            ir.serde.serialize_shape_into(again, held.shape)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return bool(again == proto)


_ELEMENT_TYPES = {int(dtype) for dtype in ir.DataType} - {0}


def _holds_attribute(attribute: onnx.AttributeProto) -> bool:
    if attribute.ref_attr_name:
        return True
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.SPARSE_TENSOR | kinds.SPARSE_TENSORS:
            return False
        case kinds.TYPE_PROTO:
            return _holds_type(attribute.tp)
        case kinds.TYPE_PROTOS:
            return all(_holds_type(proto) for proto in attribute.type_protos)
        case kinds.STRING:
            return _is_utf8(attribute.s)
        case kinds.STRINGS:
            return all(_is_utf8(text) for text in attribute.strings)
    return True


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _detached(message: _Message) -> _Message:
    """A copy that does not keep the whole model's memory alive, nor changes with it."""
    copy: _Message = type(message)()
    copy.CopyFrom(message)
    return copy


def _replace(field: Any, kept: list[Any]) -> None:
    """Keep only some elements of a repeated field."""
    if len(kept) != len(field):
        copies = [_detached(element) for element in kept]
        del field[:]
        field.extend(copies)
