"""Quantisation. Spec: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html and its neighbours

Integer weights are not trained, and no gradient passes an integer. Where numbers are quantised only to be dequantised,
the integers in between are kept as floating-point numbers, and the gradient goes straight through the rounding
(Bengio et al., https://arxiv.org/abs/1308.3432), as in quantisation-aware training
(Jacob et al., https://arxiv.org/abs/1712.05877); it is zero where the range is exceeded.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from onnxgrow.torch.registry import Kernel, NodeSpec, register
from onnxgrow.torch.tensors import dtype_of

__all__ = ["is_straight_through", "quantizer_of"]

RANGES = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}
MOVES = frozenset("Identity Transpose Reshape Squeeze Unsqueeze Flatten Expand Tile Slice Split Gather".split())


def is_straight_through(node: ir.Node) -> bool:
    """Whether all that reads the integers of a QuantizeLinear, moved or not, dequantises them again."""
    stack = [node.outputs[0]]
    while stack:
        value = stack.pop()
        if value.is_graph_output():
            return False
        for use in value.uses():
            if use.idx != 0:
                return False
            if use.node.op_type in MOVES:
                stack += use.node.outputs
            elif use.node.op_type != "DequantizeLinear":
                return False
    return True


def quantizer_of(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear whose integers, moved or not, a DequantizeLinear reads; None for any other node."""
    found = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    while found is not None and (producer := found.producer()) is not None:
        if producer.op_type == "QuantizeLinear":
            return producer
        found = producer.inputs[0] if producer.op_type in MOVES else None
    return None


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


@register("QuantizeLinear")
@register("QuantizeLinear", domain="com.microsoft")
def quantize_linear(op: NodeSpec) -> Kernel:
    """x / scale, rounded half to even, plus the zero point, within the range of its type."""
    axis, straight = op.attr("axis", 1), is_straight_through(op.node)
    if op.attr("block_size", 0):
        op.fail("it is quantised in blocks")
    kind = _target(op)
    if kind not in RANGES:
        op.fail("its zero point has no type of integers that PyTorch can stand in for")
    (low, high), dtype = RANGES[kind], dtype_of(kind, op.label)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        exact = torch.float64 if torch.float64 in (x.dtype, scale.dtype) else torch.float32
        step, offset = _along(scale, x, axis), _along(zero, x, axis)
        assert step is not None
        level = x.to(exact) / step.to(exact)
        shift = torch.zeros((), dtype=exact, device=x.device) if offset is None else offset.to(exact)
        nearest = torch.round(level)
        held = torch.clamp(nearest, low - shift, high - shift)
        if not straight:
            return (held + shift).to(dtype)
        # The difference of a number and its rounding is exact, so that adding it gives the integer itself.
        carrier = torch.where(nearest == held, level, held.detach())
        return carrier + (held - carrier).detach() + shift

    return run


def _target(op: NodeSpec) -> ir.DataType | None:
    """The type of the integers: the zero point's, or what ``output_dtype`` says, or uint8."""
    if not op.has(2):
        return ir.DataType(op.attr("output_dtype", 0) or ir.DataType.UINT8)
    stored, zero = op.stored(2), op.node.inputs[2]
    return stored.dtype if stored is not None else zero.dtype if zero is not None else None


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
