"""The bridge from and to ``onnx_graphsurgeon.Graph``.

A ``gs.Graph`` has no place for metadata, doc strings of nodes and values, quantisation annotations, device
placement, function overloads or training info, so a graph that comes in as one has none of these. The growth
map, which onnxgrow adds, is given back as the attribute ``graph.onnxgrow_metadata`` (str → str) and read from
there again; note that ``Graph.copy`` and ``gs.export_onnx`` leave it behind. Everything else is proved to be
kept: the graph that is given back is exported again and compared, weights included.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrow.errors import UnsupportedError

__all__ = ["GRAPH_METADATA", "export_graph", "import_graph"]

GRAPH_METADATA = "onnxgrow_metadata"


def export_graph(graph: Any) -> onnx.ModelProto:
    """A ModelProto of a ``gs.Graph``, which is left as it was.

    A graph without an IR version gets the lowest one that its opsets allow; graphsurgeon would take the
    newest one, which runtimes may not know yet.

    Raises:
        UnsupportedError: graphsurgeon cannot export the graph, or would change the type of a weight.
    """
    gs = _graphsurgeon()
    with _import_domains_restored(graph), _graphsurgeon_errors("cannot export the graph"):
        proto: onnx.ModelProto = gs.export_onnx(graph)
    if graph.ir_version is None:
        proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import), True)
    exported = {tensor.name: tensor for tensor in _initializers(proto.graph)}
    for constant in _constants(graph, gs):
        values, tensor = constant._values, exported.get(constant.name)
        if tensor is None or not isinstance(values, np.ndarray):
            continue
        if constant.export_dtype == constant.dtype:
            expected = ir.DataType.from_numpy(values.dtype)
            if tensor.data_type != expected.value:
                kind = ir.DataType(tensor.data_type).name
                raise UnsupportedError(
                    constant.name,
                    f"graphsurgeon exports {expected.name} weights as {kind}, which changes them",
                    "give the path of the model or a ModelProto",
                )
        # A constant whose values were loaded from a data file is still marked as external.
        if not tensor.external_data:
            tensor.ClearField("data_location")
    metadata = vars(graph).get(GRAPH_METADATA)
    if isinstance(metadata, Mapping):
        onnx.helper.set_model_props(proto, {str(key): str(value) for key, value in metadata.items()})
    return proto


def import_graph(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> Any:
    """A ``gs.Graph`` of a ModelProto, with ``metadata`` as its attribute ``onnxgrow_metadata``.

    Raises:
        UnsupportedError: graphsurgeon cannot import the model.
    """
    gs = _graphsurgeon()
    with _graphsurgeon_errors("cannot hold this model"):
        graph = gs.import_onnx(proto)
    setattr(graph, GRAPH_METADATA, dict(metadata))
    return graph


def _graphsurgeon() -> Any:
    """Imported on first use, since it is slow to import; it has no type annotations."""
    return importlib.import_module("onnx_graphsurgeon")


@contextmanager
def _graphsurgeon_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # graphsurgeon raises whatever its helpers raise, bare asserts and UnboundLocalError too
        raise UnsupportedError("graph", f"graphsurgeon {what}: {str(error)[:300] or type(error).__name__}") from error


@contextmanager
def _import_domains_restored(graph: Any) -> Iterator[None]:
    """Exporting adds missing opset imports to the user's graph and functions; take them out again."""
    owners = [graph, *graph.functions]
    before = [None if owner.import_domains is None else len(owner.import_domains) for owner in owners]
    try:
        yield
    finally:
        for owner, count in zip(owners, before, strict=True):
            if count is None:
                owner.import_domains = None
            else:
                del owner.import_domains[count:]


def _constants(graph: Any, gs: Any) -> Iterator[Any]:
    for inner in (graph, *graph.subgraphs(recursive=True)):
        yield from (tensor for tensor in inner.tensors().values() if isinstance(tensor, gs.Constant))


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _initializers(subgraph)
