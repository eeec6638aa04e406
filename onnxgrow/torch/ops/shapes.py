"""Sizes, and tensors made from sizes. Spec: https://onnx.ai/onnx/operators/onnx__Shape.html and its neighbours

``Shape`` and ``Size`` give plain integers; the program makes tensors of them where an op needs one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onnxgrow.torch.registry import Context, Kernel, NodeSpec, register
from onnxgrow.torch.tensors import dtype_of, to_torch

__all__: list[str] = []


@register("Shape", foldable=False)
def shape(op: NodeSpec) -> Kernel:
    start, end = op.attr("start", 0), op.attr("end")
    return lambda x: tuple(x.shape[start:end])


@register("Size", foldable=False)
def size(op: NodeSpec) -> Kernel:
    return lambda x: math.prod(x.shape)


@register("ConstantOfShape", sizes=(0,), context=True, foldable=False)
def constant_of_shape(op: NodeSpec) -> Kernel:
    tensor = op.attr("value")
    value = torch.zeros(1) if tensor is None else to_torch(tensor)
    fill, dtype = value.reshape(-1)[0].item(), value.dtype

    def run(context: Context, sizes: Sequence[int]) -> Tensor:
        kind = context.moved(dtype) if dtype.is_floating_point else dtype
        return torch.full(tuple(sizes), fill, dtype=kind, device=context.device)

    return run


@register("Range", sizes=(0, 1, 2), context=True)
def range_(op: NodeSpec) -> Kernel:
    def run(context: Context, start: float, limit: float, delta: float) -> Tensor:
        return torch.arange(start, limit, delta, device=context.device)

    return run


@register("EyeLike")
def eye_like(op: NodeSpec) -> Kernel:
    to, k = op.attr("dtype"), op.attr("k", 0)

    def run(x: Tensor) -> Tensor:
        dtype = x.dtype if to is None else dtype_of(to, op.label)
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        return (torch.arange(x.shape[1], device=x.device)[None] == rows + k).to(dtype)

    return run
