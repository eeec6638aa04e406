"""The type that comes in goes out."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxgrow.errors import UnsupportedError
from onnxgrow.io.compare import first_difference
from onnxgrow.io.digest import canonical_proto
from onnxgrow.io.graphsurgeon import export_graph, import_graph
from onnxgrow.io.load import Loaded, load
from onnxgrow.io.save import save_bytes

__all__ = ["give_back"]


def give_back(loaded: Loaded, model: ir.Model) -> object:
    """A result as the type its source had.

    Args:
        loaded: The source, as it was loaded.
        model: The result made from it.

    Returns:
        ``onnx.ModelProto`` for ``proto``, ``onnx_graphsurgeon.Graph`` for ``graphsurgeon``, and ``model``
        itself for ``ir`` and ``path`` (write it with :func:`onnxgrow.io.save`).

    Raises:
        UnsupportedError: The result is too large for a ModelProto, or a ``gs.Graph`` cannot hold all of it.
    """
    if loaded.kind == "proto":
        return onnx.ModelProto.FromString(save_bytes(model, loaded.carried))
    if loaded.kind == "graphsurgeon":
        return _graph(loaded, model)
    return model


def _graph(loaded: Loaded, model: ir.Model) -> object:
    proto = onnx.ModelProto.FromString(save_bytes(model, loaded.carried))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    graph = import_graph(proto, metadata)
    before = _comparable(load(proto))
    after = _comparable(load(export_graph(graph)))
    difference = first_difference(before, after)
    if difference:
        raise UnsupportedError(
            "graph",
            f"an onnx_graphsurgeon.Graph cannot hold the result: {difference}",
            "load the model from its path, and save it",
        )
    graph.ir_version = getattr(loaded.source, "ir_version", graph.ir_version)
    return graph


def _comparable(loaded: Loaded) -> onnx.ModelProto:
    """Everything of the model, digests in place of weights; a ``gs.Graph`` does not order its constants."""
    proto = canonical_proto(loaded.model)
    ordered = sorted(proto.graph.initializer, key=lambda tensor: tensor.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)
    return proto
