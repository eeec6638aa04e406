"""Reading models from paths, protobuf, ``onnx_ir`` and onnx-graphsurgeon, so that nothing is lost unnoticed.

Whatever comes in is made into one carrier, ``onnx_ir.Model``; what that cannot hold is carried around it
(:mod:`onnxgrow.io.carry`). The carrier is then written back, without weights, and compared with what came in:
a difference nobody foresaw is an error here, not a loss later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # protobuf ships no types

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.io import inline
from onnxgrow.io.carry import Carried, model_carried, unpack
from onnxgrow.io.compare import first_difference, known_skeleton
from onnxgrow.io.copy import copy_model
from onnxgrow.io.guard import DataFile, DataFolder, explain_unparsable, external_reference, map_model_file
from onnxgrow.io.structure import check_structure, check_tensor, tensors
from onnxgrow.io.tensors import InlineTensor, MappedTensor, raw_nbytes
from onnxgrow.io.write import write_model

__all__ = ["Loaded", "load"]

Kind = Literal["path", "proto", "ir", "graphsurgeon"]


@dataclass
class Loaded:
    """A model as it came in.

    Attributes:
        model: Working copy; it shares no object with the source but, for ``ir`` sources, tensor data.
        kind: What the source was.
        path: The given path, for sources of kind ``path``.
        carried: What the model holds beside the carrier; it also rides with ``model``.
        source: What was given to :func:`load`; never changed.
    """

    model: ir.Model
    kind: Kind
    path: Path | None
    carried: Carried
    source: object


def load(source: object, mapped: bool = False) -> Loaded:
    """Read a model.

    Args:
        source: Path of a binary ONNX file, ``onnx.ModelProto``, ``onnx_ir.Model`` or
            ``onnx_graphsurgeon.Graph``. External data of a path is mapped, not read; a ModelProto must hold
            all its data itself.
        mapped: Map the weights inside a large model file, too, instead of reading them. For those who know that nobody
            writes into that file as long as the model lives; a new file of its name does no harm.

    Raises:
        BadInputError: Missing, damaged, unsafe or malformed; the reason says what it is.
        UnsupportedError: A valid model with something in it that could not be kept.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _from_path(path, source, mapped)
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source)
    if isinstance(source, ir.Model):
        return _from_ir(source)
    if any(c.__module__.startswith("onnx_graphsurgeon") and c.__name__ == "Graph" for c in type(source).__mro__):
        from onnxgrow.io.graphsurgeon import export_graph

        with _no_traceback("graph"):
            model, carried = _read(export_graph(source), "graph", None)
        return Loaded(model, "graphsurgeon", None, carried, source)
    raise BadInputError(
        type(source).__name__,
        "this is no model",
        "give a path, a ModelProto, an onnx_ir.Model or a graphsurgeon Graph",
    )


def _from_path(path: Path, source: object, mapped: bool) -> Loaded:
    subject = os.fspath(path)
    file = map_model_file(path)
    folder = DataFolder(path)
    proto = onnx.ModelProto()
    light = inline.slim(file.view) if mapped and file.size >= inline.LEAST_FILE else None
    try:
        proto.ParseFromString(file.view if light is None else light.data)
    except DecodeError:
        raise BadInputError(subject, *explain_unparsable(bytes(file.view[:512]))) from None
    if not proto.HasField("graph"):
        reason, hint = explain_unparsable(bytes(file.view[:512]))
        raise BadInputError(subject, "the file holds no graph" if "damaged" in reason else reason, hint)
    if light is not None:
        inline.refer(proto, light.places, file.view, folder.adopt(file))
    with _no_traceback(subject):
        model, carried = _read(proto, subject, folder)
    return Loaded(model, "path", path, carried, source)


def _from_proto(source: onnx.ModelProto) -> Loaded:
    proto = onnx.ModelProto()
    with _no_traceback("model"):
        proto.CopyFrom(source)
        model, carried = _read(proto, "model", None)
    return Loaded(model, "proto", None, carried, source)


def _from_ir(source: ir.Model) -> Loaded:
    with _no_traceback("model"):
        model = copy_model(source, tensor_map=_mapped)
        check_structure(write_model(model, _no_data))
    return Loaded(model, "ir", None, model_carried(model), source)


