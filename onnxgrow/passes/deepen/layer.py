"""Identity layers: convolutions, Gemm and MatMul that give out what they read.

After Net2DeeperNet (https://arxiv.org/abs/1511.05641): a convolution with a 1 at its tap ⌊k/2⌋ of the channel itself
(padded so that this tap reads its own position), or a unit matrix; biases of zeros. Every weight reads an activation
that is alive, so it learns from the first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.places import Illegal, Place

__all__ = ["LARGEST", "Layer", "insert_layer", "planned_layer"]

LARGEST = 1 << 28
"""Entries up to which a weight is made."""


@dataclass(frozen=True)
class Layer:
    """One identity layer.

    Attributes:
        place: Behind which value.
        op_type: ``Conv``, ``Gemm`` or ``MatMul``.
        kernel: Sizes of a convolution's kernel.
        depthwise: One filter a channel.
        bias: Whether it has one.
    """

    place: Place
    op_type: str
    kernel: tuple[int, ...]
    depthwise: bool
    bias: bool

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.place.channels, 1 if self.depthwise else self.place.channels, *self.kernel)

    @property
    def parameters(self) -> int:
        return math.prod(self.weight) + self.bias * self.place.channels

    @property
    def flops(self) -> int:
        """Operations per run, 2 per multiply-add."""
        positions = math.prod(self.place.shape) // max(self.place.channels, 1)
        return 2 * positions * math.prod(self.weight)


def planned_layer(place: Place, kernel: int | tuple[int, ...], depthwise: bool, bias: bool) -> Layer:
    """The identity layer that fits a place. Raises Illegal where none does.

    Args:
        place: The place.
        kernel: Size of a convolution's kernel on every spatial axis, or one size per axis; layers on the last axis
            have none.
        depthwise: Ask for one filter a channel; there are such convolutions only.
        bias: Whether it gets one.
    """
    rank = len(place.shape)
    convolution = place.axis == 1 and rank >= 3
    if not convolution:
        if depthwise:
            raise Illegal("its channels are on the last axis, where there is no depthwise layer")
        layer = Layer(place, "Gemm" if rank == 2 else "MatMul", (), False, bias)
    else:
        sizes = (kernel,) * (rank - 2) if isinstance(kernel, int) else kernel
        if len(sizes) != rank - 2:
            raise Illegal(f"it has {rank - 2} spatial axes, {len(sizes)} kernel sizes are given")
        layer = Layer(place, "Conv", sizes, depthwise, bias)
    if math.prod(layer.weight) > LARGEST:
        raise Illegal(f"a layer of {place.channels} channels would have {layer.parameters:.2g} parameters")
    return layer


def insert_layer(build: Builder, layer: Layer, value: str) -> str:
    """Insert the layer behind ``value``, which stands for the place's value; returns what stands for it then."""
    place, dtype = layer.place, layer.place.dtype
    scope = f"{place.base}.identity"
    weight = build.identity(layer.weight, dtype, f"{scope}.weight")
    bias = build.filled(0.0, (place.channels,), dtype, f"{scope}.bias") if layer.bias else ""
    if layer.op_type == "MatMul":
        made = build.node(place, "MatMul", [value, weight], f"{scope}/matmul", of=place.value)
        return build.node(place, "Add", [made, bias], f"{scope}/add", of=place.value) if bias else made
    inputs = [value, weight, bias] if bias else [value, weight]
    if layer.op_type == "Gemm":
        if not bias and build.opset < 11:  # Gemm could not do without C
            inputs.append(build.number(0.0, dtype, f"{scope}/zero"))
        return build.node(place, "Gemm", inputs, f"{scope}/gemm", [ir.AttrInt64("transB", 1)], of=place.value)
    before = [k // 2 for k in layer.kernel]
    after = [k - 1 - k // 2 for k in layer.kernel]
    attributes = [
        ir.AttrInt64s("kernel_shape", list(layer.kernel)),
        ir.AttrInt64s("pads", [*before, *after]),
        ir.AttrInt64("group", place.channels if layer.depthwise else 1),
    ]
    return build.node(place, "Conv", inputs, f"{scope}/conv", attributes, of=place.value)
