"""Quantisation with float64 scales; quantised values themselves stay integers.

Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html, …DequantizeLinear.html, …DynamicQuantizeLinear.html .
The reference implementation goes through float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__ = ["straight_through"]

_RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
}


def _along(call: Call, parameter: Array, x: Array) -> Array:
    """A scale or zero point, shaped so that it broadcasts over ``x``: per tensor, per axis or blocked."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = call.axis(x.ndim, 1)
    if call.attr("block_size", 0):
        return np.repeat(parameter, call.attr("block_size"), axis=axis)[
            tuple(slice(0, n) if a == axis else slice(None) for a, n in enumerate(x.shape))
        ]
    return parameter.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


@kernel("DequantizeLinear")
@kernel("DequantizeLinear", domain="com.microsoft")
def _dequantize(call: Call) -> tuple[Array]:
    x, scale, zero = call.inputs[0], call.inputs[1], call.input(2)
    y = x.astype(np.float64)
    if zero is not None:
        y = y - _along(call, zero.astype(np.float64), x)
    return (y * _along(call, scale, x),)


@kernel("QuantizeLinear")
@kernel("QuantizeLinear", domain="com.microsoft")
def _quantize(call: Call) -> tuple[Array]:
    x, scale, zero = call.inputs[0], call.inputs[1], call.input(2)
    if zero is not None:
        target = ir.DataType.from_numpy(zero.dtype)
    else:
        target = ir.DataType(call.attr("output_dtype", 0) or int(ir.DataType.UINT8))
    if target not in _RANGES:
        raise call.unsupported(f"quantisation to {target.name} is not covered")
    y = np.rint(x / _along(call, scale, x))
    if zero is not None:
        y = y + _along(call, zero.astype(np.float64), x)
    return (np.clip(y, *_RANGES[target]).astype(target.numpy()),)


def straight_through(call: Call) -> tuple[Array]:
    """QuantizeLinear as its gradient is taken in training: clipped, but not rounded (https://arxiv.org/abs/1308.3432)."""
    x, scale, zero = call.inputs[0], call.inputs[1], call.input(2)
    target = ir.DataType(call.attr("output_dtype", 0) or int(ir.DataType.UINT8))
    if zero is not None:
        target = ir.DataType.from_numpy(zero.dtype)
    y = x / _along(call, scale, x)
    if zero is not None:
        y = y + _along(call, zero.astype(np.float64), x)
    return (np.clip(y, float(target.min), float(target.max)),)


@kernel("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call) -> tuple[Array, ...]:
    x = call.inputs[0]
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255.0 if high != low else 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    y = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    return y, np.asarray(scale, np.float64), np.asarray(zero).astype(np.uint8)
