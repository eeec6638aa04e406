"""Pooling. Spec: https://onnx.ai/onnx/operators/onnx__MaxPool.html and its neighbours"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.ops.windows import Window, pad, window
from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _unfold(x: Tensor, sliding: Window) -> Tensor:
    """All windows of a padded tensor: a new last axis for every spatial one."""
    rank = len(sliding.kernel)
    strides, dilations = sliding.steps(rank)
    for i in range(rank):
        reach = dilations[i] * (sliding.kernel[i] - 1) + 1
        x = x.unfold(2 + i, reach, strides[i])[..., :: dilations[i]]
    return x


def _ends(x: Tensor, sliding: Window) -> tuple[list[int], list[int], list[int]]:
    begin, end = sliding.paddings(x.shape[2:], sliding.kernel)
    beyond = [
        sliding.beyond(n, i, k, b, e)
        for i, (n, k, b, e) in enumerate(zip(x.shape[2:], sliding.kernel, begin, end, strict=True))
    ]
    return begin, end, beyond


@register("MaxPool")
def max_pool(op: NodeSpec) -> Kernel:
    sliding = window(op)
    rank = len(sliding.kernel)
    if op.has_output(1):
        op.fail("it gives indices")
    if rank not in _MAX:
        op.fail(f"{rank} spatial axes")

    def run(x: Tensor) -> Tensor:
        strides, dilations = sliding.steps(rank)
        begin, end, beyond = _ends(x, sliding)
        end = [e + b for e, b in zip(end, beyond, strict=True)]
        if begin == end and all(2 * b <= k for b, k in zip(begin, sliding.kernel, strict=True)):
            padding = begin
        else:
            lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            x, padding = pad(x, begin, end, lowest), [0] * rank
        y: Tensor = _MAX[rank](x, list(sliding.kernel), strides, padding, dilations)
        return y

    return run


@register("AveragePool")
def average_pool(op: NodeSpec) -> Kernel:
    sliding, include = window(op), bool(op.attr("count_include_pad", 0))
    rank = len(sliding.kernel)
    axes = tuple(range(-rank, 0))

    def run(x: Tensor) -> Tensor:
        begin, end, beyond = _ends(x, sliding)
        padded = any(begin) or any(end) or any(beyond)
        if not padded and not any(d != 1 for d in sliding.dilations) and rank in (1, 2, 3):
            strides, _ = sliding.steps(rank)
            function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            y: Tensor = function(x, list(sliding.kernel), strides)
            return y
        counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        # The padding counts where it is asked for, what ceil_mode adds beyond it never does.
        counted = pad(counted, begin, end, 1.0 if include else 0.0)
        zero = [0] * rank
        summed = _unfold(pad(pad(x, begin, end), zero, beyond), sliding).sum(axes)
        return summed / _unfold(pad(counted, zero, beyond), sliding).sum(axes)

    return run


@register("LpPool")
def lp_pool(op: NodeSpec) -> Kernel:
    sliding, p = window(op), int(op.attr("p", 2))
    axes = tuple(range(-len(sliding.kernel), 0))

    def run(x: Tensor) -> Tensor:
        begin, end, beyond = _ends(x, sliding)
        end = [e + b for e, b in zip(end, beyond, strict=True)]
        return torch.linalg.vector_norm(_unfold(pad(x, begin, end), sliding), p, axes)

    return run


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


@register("GlobalAveragePool")
def global_average_pool(op: NodeSpec) -> Kernel:
    return lambda x: x.mean(_spatial(x), keepdim=True)


@register("GlobalMaxPool")
def global_max_pool(op: NodeSpec) -> Kernel:
    return lambda x: x.amax(_spatial(x), keepdim=True)


@register("GlobalLpPool")
def global_lp_pool(op: NodeSpec) -> Kernel:
    p = int(op.attr("p", 2))
    return lambda x: torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True)
