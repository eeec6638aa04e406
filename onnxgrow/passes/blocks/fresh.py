"""New residual blocks: x + F(x), F an MLP, a bottleneck or a depthwise-separable convolution that ends in zeros.

The first layers of F hold initial draws, so that what its last layer reads is alive; that layer gets a gradient from
the first step, and the others once it has moved (as in https://arxiv.org/abs/1901.09321).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.init import Key, fill, gain
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.functions import AUTO, add_function
from onnxgrow.passes.deepen.places import Illegal, Place

__all__ = ["Block", "insert_block", "planned_block"]

RATIOS = {"mlp": 4.0, "bottleneck": 0.25, "separable": 1.0}
"""Hidden channels for each channel."""
LARGEST = 1 << 28
GAINS = {"relu": "Relu", "tanh": "Tanh", "selu": "Selu", "sigmoid": "Sigmoid"}


@dataclass(frozen=True)
class _Layer:
    """One linear layer of F: its name, channels, kernel, and whether it is depthwise or the one of zeros."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    depthwise: bool = False
    zero: bool = False

    @property
    def per_output(self) -> int:
        return (1 if self.depthwise else self.inputs) * math.prod(self.kernel)


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        place: Behind which value.
        kind: One of ``BLOCKS``.
        hidden: Channels inside.
        kernel: Of its spatial convolution; empty for an MLP on the last axis.
        function: Its activation.
    """

    place: Place
    kind: str
    hidden: int
    kernel: tuple[int, ...]
    function: str

    @property
    def layers(self) -> tuple[_Layer, ...]:
        c, h, rank = self.place.channels, self.hidden, len(self.place.shape) - 2
        one = (1,) * rank if self.place.axis == 1 and rank > 0 else ()
        if self.kind == "mlp":
            return (_Layer("expand", c, h, one), _Layer("project", h, c, one, zero=True))
        if self.kind == "separable":
            return (_Layer("depthwise", c, c, self.kernel, True), _Layer("pointwise", c, c, one, zero=True))
        return (
            _Layer("reduce", c, h, one),
            _Layer("spatial", h, h, self.kernel),
            _Layer("expand", h, c, one, zero=True),
        )

    @property
    def parameters(self) -> int:
        return sum(x.outputs * (x.per_output + 1) for x in self.layers)

    @property
    def flops(self) -> int:
        positions = math.prod(self.place.shape) // max(self.place.channels, 1)
        return 2 * positions * sum(x.outputs * x.per_output for x in self.layers)


def planned_block(
    place: Place, kind: str, ratio: float | None, kernel: int | tuple[int, ...], function: str, opset: int
) -> Block:
    """The block that fits a place. Raises Illegal where none does.

    Args:
        place: The place.
        kind: One of ``BLOCKS``.
        ratio: Hidden channels for each channel; None for the kind's own.
        kernel: Size on every spatial axis, or one size per axis.
        function: A name of ``FUNCTIONS``, or ``auto``: GELU in an MLP (where the opset has Erf), else ReLU.
        opset: Of the model.
    """
    rank = len(place.shape) - 2
    image = place.axis == 1 and rank > 0
    if kind != "mlp" and not image:
        raise Illegal(
            f"a {kind} block needs channels on axis 1 and spatial axes behind them", "an mlp block fits there"
        )
    sizes = ((kernel,) * rank if isinstance(kernel, int) else kernel) if kind != "mlp" else ()
    if kind != "mlp" and len(sizes) != rank:
        raise Illegal(f"it has {rank} spatial axes, {len(sizes)} kernel sizes are given")
    hidden = max(1, round(place.channels * (RATIOS[kind] if ratio is None else ratio)))
    if kind == "separable":
        hidden = place.channels
    if function == AUTO:
        function = "gelu" if kind == "mlp" and opset >= 9 else "relu"
    block = Block(place, kind, hidden, sizes, function)
    if block.parameters > LARGEST:
        raise Illegal(f"a block of {hidden} hidden channels would have {block.parameters:.2g} parameters")
    return block


def insert_block(build: Builder, block: Block, value: str, seed: int, generation: int) -> str:
    """Insert it behind ``value``, which stands for the place's value; returns what the readers are to read."""
    place, scope = block.place, f"{block.place.base}.{block.kind}"
    current = value
    for i, layer in enumerate(block.layers):
        before = len(build.rewriter.inserted)
        current = _insert_layer(build, place, layer, current, scope, block.function, (seed, generation))
        if i < len(block.layers) - 1:
            current = add_function(build, place, block.function, current, f"{scope}/{block.function}")
        for name in build.rewriter.inserted[before:]:
            _declare(build.rewriter.value(name), place, layer.outputs)
    return build.node(place, "Add", [value, current], f"{scope}/sum", of=place.value)


def _insert_layer(
    build: Builder, place: Place, layer: _Layer, value: str, scope: str, function: str, key: tuple[int, int]
) -> str:
    convolution, dtype = bool(layer.kernel), place.dtype
    gemm = not convolution and len(place.shape) == 2
    shape: Sequence[int] = (layer.outputs, 1 if layer.depthwise else layer.inputs, *layer.kernel)
    shape = shape if convolution or gemm else (layer.inputs, layer.outputs)
    name = f"{scope}.{layer.name}"
    if layer.zero:
        weight = build.filled(0.0, shape, dtype, f"{name}.weight")
    else:
        fan_out = max(1, layer.outputs * layer.per_output // layer.inputs)
        scale = gain(GAINS.get(function, "Gelu"))
        axis = 0 if convolution or gemm else 1
        weight = build.drawn(
            shape,
            dtype,
            f"{name}.weight",
            lambda made: fill(
                "kaiming",
                shape,
                fan_in=layer.per_output,
                fan_out=fan_out,
                gain=scale,
                key=Key(*key, made),
                out_axes=(axis,),
            ),
        )
    bias = build.filled(0.0, (layer.outputs,), dtype, f"{name}.bias")
    path = f"{scope}/{layer.name}"
    if gemm:
        return build.node(place, "Gemm", [value, weight, bias], path, [ir.AttrInt64("transB", 1)])
    if not convolution:
        return build.node(place, "Add", [build.node(place, "MatMul", [value, weight], path), bias], f"{path}/add")
    attributes = [
        ir.AttrInt64s("kernel_shape", list(layer.kernel)),
        ir.AttrInt64s("pads", [*(k // 2 for k in layer.kernel), *(k - 1 - k // 2 for k in layer.kernel)]),
        ir.AttrInt64("group", layer.outputs if layer.depthwise else 1),
    ]
    return build.node(place, "Conv", [value, weight, bias], path, attributes)


def _declare(value: ir.Value, place: Place, channels: int) -> None:
    """Values inside the block have channels of their own."""
    if value.shape is not None and len(value.shape) == len(place.shape):
        dims = list(value.shape.dims)
        dims[place.axis] = channels
        value.shape = ir.Shape(dims)
