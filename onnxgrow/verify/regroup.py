"""The same network with other roundings: every sum over a contracted axis is made of two parts.

A weight W becomes W·m and W·(1 − m) with a drawn mask m of zeros and ones over its contracted axis, and the two results
are added. Zeros that are inserted among the terms of a sum regroup it in the same way, so the difference measures what
that alone may do: with many terms of one sign far more than one unit in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from onnxgrow.verify.sessions import ModelSource

__all__ = ["regrouped"]

WEIGHT_LIMIT = 20_000_000
"""Bytes of weights that are masked at most: ONNX Runtime computes the masked ones in memory."""
OLDEST = 7
"""The opset since which operators broadcast as NumPy does."""
NO_ADDEND = 11
"""The opset since which Gemm needs no third input."""

_DTYPES: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
}
_Typed = tuple[int, tuple[int, ...]]


def regrouped(source: ModelSource, seed: int) -> ModelSource:
    """The model with the contractions of its Conv, ConvTranspose, Gemm and MatMul nodes in two parts, up to a limit.

    Args:
        source: A model; nodes of subgraphs and functions stay as they are.
        seed: Of the masks.
    """
    proto = source.proto()
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    if opset < OLDEST:
        return source
    held = dict(_constants(proto.graph))
    nodes: list[onnx.NodeProto] = []
    budget = WEIGHT_LIMIT
    for number, node in enumerate(proto.graph.node):
        found = _weight(node, held)
        if found is None:
            nodes.append(node)
            continue
        index, axis = found
        kind, dims = held[node.input[index]]
        nbytes = math.prod(dims) * _DTYPES[kind].itemsize
        if dims[axis] < 2 or nbytes > budget:
            nodes.append(node)
            continue
        budget -= nbytes
        mask = _mask(dims, axis, seed + 31 * number).astype(_DTYPES[kind])
        prefix = f"{node.output[0]}//regrouped"
        for half, values in enumerate((mask, 1 - mask)):
            proto.graph.initializer.append(numpy_helper.from_array(values.astype(mask.dtype), f"{prefix}/mask{half}"))
            masked = f"{prefix}/weight{half}"
            nodes.append(onnx.helper.make_node("Mul", [node.input[index], f"{prefix}/mask{half}"], [masked]))
            part = onnx.NodeProto()
            part.CopyFrom(node)
            part.name = f"{prefix}/{half}"
            part.input[index] = masked
            part.output[0] = f"{prefix}/part{half}"
            if half and len(part.input) > 2:
                _without_addend(part, proto.graph, mask.dtype, prefix, opset)
            nodes.append(part)
        nodes.append(onnx.helper.make_node("Add", [f"{prefix}/part1", f"{prefix}/part0"], [node.output[0]]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return source.with_proto(proto)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, _Typed]]:
    """Element type and dims of initializers, Constant nodes and ConstantOfShape nodes of constant shape."""
    shapes = {t.name: t for t in graph.initializer}
    for tensor in graph.initializer:
        yield tensor.name, (tensor.data_type, tuple(tensor.dims))
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            shapes[node.output[0]] = value
            yield node.output[0], (value.data_type, tuple(value.dims))
        shape = shapes.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is not None and shape.data_location != onnx.TensorProto.EXTERNAL:
            kind = onnx.TensorProto.FLOAT if value is None else value.data_type
            yield node.output[0], (kind, tuple(int(d) for d in numpy_helper.to_array(shape).reshape(-1)))


def _weight(node: onnx.NodeProto, held: Mapping[str, _Typed]) -> tuple[int, int] | None:
    """Index of the constant operand of a contraction, and its contracted axis."""
    if node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    flags = {a.name: a.i for a in node.attribute}
    places = {
        "Conv": ((1, 1),),
        "ConvTranspose": ((1, 0),),
        "Gemm": ((1, 1 if flags.get("transB") else 0), (0, 0 if flags.get("transA") else 1)),
        "MatMul": ((1, -2), (0, -1)),
    }.get(node.op_type, ())
    for index, axis in places:
        kind, dims = held.get(node.input[index], (0, ()))
        if kind in _DTYPES and len(dims) >= 2:
            return index, axis % len(dims)
    return None


def _mask(dims: tuple[int, ...], axis: int, seed: int) -> npt.NDArray[np.uint8]:
    words = np.random.Philox(key=seed).random_raw(-(-dims[axis] // 64))
    bits = np.unpackbits(np.atleast_1d(words).view(np.uint8), count=dims[axis])
    form = [1] * len(dims)
    form[axis] = -1
    return bits.reshape(form)


def _without_addend(
    node: onnx.NodeProto, graph: onnx.GraphProto, dtype: np.dtype[Any], prefix: str, opset: int
) -> None:
    """The bias, or Gemm's C, is added once only."""
    if node.op_type == "Gemm" and opset < NO_ADDEND:
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype), f"{prefix}/nothing"))
        node.input[2] = f"{prefix}/nothing"
    else:
        del node.input[2:]
