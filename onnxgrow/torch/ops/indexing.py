"""Reading and writing at indices. Spec: https://onnx.ai/onnx/operators/onnx__Gather.html and its neighbours"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@register("Gather", weights=(0,))
def gather(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 0)
    known = op.constants.get(1)
    single = int(known) if known is not None and known.ndim == 0 else None

    def run(x: Tensor, index: Tensor) -> Tensor:
        if single is not None:
            return x.select(axis, single)
        along = axis % x.dim()
        index = _wrapped(index, x.shape[along])
        if along == 0 and x.dim() == 2 and x.is_floating_point():
            return F.embedding(index, x)
        taken = x.index_select(along, index.reshape(-1))
        return taken.reshape(*x.shape[:along], *index.shape, *x.shape[along + 1 :])

    return run


@register("GatherElements")
def gather_elements(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 0)
    return lambda x, index: x.gather(axis, _wrapped(index, x.shape[axis]))


def _coordinates(index: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(_wrapped(index[..., i], shape[i]) for i in range(index.shape[-1]))


@register("GatherND")
def gather_nd(op: NodeSpec) -> Kernel:
    batch = op.attr("batch_dims", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        if not batch:
            return x[_coordinates(index, x.shape)]
        lead = x.shape[:batch]
        flat = x.reshape(-1, *x.shape[batch:])
        rows = index.reshape(-1, *index.shape[batch:])
        number = torch.arange(flat.shape[0], device=x.device).reshape(-1, *[1] * (rows.dim() - 2))
        taken = flat[(number.expand(rows.shape[:-1]), *_coordinates(rows, flat.shape[1:]))]
        return taken.reshape(*lead, *taken.shape[1:])

    return run


@register("ScatterElements", "Scatter")
def scatter_elements(op: NodeSpec) -> Kernel:
    axis, reduction = op.attr("axis", 0), op.attr("reduction", "none")
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index = _wrapped(index, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, index, updates.to(x.dtype))
        return x.scatter_reduce(axis, index, updates.to(x.dtype), kinds[reduction])

    return run


@register("ScatterND")
def scatter_nd(op: NodeSpec) -> Kernel:
    reduction = op.attr("reduction", "none")
    if reduction not in ("none", "add"):
        op.fail(f"reduction {reduction}")

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        return x.index_put(_coordinates(index, x.shape), updates.to(x.dtype), accumulate=reduction == "add")

    return run


@register("OneHot", sizes=(1,))
def one_hot(op: NodeSpec) -> Kernel:
    """``values`` holds the off and the on value; indices out of range give a row of off values."""
    axis = op.attr("axis", -1)

    def run(index: Tensor, depth: int | Sequence[int], values: Tensor) -> Tensor:
        size = int(depth if isinstance(depth, int | float) else depth[0])
        index = _wrapped(index, size)
        at = axis % (index.dim() + 1)
        shape = [1] * (index.dim() + 1)
        shape[at] = size
        hot = index.unsqueeze(at) == torch.arange(size, device=index.device).reshape(shape)
        return torch.where(hot, values[1], values[0])

    return run


@register("TopK", sizes=(1,))
def top_k(op: NodeSpec) -> Kernel:
    axis, largest = op.attr("axis", -1), bool(op.attr("largest", 1))

    def run(x: Tensor, k: int | Sequence[int]) -> tuple[Tensor, Tensor]:
        count = k if isinstance(k, int) else k[0]
        # Of equal entries ONNX takes the first; a stable sort does.
        values, index = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), index.narrow(axis, 0, count)

    return run


@register("NonZero")
def non_zero(op: NodeSpec) -> Kernel:
    return lambda x: torch.nonzero(x).t()


@register("Compress")
def compress(op: NodeSpec) -> Kernel:
    axis = op.attr("axis")

    def run(x: Tensor, condition: Tensor) -> Tensor:
        along = x.reshape(-1) if axis is None else x
        return along.index_select(axis or 0, torch.nonzero(condition).reshape(-1))

    return run
