"""Normalisations in float64: ``stash_type`` is ignored, everything stays double.

Spec: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html, …BatchNormalization.html and their neighbours.
The reference rounds GroupNormalization, LayerNormalization (stash_type) and RMSNormalization to float32.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []


def _per_channel(parameter: Array, rank: int) -> Array:
    return parameter.reshape(-1, *[1] * (rank - 2))


def _standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Zero mean and unit variance over ``axes``; with the mean and the inverse standard deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1.0 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


@kernel("BatchNormalization")
def _batch_norm(call: Call) -> tuple[Array, ...]:
    x, scale, bias, mean, variance = call.inputs
    if call.attr("training_mode", 0):
        return _batch_norm_of_batch(call)
    if call.uses_output(1):
        raise call.unsupported("training mode is not covered")
    if call.opset < 9 and not call.attr("spatial", 1):
        raise call.unsupported("spatial=0 is not covered")
    rank = max(x.ndim, 2)
    factor = scale / np.sqrt(variance + call.attr("epsilon", 1e-5))
    return ((x - _per_channel(mean, rank)) * _per_channel(factor, rank) + _per_channel(bias, rank),)


def _batch_norm_of_batch(call: Call) -> tuple[Array, ...]:
    """Training form from opset 14 on: statistics of the batch itself, and running ones that take them in."""
    x, scale, bias, mean, variance = call.inputs
    axes = tuple(a for a in range(x.ndim) if a != 1)
    momentum = call.attr("momentum", 0.9)
    y, own, _ = _standardise(x, axes, call.attr("epsilon", 1e-5))
    y = y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)
    return (
        y,
        mean * momentum + own.reshape(-1) * (1 - momentum),
        variance * momentum + x.var(axis=axes) * (1 - momentum),
    )


@kernel("InstanceNormalization")
def _instance_norm(call: Call) -> tuple[Array]:
    x, scale, bias = call.inputs
    y, _, _ = _standardise(x, tuple(range(2, x.ndim)), call.attr("epsilon", 1e-5))
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),)


@kernel("GroupNormalization")
def _group_norm(call: Call) -> tuple[Array]:
    x, scale, bias = call.inputs
    groups = call.attr("num_groups")
    split = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    y, _, _ = _standardise(split, (2, 3), call.attr("epsilon", 1e-5))
    if call.opset < 21:  # scale and bias have one entry a group before opset 21
        scale, bias = np.repeat(scale, x.shape[1] // groups), np.repeat(bias, x.shape[1] // groups)
    return (y.reshape(x.shape) * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),)


def _trailing(call: Call, x: Array) -> tuple[int, ...]:
    return tuple(range(call.axis(x.ndim), x.ndim))


@kernel("LayerNormalization")
def _layer_norm(call: Call) -> tuple[Array, ...]:
    x, scale, bias = call.inputs[0], call.inputs[1], call.input(2)
    y, mean, inverse = _standardise(x, _trailing(call, x), call.attr("epsilon", 1e-5))
    y = y * scale
    return (y if bias is None else y + bias, mean, inverse)


def _rms(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    inverse = 1.0 / np.sqrt((x * x).mean(axis=axes, keepdims=True) + epsilon)
    return x * inverse, inverse


@kernel("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(call: Call) -> tuple[Array, ...]:
    x, scale = call.inputs[:2]
    y, inverse = _rms(x, _trailing(call, x), call.attr("epsilon", 1e-5))
    return (y * scale, inverse)


@kernel("SkipLayerNormalization", domain="com.microsoft")
def _skip_layer_norm(call: Call) -> tuple[Array, ...]:
    x, skip, gamma, beta, bias = call.inputs[0], call.inputs[1], call.inputs[2], call.input(3), call.input(4)
    total = x + skip if bias is None else x + skip + bias
    y, mean, inverse = _standardise(total, (total.ndim - 1,), call.attr("epsilon", 1e-12))
    y = y * gamma
    return (y if beta is None else y + beta, mean, inverse, total)


@kernel("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_rms_norm(call: Call) -> tuple[Array, ...]:
    x, skip, gamma, bias = call.inputs[0], call.inputs[1], call.inputs[2], call.input(3)
    total = x + skip if bias is None else x + skip + bias
    y, inverse = _rms(total, (total.ndim - 1,), call.attr("epsilon", 1e-12))
    return (y * gamma, np.zeros_like(inverse), inverse, total)


@kernel("EmbedLayerNormalization", domain="com.microsoft")
def _embedding_norm(call: Call) -> tuple[Array, ...]:
    tokens, segments, words, places, kinds, gamma, beta = (call.input(i) for i in range(7))
    mask, positions = call.input(7), call.input(8)
    order = np.arange(tokens.shape[1])[None, :] if positions is None else positions
    total = words[tokens] + places[order]
    if segments is not None:
        total = total + kinds[segments]
    y, _, _ = _standardise(total, (2,), call.attr("epsilon", 1e-12))
    # How many entries of each row are not padding; zero where that is not asked for.
    counts = np.zeros(len(tokens)) if mask is None else (mask == 1).sum(axis=1)
    return (y * gamma + beta, counts.astype(np.int32), total)


@kernel("LpNormalization")
def _lp_norm(call: Call) -> tuple[Array]:
    x, p = call.inputs[0], call.attr("p", 2)
    size = (np.abs(x) ** p).sum(axis=call.axis(x.ndim), keepdims=True) ** (1.0 / p)
    return (np.divide(x, size, out=np.zeros_like(x), where=size != 0),)


@kernel("MeanVarianceNormalization")
def _mean_variance_norm(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    axes = tuple(a % x.ndim for a in call.attr("axes", (0, 2, 3)))
    centred = x - x.mean(axis=axes, keepdims=True)
    return (centred / (np.sqrt((centred * centred).mean(axis=axes, keepdims=True)) + 1e-9),)


@kernel("LRN")
def _lrn(call: Call) -> tuple[Array]:
    x, size = call.inputs[0], call.attr("size")
    before, channels = (size - 1) // 2, x.shape[1]
    square = x * x
    total = np.zeros_like(x)
    for shift in range(-before, size - before):
        low, high = max(0, -shift), min(channels, channels - shift)
        if low < high:
            total[:, low:high] += square[:, low + shift : high + shift]
    scale = call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * total
    return (x / scale ** call.attr("beta", 0.75),)
