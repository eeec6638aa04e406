"""Attention. Specs: https://onnx.ai/onnx/operators/onnx__Attention.html, https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
and, for the fused ones, https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


def _heads(x: Tensor, count: int) -> Tensor:
    """[N, L, heads · D] → [N, heads, L, D]."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


@register("Attention", since_version=23)
def attention(op: NodeSpec) -> Kernel:
    if op.has_output(3) or op.attr("softcap", 0.0) or op.has(6):
        op.fail("it has a soft cap, gives its scores, or takes unpadded lengths")
    causal, scale = bool(op.attr("is_causal", 0)), op.attr("scale")
    q_heads, kv_heads = op.attr("q_num_heads"), op.attr("kv_num_heads")

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
    ) -> Any:
        flat = q.dim() == 3
        if flat:
            q, k, v = _heads(q, q_heads), _heads(k, kv_heads), _heads(v, kv_heads)
        if past_k is not None and past_v is not None:
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        if causal:
            mask = _causal(q, k, mask, past_k)
        # PyTorch wants a mask as long as the keys; ONNX lets it be shorter: what it leaves out is not seen.
        if mask is not None and mask.shape[-1] < k.shape[2]:
            fill = False if mask.dtype == torch.bool else -math.inf
            mask = F.pad(mask, [0, k.shape[2] - mask.shape[-1]], value=fill)
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        y = _merged(y) if flat else y
        return y if op.outputs == 1 else (y, k, v)[: op.outputs]

    return run


def _causal(q: Tensor, k: Tensor, mask: Tensor | None, past: Tensor | None) -> Tensor:
    offset = 0 if past is None else past.shape[2]
    rows = torch.arange(q.shape[2], device=q.device)[:, None] + offset
    seen = torch.arange(k.shape[2], device=q.device)[None] <= rows
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -math.inf)


@register("MultiHeadAttention", domain="com.microsoft", weights=(3,))
def multi_head_attention(op: NodeSpec) -> Kernel:
    if any(op.has(i) for i in (4, 6, 7)) or op.outputs > 1:
        op.fail("it has a key padding mask or a cache")
    heads, scale, causal = op.attr("num_heads"), op.attr("scale"), bool(op.attr("unidirectional", 0))

    def run(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: None = None, add: Tensor | None = None
    ) -> Tensor:
        if bias is not None:
            bq, bk, bv = torch.split(bias, [q.shape[-1], k.shape[-1], v.shape[-1]])
            q, k, v = q + bq, k + bk, v + bv
        q, k, v = _heads(q, heads), _heads(k, heads), _heads(v, heads)
        add = _causal(q, k, add, None) if causal else add
        return _merged(F.scaled_dot_product_attention(q, k, v, add, scale=scale))

    return run


@register("Attention", domain="com.microsoft", weights=(1, 2))
def fused_attention(op: NodeSpec) -> Kernel:
    """Projection and attention in one: weight [C, Q + K + V]."""
    if any(op.has(i) for i in (4, 6)) or op.outputs > 1 or op.attr("do_rotary", 0):
        op.fail("it has a cache or rotary embeddings")
    heads, scale, causal = op.attr("num_heads"), op.attr("scale"), bool(op.attr("unidirectional", 0))
    sizes, filler = op.ints("qkv_hidden_sizes"), op.attr("mask_filter_value", -10000.0)

    def run(
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        mask: Tensor | None = None,
        past: None = None,
        add: Tensor | None = None,
    ) -> Tensor:
        y = x @ w if b is None else x @ w + b
        q, k, v = (_heads(t, heads) for t in torch.split(y, sizes or [y.shape[-1] // 3] * 3, -1))
        if mask is not None:
            if mask.dim() != 2 or mask.shape != x.shape[:2]:
                op.fail(f"a mask of shape {list(mask.shape)}")
            hidden = ((1 - mask.to(x.dtype)) * filler)[:, None, None, :]
            add = hidden if add is None else add + hidden
        add = _causal(q, k, add, None) if causal else add
        return _merged(F.scaled_dot_product_attention(q, k, v, add, scale=scale))

    return run


@register("RotaryEmbedding", since_version=23)
def rotary_embedding(op: NodeSpec) -> Kernel:
    interleaved, count = bool(op.attr("interleaved", 0)), op.attr("num_heads", 0)
    width = op.attr("rotary_embedding_dim", 0)

    def run(x: Tensor, cos: Tensor, sin: Tensor, position: Tensor | None = None) -> Tensor:
        flat = x.dim() == 3
        y = _heads(x, count) if flat else x
        if position is not None:
            cos, sin = F.embedding(position.long(), cos), F.embedding(position.long(), sin)
        turned = _rotate(y, cos[:, None], sin[:, None], interleaved, width or y.shape[-1])
        return _merged(turned) if flat else turned

    return run


@register("RotaryEmbedding", domain="com.microsoft")
def fused_rotary_embedding(op: NodeSpec) -> Kernel:
    interleaved, count = bool(op.attr("interleaved", 0)), op.attr("num_heads", 0)
    width = op.attr("rotary_embedding_dim", 0)
    if op.attr("scale", 1.0) != 1.0:
        op.fail("it scales")

    def run(x: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        flat = x.dim() == 3
        size = width or 2 * cos.shape[-1]
        y = _heads(x, count or x.shape[-1] // size) if flat else x
        if position.numel() == 1:
            position = position.reshape(1, 1) + torch.arange(y.shape[2], device=x.device)[None]
        at = [F.embedding(position.long(), t)[:, None] for t in (cos, sin)]
        turned = _rotate(y, at[0], at[1], interleaved, size)
        return _merged(turned) if flat else turned

    return run


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, width: int) -> Tensor:
    part, rest = x[..., :width], x[..., width:]
    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    real, imaginary = a * cos - b * sin, a * sin + b * cos
    pair = torch.stack([real, imaginary], -1) if interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([pair.reshape(part.shape), rest], -1)
