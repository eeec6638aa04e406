"""ONNX Runtime's attention and rotary embedding in float64, in the forms that its CPU provider runs.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []

DOMAIN = "com.microsoft"


def _heads(x: Array, count: int) -> Array:
    """[batch, sequence, heads · size] as [batch, heads, sequence, size]."""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _attend(call: Call, q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None) -> Array:
    """Softmax of scaled scores times values, as [batch, sequence, heads · size].

    Args:
        call: The node, for its attributes.
        q, k, v: [batch, heads, sequence, size].
        mask: Zero where a key is not read: [batch, keys], or the number of keys that are: [batch].
        bias: Added to the scores.
    """
    scale = call.attr("scale", 0.0) or float(np.float32(1.0 / np.sqrt(q.shape[-1])))
    scores = q @ k.swapaxes(-1, -2) * scale
    queries, keys = scores.shape[-2:]
    hidden = np.zeros((len(q), 1, 1, keys))
    if mask is not None:
        if mask.ndim == 1 and len(mask) == len(q):
            mask = np.arange(keys)[None, :] < mask[:, None]
        if mask.ndim != 2 or mask.shape != (len(q), keys):
            raise call.unsupported("a mask of this shape is not covered")
        hidden = np.where(mask[:, None, None, :] == 0, call.attr("mask_filter_value", -10000.0), 0.0)
    if call.attr("unidirectional", 0):
        later = np.arange(keys)[None, :] > np.arange(queries)[:, None] + keys - queries
        hidden = np.where(later, float(np.finfo(np.float32).min), hidden)
    scores = scores + hidden
    if bias is not None:
        scores = scores + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = weights / weights.sum(axis=-1, keepdims=True) @ v
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)).reshape(len(q), queries, -1)


@kernel("Attention", domain=DOMAIN)
def _attention(call: Call) -> tuple[Array, ...]:
    x, weight, bias, mask, past, added = (call.input(i) for i in range(6))
    if past is not None or call.input(6) is not None or call.uses_output(1) or call.attr("do_rotary", 0):
        raise call.unsupported("a cache and angles inside are not covered")
    joined = x @ weight
    joined = joined if bias is None else joined + bias
    sizes = call.attr("qkv_hidden_sizes") or (joined.shape[-1] // 3,) * 3
    q, k, v = (_heads(part, call.attr("num_heads")) for part in np.split(joined, np.cumsum(sizes)[:2], axis=-1))
    return (_attend(call, q, k, v, mask, added),)


@kernel("MultiHeadAttention", domain=DOMAIN)
def _multi_head_attention(call: Call) -> tuple[Array, ...]:
    q, k, v, bias, mask, added = (call.input(i) for i in range(6))
    if k is None or v is None or any(call.input(i) is not None for i in (6, 7, 8, 9)) or call.uses_output(1):
        raise call.unsupported("packed operands and a cache are not covered")
    if bias is not None:
        sizes = [x.shape[-1] for x in (q, k)]
        q, k, v = (x + b for x, b in zip((q, k, v), np.split(bias, np.cumsum(sizes)), strict=True))
    count = call.attr("num_heads")
    k, v = (x if x.ndim == 4 else _heads(x, count) for x in (k, v))
    return (_attend(call, _heads(q, count), k, v, mask, added),)


def _rotate(call: Call, x: Array, cosines: Array, sines: Array) -> Array:
    """Turn pairs of features. ``x``: [batch, sequence, heads, size]; angles: [batch or 1, sequence, pairs]."""
    pairs = cosines.shape[-1]
    head, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    c, s = cosines[:, :, None, :], sines[:, :, None, :]
    if call.attr("interleaved", 0):
        a, b = head[..., 0::2], head[..., 1::2]
        turned = np.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(head.shape)
    else:
        a, b = head[..., :pairs], head[..., pairs:]
        turned = np.concatenate([a * c - b * s, a * s + b * c], axis=-1)
    return np.concatenate([turned, rest], axis=-1)


def _rotary(call: Call, x: Array, cosines: Array, sines: Array, count: int) -> tuple[Array]:
    if x.ndim == 4:
        return (_rotate(call, x.swapaxes(1, 2), cosines, sines).swapaxes(1, 2),)
    split = x.reshape(*x.shape[:2], count, -1)
    return (_rotate(call, split, cosines, sines).reshape(x.shape),)


@kernel("RotaryEmbedding")
def _rotary_embedding(call: Call) -> tuple[Array]:
    x, cosines, sines, positions = (call.input(i) for i in range(4))
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    return _rotary(call, x, cosines, sines, call.attr("num_heads", 0) or 1)


@kernel("RotaryEmbedding", domain=DOMAIN)
def _rotary_embedding_of_ort(call: Call) -> tuple[Array]:
    x, positions, cosines, sines = call.inputs[:4]
    sequence = x.shape[-2]
    # One number is the place of the first token.
    at = positions if positions.ndim == 2 else int(positions.reshape(-1)[0]) + np.arange(sequence)[None, :]
    count = call.attr("num_heads", 0) or x.shape[-1] // (2 * cosines.shape[-1])
    return _rotary(call, x, cosines[at], sines[at], count)
