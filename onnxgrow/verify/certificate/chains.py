"""Readers for the ops that stand between a stored tensor and the op that uses it as a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.blocks import Array, Index
from onnxgrow.verify.certificate.readers import (
    ArrayReader,
    CastReader,
    DequantizeReader,
    ElementwiseReader,
    QuantizeReader,
    Reader,
    TransposeReader,
    everything,
)

if TYPE_CHECKING:
    from onnxgrow.verify.certificate.side import Side

__all__ = ["chain"]

Maker = Callable[[ir.Node, Sequence[Reader | None], "Side"], Reader | None]


def chain(node: ir.Node, inputs: Sequence[Reader | None], side: Side, output: int = 0) -> Reader | None:
    """A reader of one output of a node when all it reads are constants; None where the op is not in the list."""
    if node.op_type == "Split":
        return _split(node, inputs, side, output)
    maker = _MAKERS.get(node.op_type)
    if maker is None or len(node.outputs) != 1:
        return None
    return maker(node, inputs, side)


def _int(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None else attr.as_int()


def _identity(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    return inputs[0]


def _transpose(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    if inputs[0] is None:
        return None
    perm = node.attributes.get("perm")
    axes = tuple(perm.as_ints()) if perm is not None else tuple(reversed(range(len(inputs[0].shape))))
    return TransposeReader(inputs[0], axes)


def _reshape(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    x = inputs[0]
    shape = side.shape(node.outputs[0].name or "")
    if x is None or shape is None or math.prod(shape) != math.prod(x.shape):
        return None
    return ArrayReader(x.read(everything(x)).reshape(shape))


def _cast(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    if inputs[0] is None or set(node.attributes) - {"to", "saturate"}:
        return None
    try:
        target = ir.DataType(_int(node, "to", 0))
        dtype = np.dtype(target.numpy())
    except (TypeError, ValueError):
        return None
    plain = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return CastReader(inputs[0], dtype) if target in plain and inputs[0].dtype.kind in "fiubV" else None


def _dequantize(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    x, scale, zero_point = (*inputs, None)[:3]
    if x is None or scale is None or (len(inputs) > 2 and node.inputs[2] is not None and zero_point is None):
        return None
    if set(node.attributes) - {"axis", "block_size"} or scale.dtype.kind not in "fV":
        return None
    rank = len(x.shape)
    axis = _int(node, "axis", 1)
    return DequantizeReader(x, scale, zero_point, axis % rank if rank else 0, _int(node, "block_size", 0))


def _elementwise(compute: Callable[..., Any]) -> Maker:
    def make(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
        readers = [r for r in inputs if r is not None]
        if len(readers) != len(inputs) or not readers or node.attributes:
            return None
        if any(r.dtype != readers[0].dtype for r in readers) or readers[0].dtype.kind not in "fV":
            return None
        return ElementwiseReader(readers, compute)

    return make


def _slice(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    """A part of each axis; bounds are attributes before opset 10."""
    x = inputs[0]
    if x is None:
        return None
    given: list[list[int] | None] = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        attribute = node.attributes.get(name)
        operand = node.inputs[index] if index < len(node.inputs) else None
        value = side.value(operand.name or "") if operand is not None else None
        if operand is not None and value is None:
            return None
        if attribute is not None:
            given.append(list(attribute.as_ints()))
        else:
            given.append(None if value is None else [int(v) for v in np.asarray(value).reshape(-1)])
    starts, ends, axes, steps = given
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    parts: list[Index] = [slice(0, n) for n in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        parts[axis] = np.arange(*slice(start, end, step).indices(size), dtype=np.int64)
    return ArrayReader(x.read(parts))


def _split(node: ir.Node, inputs: Sequence[Reader | None], side: Side, output: int) -> Reader | None:
    """The outputs follow each other along the axis; their shapes say where each begins."""
    x = inputs[0]
    shapes = [side.shape(o.name or "") for o in node.outputs[: output + 1]]
    if x is None or any(shape is None or len(shape) != len(x.shape) for shape in shapes):
        return None
    axis = _int(node, "axis", 0) % len(x.shape)
    sizes = [shape[axis] for shape in shapes if shape is not None]
    parts: list[Index] = [slice(0, n) for n in x.shape]
    parts[axis] = slice(sum(sizes[:-1]), sum(sizes))
    return ArrayReader(x.read(parts))


def _quantize(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    x, scale, zero_point = (*inputs, None)[:3]
    if x is None or scale is None or zero_point is None or set(node.attributes) - {"axis"}:
        return None
    if scale.dtype.kind != "f" or x.dtype != scale.dtype or zero_point.dtype not in (np.int8, np.uint8):
        return None
    rank = len(x.shape)
    return QuantizeReader(x, scale, zero_point, _int(node, "axis", 1) % rank if rank else 0)


def _concat(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    readers = [r for r in inputs if r is not None]
    if len(readers) != len(inputs) or not readers:
        return None
    parts: list[Array] = [r.read(everything(r)) for r in readers]
    return ArrayReader(np.concatenate(parts, axis=_int(node, "axis", 1)))


def _fill(node: ir.Node, inputs: Sequence[Reader | None], side: Side) -> Reader | None:
    shape = side.shape(node.outputs[0].name or "")
    attr = node.attributes.get("value")
    value = np.zeros(1, np.float32) if attr is None else np.asarray(attr.as_tensor().numpy())
    if shape is None or value.size != 1:
        return None
    return ArrayReader(np.broadcast_to(value.reshape(()), shape))


_MAKERS: dict[str, Maker] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Cast": _cast,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(np.divide),
    "Neg": _elementwise(np.negative),
    "Concat": _concat,
    "Slice": _slice,
    "ConstantOfShape": _fill,
}
