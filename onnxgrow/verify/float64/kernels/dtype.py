"""Operators that choose an output dtype: every float dtype becomes float64, the others stay.

Spec: https://onnx.ai/onnx/operators/onnx__Cast.html, …Constant.html, …ConstantOfShape.html, …Range.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.float64.kernels.pieces import FLOATS, is_large, to_float64
from onnxgrow.verify.float64.kernels.registry import Array, Call, RandomError, kernel

__all__ = ["FLOATS", "to_float64"]


def _convert(x: Array, target: ir.DataType) -> Array:
    if target in FLOATS:
        if x.dtype.kind in "SUO":
            return np.asarray([float(s) for s in x.ravel()], np.float64).reshape(x.shape)
        return x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return x.astype(target.numpy())


@kernel("Cast")
def _cast(call: Call) -> tuple[Array]:
    target = ir.DataType(call.attr("to"))
    if target == ir.DataType.STRING:  # the digits depend on the float's own width, which is gone here
        raise call.unsupported("a cast to strings is not covered")
    return (_convert(call.inputs[0], target),)


@kernel("CastLike")
def _cast_like(call: Call) -> tuple[Array]:
    x, like = call.inputs
    return (x.astype(like.dtype),)


@kernel("Constant")
def _constant(call: Call) -> tuple[Array]:
    (name, attribute) = next(iter(call.node.attributes.items()))
    if name == "sparse_value":
        raise call.unsupported("sparse constants are not covered")
    value: Any = attribute.value
    if name == "value":
        array = value.numpy()
        return (array if is_large(array) else to_float64(array),)
    kinds = {"value_float": np.float64, "value_floats": np.float64, "value_int": np.int64, "value_ints": np.int64}
    return (np.asarray(value, kinds.get(name, object)),)


@kernel("ConstantOfShape")
def _constant_of_shape(call: Call) -> tuple[Array]:
    value = call.attr("value")
    fill = np.zeros(1) if value is None else to_float64(value.numpy())
    filled = np.broadcast_to(fill.reshape(-1)[0], tuple(int(n) for n in call.inputs[0]))
    return (filled if is_large(filled) else filled.copy(),)


@kernel("EyeLike")
def _eye_like(call: Call) -> tuple[Array]:
    x, dtype = call.inputs[0], call.attr("dtype")
    target = x.dtype if dtype is None else ir.DataType(dtype).numpy()
    rows, columns = x.shape
    return (to_float64(np.eye(rows, columns, k=call.attr("k", 0)).astype(target)),)


@kernel("Range")
def _range(call: Call) -> tuple[Array]:
    start, limit, delta = (np.asarray(x).reshape(-1)[0] for x in call.inputs)
    count = max(int(np.ceil((limit - start) / delta)), 0)
    return ((start + np.arange(count) * delta).astype(start.dtype),)


@kernel("Identity", piecewise=(0,))
def _identity(call: Call) -> tuple[Any]:
    return (call.inputs[0],)


@kernel("Dropout")
def _dropout(call: Call) -> tuple[Array, ...]:
    training = call.input(2)
    if call.opset >= 12 and training is not None and bool(np.all(training)):
        raise RandomError(call.node.op_type, "training mode is random")
    x = call.inputs[0]
    return (x, np.ones(x.shape, bool)) if call.uses_output(1) else (x,)
