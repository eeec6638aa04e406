"""Activations in float64.

Spec: https://onnx.ai/onnx/operators/ . The reference implementation rounds Erf and Gelu to float32; the others stand
here because they are on the hot path.
"""

from __future__ import annotations

import math

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__ = ["erf", "sigmoid", "softmax"]

_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def erf(x: Array) -> Array:
    """The error function, element by element, correct to the last bits (C library)."""
    return np.asarray(_erf(x), np.float64).reshape(np.shape(x))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ) without overflow at either end."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def softmax(x: Array, axis: int | tuple[int, ...]) -> Array:
    """e^(x − max) normalised along ``axis``."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _softmax_axes(call: Call, rank: int) -> tuple[int, ...]:
    """Before opset 13 all axes from ``axis`` on are normalised together (default 1), then only one (default −1)."""
    if call.opset < 13:
        axis = call.axis(rank, 1)
        return tuple(range(axis, rank)) or (rank - 1,)
    return (call.axis(rank),)


@kernel("Softmax")
def _softmax(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (softmax(x, _softmax_axes(call, x.ndim)),)


@kernel("LogSoftmax")
def _log_softmax(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    axes = _softmax_axes(call, x.ndim)
    shifted = x - x.max(axis=axes, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True)),)


@kernel("Relu")
def _relu(call: Call) -> tuple[Array]:
    return (np.maximum(call.inputs[0], 0),)


@kernel("Sigmoid")
def _sigmoid(call: Call) -> tuple[Array]:
    return (sigmoid(call.inputs[0]),)


@kernel("Tanh")
def _tanh(call: Call) -> tuple[Array]:
    return (np.tanh(call.inputs[0]),)


@kernel("Erf")
def _erf_kernel(call: Call) -> tuple[Array]:
    return (erf(call.inputs[0]),)


def _gelu_erf(x: Array) -> Array:
    """x · Φ(x); the complement keeps its digits where 1 + erf cancels."""
    return np.asarray(0.5 * x * np.asarray(_erfc(-x / math.sqrt(2.0)), np.float64).reshape(np.shape(x)))


def _gelu_tanh(x: Array) -> Array:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))


@kernel("Gelu")
def _gelu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    if call.attr("approximate", "none") == "tanh":
        return (_gelu_tanh(x),)
    return (_gelu_erf(x),)


@kernel("Gelu", "BiasGelu", domain="com.microsoft")
def _gelu_contrib(call: Call) -> tuple[Array]:
    x = call.inputs[0] if call.input(1) is None else call.inputs[0] + call.inputs[1]
    return (_gelu_erf(x),)


@kernel("FastGelu", domain="com.microsoft")
def _fast_gelu(call: Call) -> tuple[Array]:
    x = call.inputs[0] if call.input(1) is None else call.inputs[0] + call.inputs[1]
    return (_gelu_tanh(x),)


@kernel("QuickGelu", domain="com.microsoft")
def _quick_gelu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x * sigmoid(call.attr("alpha", 1.702) * x),)


@kernel("LeakyRelu")
def _leaky_relu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (np.where(x < 0, call.attr("alpha", 0.01) * x, x),)


@kernel("PRelu")
def _prelu(call: Call) -> tuple[Array]:
    x, slope = call.inputs
    return (np.where(x < 0, slope * x, x),)


@kernel("Elu")
def _elu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (np.where(x < 0, call.attr("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),)


@kernel("Celu")
def _celu(call: Call) -> tuple[Array]:
    x, alpha = call.inputs[0], call.attr("alpha", 1.0)
    return (np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha)),)


@kernel("Selu")
def _selu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    alpha, gamma = call.attr("alpha", 1.67326319217681884765625), call.attr("gamma", 1.05070102214813232421875)
    return (gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),)


@kernel("HardSigmoid")
def _hard_sigmoid(call: Call) -> tuple[Array]:
    return (np.clip(call.attr("alpha", 0.2) * call.inputs[0] + call.attr("beta", 0.5), 0, 1),)


@kernel("HardSwish")
def _hard_swish(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x * np.clip(x / 6.0 + 0.5, 0, 1),)


@kernel("Swish")
def _swish(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x * sigmoid(call.attr("alpha", 1.0) * x),)


@kernel("Mish")
def _mish(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x * np.tanh(np.logaddexp(0, x)),)


@kernel("Softplus")
def _softplus(call: Call) -> tuple[Array]:
    return (np.logaddexp(0, call.inputs[0]),)


@kernel("Softsign")
def _softsign(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x / (1 + np.abs(x)),)


@kernel("ThresholdedRelu")
def _thresholded_relu(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (np.where(x > call.attr("alpha", 1.0), x, 0.0),)


@kernel("Clip")
def _clip(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    low = call.attr("min") if call.opset < 11 else call.input(1)
    high = call.attr("max") if call.opset < 11 else call.input(2)
    if low is not None:
        x = np.maximum(x, low)
    return (x if high is None else np.minimum(x, high),)
