"""Structural equality of graphs, nodes, attributes, types and tensors; each answer is the difference in words."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.io.carry import carried_attribute, carried_type
from onnxgrow.io.tensors import SparseTensor
from onnxgrow.verify.certificate.blocks import blocks, same_bits, same_memory

__all__ = [
    "attribute_difference",
    "attributes_difference",
    "function_difference",
    "graph_difference",
    "node_difference",
    "tensor_difference",
    "tensor_with_names_difference",
    "type_difference",
    "value_difference",
]

_GRAPH = ir.AttributeType.GRAPH
_GRAPHS = ir.AttributeType.GRAPHS
_TENSORS = {ir.AttributeType.TENSOR: False, ir.AttributeType.TENSORS: True}


def tensor_difference(old: ir.TensorProtocol, new: ir.TensorProtocol) -> str:
    """Difference of two tensors in dtype, shape or bytes; empty when they are equal. Their names are not compared."""
    if old is new:
        return ""
    if old.dtype != new.dtype:
        return f"dtype {old.dtype} became {new.dtype}"
    if tuple(old.shape.numpy()) != tuple(new.shape.numpy()):
        return f"shape {tuple(old.shape.numpy())} became {tuple(new.shape.numpy())}"
    if isinstance(old, SparseTensor) != isinstance(new, SparseTensor):
        return "it is sparse in one of the two models only"
    if isinstance(old, SparseTensor) and isinstance(new, SparseTensor):
        return "" if old.proto == new.proto else "its sparse data differ"
    a, b = np.asarray(old.numpy()), np.asarray(new.numpy())
    if same_memory(a, b):
        return ""
    for block in blocks(a.shape, a.dtype.itemsize):
        if not same_bits(a[block], b[block]):
            return "its bytes differ"
    return "" if a.size or same_bits(a, b) else "its bytes differ"


def _shape(shape: ir.Shape | None) -> tuple[Any, ...] | None:
    if shape is None:
        return None
    dims = tuple(d if isinstance(d, int) else ("symbol", d.value) for d in shape)
    return (dims, tuple(shape.get_denotation(i) for i in range(len(dims))))


def type_difference(old: ir.TypeProtocol | None, new: ir.TypeProtocol | None) -> str:
    """Difference of two value types (tensor, sequence, optional, sparse)."""
    if type(old) is not type(new) or old != new:
        return f"type {old} became {new}"
    denotations = [getattr(t, "denotation", None) for t in (old, new)]
    return "" if denotations[0] == denotations[1] else "the type's denotation differs"


def value_difference(old: ir.Value, new: ir.Value, *, shape: bool = True) -> str:
    """Difference of two values in what is written of them: type, shape, doc string, metadata, quantisation."""
    difference = type_difference(old.type, new.type)
    if difference:
        return difference
    if carried_type(old) != carried_type(new):
        return "its type differs"
    if shape and _shape(old.shape) != _shape(new.shape):
        return f"shape {old.shape} became {new.shape}"
    if (old.doc_string or "") != (new.doc_string or ""):
        return "its doc string differs"
    if dict(old.metadata_props) != dict(new.metadata_props):
        return "its metadata differ"
    if old.meta.get("quant_parameter_tensor_names") != new.meta.get("quant_parameter_tensor_names"):
        return "its quantisation annotation differs"
    return ""


def _same_float(a: float, b: float) -> bool:
    return struct.pack("<d", a) == struct.pack("<d", b)


def _same_items(kind: ir.AttributeType, a: Sequence[Any], b: Sequence[Any]) -> bool:
    if len(a) != len(b):
        return False
    if kind is ir.AttributeType.FLOATS:
        return all(_same_float(x, y) for x, y in zip(a, b, strict=True))
    return list(a) == list(b)


def attribute_difference(old: ir.Attr | None, new: ir.Attr | None) -> str:
    """Difference of two attributes in type, value (bit for bit), reference or doc string."""
    if old is None or new is None:
        return "" if old is new else "it was added" if old is None else "it was removed"
    if old.type != new.type or old.ref_attr_name != new.ref_attr_name:
        return f"its type {old.type} became {new.type}"
    if (old.doc_string or "") != (new.doc_string or ""):
        return "its doc string differs"
    if old.is_ref():
        return ""
    carried = carried_attribute(old), carried_attribute(new)
    if carried != (None, None):
        # The stand-ins differ from one reading of a file to the next.
        return "" if carried[0] == carried[1] else "its value differs"
    a, b = old.value, new.value
    if old.type is ir.AttributeType.FLOAT:
        return "" if _same_float(a, b) else f"{a} became {b}"
    if old.type in _TENSORS:
        pairs = list(zip(a, b, strict=False)) if _TENSORS[old.type] else [(a, b)]
        if _TENSORS[old.type] and len(a) != len(b):
            return "the number of tensors differs"
        return next((d for d in (tensor_with_names_difference(x, y) for x, y in pairs) if d), "")
    if old.type is _GRAPH:
        return graph_difference(a, b)
    if old.type is _GRAPHS:
        if len(a) != len(b):
            return "the number of graphs differs"
        return next((d for d in (graph_difference(x, y) for x, y in zip(a, b, strict=True)) if d), "")
    if old.type in (ir.AttributeType.FLOATS, ir.AttributeType.INTS, ir.AttributeType.STRINGS):
        return "" if _same_items(old.type, a, b) else f"{list(a)} became {list(b)}"
    if old.type in (ir.AttributeType.INT, ir.AttributeType.STRING):
        return "" if a == b else f"{a!r} became {b!r}"
    if old.type in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
        xs, ys = ([a], [b]) if old.type is ir.AttributeType.TYPE_PROTO else (list(a), list(b))
        same = len(xs) == len(ys) and all(
            not type_difference(x.type, y.type) and _shape(x.shape) == _shape(y.shape)
            for x, y in zip(xs, ys, strict=False)
        )
        return "" if same else "its type value differs"
    return "" if a is b or a == b else "its value differs"


def tensor_with_names_difference(old: ir.TensorProtocol, new: ir.TensorProtocol, *, data: bool = True) -> str:
    """As :func:`tensor_difference` (left out without ``data``), and in name, doc string and metadata."""
    difference = tensor_difference(old, new) if data else ""
    if difference:
        return difference
    if (old.name or "") != (new.name or ""):
        return f"its name {old.name!r} became {new.name!r}"
    if (old.doc_string or "") != (new.doc_string or ""):
        return "its doc string differs"
    return "" if dict(old.metadata_props) == dict(new.metadata_props) else "its metadata differ"


def attributes_difference(
    old: Mapping[str, ir.Attr], new: Mapping[str, ir.Attr], except_for: Collection[str] = ()
) -> str:
    """First difference of two nodes' attributes, leaving out the names in ``except_for``."""
    for name in [*old, *(n for n in new if n not in old)]:
        if name not in except_for:
            difference = attribute_difference(old.get(name), new.get(name))
            if difference:
                return f"attribute {name!r}: {difference}"
    return ""


