"""Convolutions of one to three spatial axes. Spec: https://onnx.ai/onnx/operators/onnx__Conv.html"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.ops.windows import pad, window
from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@register("Conv", weights=(1, 2))
def conv(op: NodeSpec) -> Kernel:
    sliding, groups = window(op), op.attr("group", 1)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = w.dim() - 2
        if rank not in _CONV:
            op.fail(f"{rank} spatial axes")
        strides, dilations = sliding.steps(rank)
        begin, end = sliding.paddings(x.shape[2:], w.shape[2:])
        if begin != end or min(begin, default=0) < 0:
            x, begin = pad(x, begin, end), [0] * rank
        return _CONV[rank](x, w, b, strides, begin, dilations, groups)

    return run


@register("FusedConv", domain="com.microsoft", weights=(1, 2))
def fused_conv(op: NodeSpec) -> Kernel:
    """ONNX Runtime's Conv with an activation and, before it, an addition."""
    product, name = conv(op), op.attr("activation", "")
    parameters = op.attr("activation_params") or []
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda x: x,
        "Relu": F.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "LeakyRelu": lambda x: F.leaky_relu(x, parameters[0] if parameters else 0.01),
        "Clip": lambda x: torch.clamp(x, parameters[0], parameters[1]),
        "HardSigmoid": lambda x: torch.clamp(parameters[0] * x + parameters[1], 0.0, 1.0),
    }
    if name not in activations:
        op.fail(f"activation {name}")
    function = activations[name]

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        y = product(x, w, b)
        return function(y if z is None else y + z)

    return run


@register("ConvTranspose", weights=(1, 2))
def conv_transpose(op: NodeSpec) -> Kernel:
    """The full result of the transposed convolution, cropped by ``pads`` or to ``output_shape``."""
    sliding, groups = window(op), op.attr("group", 1)
    extra, wanted = op.ints("output_padding"), op.ints("output_shape")

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        rank = w.dim() - 2
        if rank not in _TRANSPOSED:
            op.fail(f"{rank} spatial axes")
        strides, dilations = sliding.steps(rank)
        more = extra or [0] * rank
        full = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(x.shape[2:], strides, w.shape[2:], dilations, more, strict=True)
        ]
        if wanted is not None or sliding.auto.startswith("SAME"):
            sizes = wanted[-rank:] if wanted is not None else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            totals = [max(f - n, 0) for f, n in zip(full, sizes, strict=True)]
            grow = [max(n - f, 0) for f, n in zip(full, sizes, strict=True)]
            begin = [t // 2 if sliding.auto == "SAME_UPPER" else t - t // 2 for t in totals]
            end = [t - p for t, p in zip(totals, begin, strict=True)]
        else:
            (begin, end), grow = sliding.paddings(x.shape[2:], w.shape[2:]), [0] * rank
        small = all(e < max(s, d) for e, s, d in zip(more, strides, dilations, strict=True))
        if begin == end and small and not any(grow):
            return _TRANSPOSED[rank](x, w, b, strides, begin, more, groups, dilations)
        y = _TRANSPOSED[rank](x, w, None, strides, 0, 0, groups, dilations)
        last = [e + g - p for e, g, p in zip(more, grow, end, strict=True)]
        y = pad(y, [-p for p in begin], last)
        return y if b is None else y + b.reshape(-1, *[1] * rank)

    return run


@register("Col2Im", sizes=(1, 2))
def col2im(op: NodeSpec) -> Kernel:
    """Sum of blocks that slide over an image, of any number of axes: the transpose of taking them out of it.

    Spec: https://onnx.ai/onnx/operators/onnx__Col2Im.html
    """
    sliding = window(op)

    def run(columns: Tensor, image: tuple[int, ...], block: tuple[int, ...]) -> Tensor:
        rank = len(image)
        strides, dilations = sliding.steps(rank)
        begin, end = sliding.paddings(image, block)
        full = [n + b + e for n, b, e in zip(image, begin, end, strict=True)]
        counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(full, block, strides, dilations, strict=True)]
        blocks = columns.reshape(columns.shape[0], -1, math.prod(block), *counts)
        summed = columns.new_zeros(*blocks.shape[:2], *full)
        for index, offset in enumerate(itertools.product(*map(range, block))):
            first = [o * d for o, d in zip(offset, dilations, strict=True)]
            places = (slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, counts, strides, strict=True))
            summed[(..., *places)] += blocks[:, :, index]
        return pad(summed, [-b for b in begin], [-e for e in end])

    return run
