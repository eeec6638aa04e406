"""Constants of a model, read only when asked for, and the known values computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["LIMIT", "KnownValues", "all_names", "constant_of", "constants", "dims_of", "filled_of"]

Array = npt.NDArray[np.generic]

LIMIT = 65_536
"""Values with more elements than this are weights or activations, not shape arithmetic: never evaluated."""


def dims_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The tensor's shape as plain integers, without reading its data."""
    return tuple(int(d) for d in tensor.shape.numpy())


def all_names(graph: ir.Graph) -> set[str]:
    """Every name of a value or node in a graph and in the bodies of its nodes."""
    names = {v.name for v in graph.inputs if v.name} | set(graph.initializers)
    for node in ir.traversal.RecursiveGraphIterator(graph):
        names.update(v.name for v in node.outputs if v.name)
        names.update(v.name for v in node.inputs if v is not None and v.name)
        if node.name:
            names.add(node.name)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                names.update(attribute.as_graph().initializers)
                names.update(v.name for v in attribute.as_graph().inputs if v.name)
    return names


def constant_of(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor a ``Constant`` node holds; None for a sparse tensor or a reference to an attribute."""
    for attr in node.attributes.values():
        if attr.is_ref():
            return None
        if attr.name == "value" and attr.type == ir.AttributeType.TENSOR:
            return attr.as_tensor()
        if attr.name == "value_float":
            return ir.tensor(np.array(attr.as_float(), np.float32))
        if attr.name == "value_floats":
            return ir.tensor(np.array(attr.as_floats(), np.float32))
        if attr.name == "value_int":
            return ir.tensor(np.array(attr.as_int(), np.int64))
        if attr.name == "value_ints":
            return ir.tensor(np.array(attr.as_ints(), np.int64))
        if attr.name == "value_string":
            return ir.StringTensor([attr.as_string().encode()], shape=ir.Shape([]))
        if attr.name == "value_strings":
            texts = [text.encode() for text in attr.as_strings()]
            return ir.StringTensor(texts, shape=ir.Shape([len(texts)]))
    return None


def constants(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Constants of the main graph by name; no data is read.

    Initializers, outputs of Constant nodes, and outputs of ConstantOfShape nodes whose shape is itself a constant
    (exporters of weightless benchmark models and of zero states write those).
    """
    found = {
        name: value.const_value for name, value in model.graph.initializers.items() if value.const_value is not None
    }
    filled: list[ir.Node] = []
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or not node.outputs[0].name:
            continue
        if node.op_type == "Constant":
            tensor = constant_of(node)
            if tensor is not None:
                found[node.outputs[0].name] = tensor
        elif node.op_type == "ConstantOfShape":
            filled.append(node)
    for node in filled:
        shape = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        if shape in found:
            found[node.outputs[0].name or ""] = _filled(node, found[shape])
    return found


def filled_of(node: ir.Node) -> ir.LazyTensor | None:
    """The tensor a ``ConstantOfShape`` node makes; None where its shape is no stored constant."""
    given = node.inputs[0] if node.inputs else None
    if given is None:
        return None
    maker = given.producer()
    shape = given.const_value if maker is None else constant_of(maker) if maker.op_type == "Constant" else None
    return None if shape is None else _filled(node, shape)


def _filled(node: ir.Node, shape: ir.TensorProtocol) -> ir.LazyTensor:
    """The tensor that a ConstantOfShape node makes; a view of one element, whatever its size."""
    value: Array = np.zeros(1, np.float32)
    attribute = node.attributes.get("value")
    if attribute is not None:
        value = np.asarray(attribute.as_tensor().numpy())
    dims = [int(d) for d in np.asarray(shape.numpy()).reshape(-1)]
    dtype = ir.DataType.from_numpy(value.dtype) if attribute is None else attribute.as_tensor().dtype
    name = node.outputs[0].name

    def make() -> ir.Tensor[Array]:
        return ir.Tensor(np.broadcast_to(value.reshape(()), dims), dtype=dtype, name=name)

    return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(dims), name=name)


class KnownValues(Mapping[str, Array]):
    """Known values by name: small constants, read from the model at each access, and computed values.

    ``computed`` holds those computed by nodes. Strings and values of more than :data:`LIMIT` elements are no
    part of it.
    """

    def __init__(self, tensors: Mapping[str, ir.TensorProtocol], computed: Mapping[str, Array]) -> None:
        self.computed = computed
        self._tensors = {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.dtype != ir.DataType.STRING and math.prod(dims_of(tensor)) <= LIMIT
        }

    def __getitem__(self, name: str) -> Array:
        if name in self.computed:
            return self.computed[name]
        return np.asarray(self._tensors[name].numpy())

    def __contains__(self, name: object) -> bool:
        return name in self.computed or name in self._tensors

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from (name for name in self.computed if name not in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors.keys() | self.computed.keys())