def _names(values: Sequence[ir.Value | None]) -> list[str]:
    return [value.name or "" if value is not None else "" for value in values]


def node_difference(old: ir.Node, new: ir.Node, *, except_for: Collection[str] = (), inputs: bool = True) -> str:
    """First difference of two nodes: identity, attributes, names, documentation and (if asked) inputs."""
    for what in ("op_type", "domain", "overload", "name", "doc_string"):
        a, b = getattr(old, what) or "", getattr(new, what) or ""
        if a != b:
            return f"{what.replace('_', ' ')} {a!r} became {b!r}"
    if inputs and _names(old.inputs) != _names(new.inputs):
        return f"inputs {_names(old.inputs)} became {_names(new.inputs)}"
    if _names(old.outputs) != _names(new.outputs):
        return f"outputs {_names(old.outputs)} became {_names(new.outputs)}"
    if dict(old.metadata_props) != dict(new.metadata_props):
        return "its metadata differ"
    if list(old.device_configurations or ()) != list(new.device_configurations or ()):
        return "its device configurations differ"
    difference = attributes_difference(old.attributes, new.attributes, except_for)
    if difference:
        return difference
    if [n for n in old.attributes if n not in except_for] != [n for n in new.attributes if n not in except_for]:
        return "the order of its attributes differs"
    return ""


def graph_difference(old: ir.Graph, new: ir.Graph) -> str:
    """First difference of two whole graphs, such as the bodies of control-flow nodes."""
    if (old.name or "") != (new.name or "") or (old.doc_string or "") != (new.doc_string or ""):
        return "the graph's name or doc string differs"
    if dict(old.metadata_props) != dict(new.metadata_props):
        return "the graph's metadata differ"
    for what, a, b in (("inputs", old.inputs, new.inputs), ("outputs", old.outputs, new.outputs)):
        if _names(a) != _names(b):
            return f"the graph's {what} differ"
        for x, y in zip(a, b, strict=True):
            difference = value_difference(x, y)
            if difference:
                return f"{x.name!r}: {difference}"
    if list(old.initializers) != list(new.initializers):
        return "the graph's initializers differ"
    for name, value in old.initializers.items():
        tensors = value.const_value, new.initializers[name].const_value
        if tensors[0] is None or tensors[1] is None:
            return f"{name!r}: its data are missing"
        difference = tensor_with_names_difference(tensors[0], tensors[1])
        if difference or (difference := value_difference(value, new.initializers[name])):
            return f"{name!r}: {difference}"
    return _nodes_difference(list(old), list(new))


def _nodes_difference(old: Sequence[ir.Node], new: Sequence[ir.Node]) -> str:
    if len(old) != len(new):
        return f"{len(old)} nodes became {len(new)}"
    for a, b in zip(old, new, strict=True):
        difference = node_difference(a, b)
        if difference:
            return f"node {a.name or (a.outputs[0].name if a.outputs else '')!r}: {difference}"
        for x, y in zip(a.outputs, b.outputs, strict=True):
            difference = value_difference(x, y)
            if difference:
                return f"{x.name!r}: {difference}"
    return ""


def function_difference(old: ir.Function, new: ir.Function) -> str:
    """First difference of two model-local functions."""
    if old.identifier() != new.identifier() or (old.doc_string or "") != (new.doc_string or ""):
        return "its identity or doc string differs"
    if dict(old.opset_imports) != dict(new.opset_imports) or dict(old.metadata_props) != dict(new.metadata_props):
        return "its opset imports or metadata differ"
    if list(old.attributes) != list(new.attributes):
        return "its attributes differ"
    difference = attributes_difference(old.attributes, new.attributes)
    if difference:
        return difference
    if _names(old.inputs) != _names(new.inputs) or _names(old.outputs) != _names(new.outputs):
        return "its inputs or outputs differ"
    for x, y in zip([*old.inputs, *old.outputs], [*new.inputs, *new.outputs], strict=True):
        difference = value_difference(x, y)
        if difference:
            return f"{x.name!r}: {difference}"
    return _nodes_difference(list(old), list(new))