@contextmanager
def _no_traceback(subject: str) -> Iterator[None]:
    """What the libraries raise on a malformed model, as one of our errors."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it warns of here is carried or refused by name
    try:
        yield
    except RecursionError:
        raise BadInputError(subject, "the model is nested too deeply") from None
    except (
        ir.serde.SerdeError,
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
        NotImplementedError,
    ) as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise BadInputError(subject, f"the model is malformed: {str(root)[:300]}") from error
    finally:
        logger.setLevel(level)


def _read(proto: onnx.ModelProto, subject: str, folder: DataFolder | None) -> tuple[ir.Model, Carried]:
    """Make the carrier from a ModelProto that this function may use up."""
    before, known = known_skeleton(proto)
    if not known:
        raise UnsupportedError(
            subject,
            f"the model has fields that onnx {onnx.__version__} does not know, so they could not be kept",
            "upgrade onnx",
        )
    check_structure(proto)
    for tensor, where in tensors(proto):
        nbytes = check_tensor(tensor, where)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            if folder is None:
                raise BadInputError(
                    where,
                    "its data lies in a file, and a model in memory does not say in which folder",
                    "give the path of the model, or load the data with onnx.load_external_data_for_model",
                )
            folder.open(external_reference(tensor, where), ir.DataType(tensor.data_type), nbytes, where)
    unpacked = unpack(proto)
    model = ir.from_proto(proto)
    carried = unpacked.attach(model)
    if folder is not None:
        _map_tensors(model, folder)
    difference = first_difference(before, write_model(model, _no_data))
    if difference:
        raise UnsupportedError(subject, f"the model could not be kept as it is: {difference}")
    return model, carried


def _no_data(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
    """Write structure only."""


def _map_tensors(model: ir.Model, folder: DataFolder) -> None:
    def mapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        nbytes = raw_nbytes(tensor)
        reference = external_reference(ir.serde.serialize_tensor(tensor), str(tensor.name))
        file = folder.open(reference, tensor.dtype, nbytes, str(tensor.name))
        return _as_mapped(tensor, file, folder.folder, InlineTensor if file is folder.own else MappedTensor)

    _replace_tensors(model, mapped)


def _as_mapped(
    tensor: ir.ExternalTensor, file: DataFile, base_dir: str, kind: type[MappedTensor] = MappedTensor
) -> MappedTensor:
    return kind(
        file,
        os.fspath(tensor.location),
        tensor.offset or 0,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy(), frozen=True),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
        base_dir=base_dir,
    )


def _mapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """An external tensor of a user's model as a mapped one; its path is theirs to choose, its size must fit."""
    if not isinstance(tensor, ir.ExternalTensor) or isinstance(tensor, MappedTensor):
        return tensor
    subject = str(tensor.name)
    try:
        path = os.path.realpath(tensor.path, strict=True)
    except (OSError, ValueError):
        raise BadInputError(subject, f"its external data file {tensor.path!r} does not exist") from None
    file = DataFile(path, subject)
    if not tensor.valid() or (tensor.offset or 0) + raw_nbytes(tensor) > file.size:
        raise BadInputError(subject, f"its external data file {tensor.path!r} does not hold it (any more)")
    return _as_mapped(tensor, file, os.fspath(tensor.base_dir))


def _replace_tensors(model: ir.Model, tensor_map: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for inner in (graph, *graph.subgraphs()):
            for value in inner.initializers.values():
                if value.const_value is not None:
                    value.const_value = tensor_map(value.const_value)
        for node in graph.all_nodes():
            _replace_attributes(node.attributes, tensor_map)
    for function in model.functions.values():
        _replace_attributes(function.attributes, tensor_map)


def _replace_attributes(attributes: Any, tensor_map: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    for name, attribute in list(attributes.items()):
        if attribute.is_ref():
            continue
        value: Any
        if attribute.type == ir.AttributeType.TENSOR:
            value = tensor_map(attribute.as_tensor())
            same = value is attribute.as_tensor()
        elif attribute.type == ir.AttributeType.TENSORS:
            value = tuple(tensor_map(tensor) for tensor in attribute.as_tensors())
            same = all(a is b for a, b in zip(value, attribute.as_tensors(), strict=True))
        else:
            continue
        if not same:
            attributes[name] = ir.Attr(name, attribute.type, value, doc_string=attribute.doc_string)
