"""Activations. Spec: https://onnx.ai/onnx/operators/"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
}


@register(*_PLAIN)
def plain(op: NodeSpec) -> Kernel:
    return _PLAIN[op.node.op_type]


@register("LeakyRelu")
def leaky_relu(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@register("Elu")
def elu(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@register("Celu")
def celu(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@register("Selu")
def selu(op: NodeSpec) -> Kernel:
    alpha, gamma = op.attr("alpha", 1.67326319217681884765625), op.attr("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@register("ThresholdedRelu")
def thresholded_relu(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@register("HardSigmoid")
def hard_sigmoid(op: NodeSpec) -> Kernel:
    alpha, beta = op.attr("alpha", 0.2), op.attr("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


@register("Shrink")
def shrink(op: NodeSpec) -> Kernel:
    bias, lambd = op.attr("bias", 0.0), op.attr("lambd", 0.5)
    return lambda x: torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@register("Swish")
def swish(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@register("QuickGelu", domain="com.microsoft")
def quick_gelu(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@register("Gelu")
def gelu(op: NodeSpec) -> Kernel:
    approximate = op.attr("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@register("Gelu", domain="com.microsoft")
def fused_gelu(op: NodeSpec) -> Kernel:
    return F.gelu


@register("BiasGelu", domain="com.microsoft", weights=(1,))
def bias_gelu(op: NodeSpec) -> Kernel:
    return lambda x, bias: F.gelu(x + bias)


@register("FastGelu", domain="com.microsoft", weights=(1,))
def fast_gelu(op: NodeSpec) -> Kernel:
    def run(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.gelu(x if bias is None else x + bias, approximate="tanh")

    return run


@register("PRelu", weights=(1,))
def prelu(op: NodeSpec) -> Kernel:
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@register("Softmax", "LogSoftmax", "Hardmax")
def softmax_flat(op: NodeSpec) -> Kernel:
    """Before opset 13: over all axes from ``axis`` on, as one."""
    axis, function = op.attr("axis", 1), _SOFT[op.node.op_type]

    def run(x: Tensor) -> Tensor:
        start = axis % x.dim() if axis < 0 else axis
        shape = x.shape
        return function(x.reshape(*shape[:start], -1), -1).reshape(shape)

    return run


@register("Softmax", "LogSoftmax", "Hardmax", since_version=13)
def softmax(op: NodeSpec) -> Kernel:
    axis, function = op.attr("axis", -1), _SOFT[op.node.op_type]
    return lambda x: function(x, axis)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


_SOFT: dict[str, Callable[[Tensor, int], Tensor]] = {
    "Softmax": F.softmax,
    "LogSoftmax": F.log_softmax,
    "Hardmax": _hardmax,
}
