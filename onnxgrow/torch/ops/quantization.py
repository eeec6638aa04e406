"""Quantisation. Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html and its neighbours

Integer weights are not trained, and no gradient passes an integer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


def _along(t: Tensor | None, x: Tensor, axis: int) -> Tensor | None:
    """A scale or zero point per entry of ``axis``, shaped to go with ``x``."""
    if t is None or t.dim() == 0 or t.numel() == 1:
        return None if t is None else t.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return t.reshape(shape)


@register("DequantizeLinear")
@register("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 1)
    if op.attr("block_size", 0):
        op.fail("it is quantised in blocks")

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        step, offset = _along(scale, x, axis), _along(zero, x, axis)
        y = x.to(scale.dtype)
        assert step is not None
        return (y if offset is None else y - offset.to(scale.dtype)) * step

    return run


@register("DynamicQuantizeLinear")
def dynamic_quantize_linear(op: NodeSpec) -> Kernel:
    """x → (uint8 values, scale, zero point), over the range of x widened to hold 0."""

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
        scale = (high - low) / 255.0
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.round((-low / scale).clamp(0, 255))
        values = (torch.round(x / scale) + zero).clamp(0, 255)
        return values.to(torch.uint8), scale, zero.to(torch.uint8)

    return run


@register("MatMulInteger")
def matmul_integer(op: NodeSpec) -> Kernel:
    """Exact in float64: every product and sum is an integer below 2⁵³."""

    def run(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        x, y = a.double(), b.double()
        if a_zero is not None:
            x = x - (a_zero.double()[..., None] if a_zero.dim() == 1 and a_zero.numel() > 1 else a_zero.double())
        if b_zero is not None:
            y = y - b_zero.double()
        return torch.matmul(x, y).to(torch.int32)

    return run
