"""Normalisation. Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html and its neighbours"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Context, Kernel, NodeSpec, register

__all__: list[str] = []


@register("BatchNormalization", weights=(1, 2), context=True, foldable=False)
def batch_normalization(op: NodeSpec) -> Kernel:
    """In training mode over the batch, and the running statistics are moved as PyTorch moves them.

    PyTorch's momentum is one minus ONNX's, and it moves the running variance by the unbiased estimate. A node whose
    ``training_mode`` is set normalises over the batch in evaluation mode too: so does the file. Where mean and variance
    are computed, there is nothing that runs: the node does in training mode what the file does.
    """
    epsilon, momentum = op.attr("epsilon", 1e-5), 1.0 - op.attr("momentum", 0.9)
    always = bool(op.attr("training_mode", 0)) and op.version >= 14
    if op.version < 9 and not op.attr("spatial", 1):
        op.fail("it keeps statistics per position (spatial = 0)")
    kept = all(op.stored(index) is not None for index in (3, 4))

    def run(context: Context, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, variance: Tensor) -> Any:
        moving = context.training and not context.freeze_bn and kept
        training = moving or always
        if always and not moving:
            mean, variance = mean.detach().clone(), variance.detach().clone()
        if kept or training:
            y = F.batch_norm(x, mean, variance, w, b, training, momentum, epsilon)
        else:  # batch_norm has no gradient with respect to mean and variance
            y = _normalised(x, w, b, mean, variance, epsilon)
        return (y, mean, variance, mean, variance)[: op.outputs] if op.outputs > 1 else y

    return run


def _normalised(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    factor = w * torch.rsqrt(variance + epsilon)
    return (x - mean.reshape(shape)) * factor.reshape(shape) + b.reshape(shape)


def _layer_norm(x: Tensor, w: Tensor | None, b: Tensor | None, axis: int, epsilon: float) -> Tensor:
    start = axis % x.dim()
    shape = x.shape[start:]

    def fits(t: Tensor | None) -> bool:
        return t is None or t.shape == shape

    if fits(w) and fits(b):
        return F.layer_norm(x, shape, w, b, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon)
    y = y if w is None else y * w
    return y if b is None else y + b


def _statistics(x: Tensor, axis: int, epsilon: float, centred: bool = True) -> tuple[Tensor, Tensor]:
    axes = tuple(range(axis % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    deviation = x - mean if centred else x
    return mean, torch.rsqrt(deviation.square().mean(axes, keepdim=True) + epsilon)


@register("LayerNormalization", weights=(1, 2))
@register("LayerNormalization", domain="com.microsoft", weights=(1, 2))
def layer_normalization(op: NodeSpec) -> Kernel:
    axis, epsilon = op.attr("axis", -1), op.attr("epsilon", 1e-5)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Any:
        y = _layer_norm(x, w, b, axis, epsilon)
        return y if op.outputs == 1 else (y, *_statistics(x, axis, epsilon))[: op.outputs]

    return run


def _rms(x: Tensor, w: Tensor, axis: int, epsilon: float) -> Tensor:
    axes = tuple(range(axis % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * w


@register("RMSNormalization", weights=(1,))
@register("SimplifiedLayerNormalization", weights=(1,))
@register("SimplifiedLayerNormalization", domain="com.microsoft", weights=(1,))
def rms_normalization(op: NodeSpec) -> Kernel:
    axis, epsilon = op.attr("axis", -1), op.attr("epsilon", 1e-5)

    def run(x: Tensor, w: Tensor) -> Any:
        y = _rms(x, w, axis, epsilon)
        return y if op.outputs == 1 else (y, _statistics(x, axis, epsilon, centred=False)[1])

    return run


@register("SkipLayerNormalization", domain="com.microsoft", weights=(2, 3, 4))
def skip_layer_normalization(op: NodeSpec) -> Kernel:
    """Outputs: normalised, mean, inverse deviation, and the sum that was normalised."""
    epsilon = op.attr("epsilon", 1e-12)

    def run(x: Tensor, skip: Tensor, w: Tensor, beta: Tensor | None = None, bias: Tensor | None = None) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = _layer_norm(total, w, beta, -1, epsilon)
        return y if op.outputs == 1 else (y, *_statistics(total, -1, epsilon), total)[: op.outputs]

    return run


@register("SkipSimplifiedLayerNormalization", domain="com.microsoft", weights=(2, 3))
def skip_rms_normalization(op: NodeSpec) -> Kernel:
    epsilon = op.attr("epsilon", 1e-12)

    def run(x: Tensor, skip: Tensor, w: Tensor, bias: Tensor | None = None) -> Any:
        total = x + skip if bias is None else x + skip + bias
        y = _rms(total, w, -1, epsilon)
        return y if op.outputs == 1 else (y, *_statistics(total, -1, epsilon, centred=False), total)[: op.outputs]

    return run


@register("InstanceNormalization", weights=(1, 2))
def instance_normalization(op: NodeSpec) -> Kernel:
    epsilon = op.attr("epsilon", 1e-5)
    return lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=epsilon)


@register("GroupNormalization", weights=(1, 2), since_version=18)
def group_normalization(op: NodeSpec) -> Kernel:
    """Before opset 21, scale and bias are per group; from then on per channel."""
    groups, epsilon, per_group = op.attr("num_groups"), op.attr("epsilon", 1e-5), op.version < 21

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if per_group:
            each = x.shape[1] // groups
            w, b = w.repeat_interleave(each), b.repeat_interleave(each)
        return F.group_norm(x, groups, w, b, epsilon)

    return run


@register("LpNormalization")
def lp_normalization(op: NodeSpec) -> Kernel:
    axis, p = op.attr("axis", -1), op.attr("p", 2)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return run


@register("MeanVarianceNormalization")
def mean_variance_normalization(op: NodeSpec) -> Kernel:
    axes = tuple(op.ints("axes") or (0, 2, 3))

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return run


@register("LRN")
def local_response_normalization(op: NodeSpec) -> Kernel:
    alpha, beta, bias, size = op.attr("alpha", 1e-4), op.attr("beta", 0.75), op.attr("bias", 1.0), op.attr("size")

    def run(x: Tensor) -> Tensor:
        before = (size - 1) // 2
        squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
        return x / (bias + alpha / size * squares.unfold(1, size, 1).sum(-1)) ** beta

    return run
