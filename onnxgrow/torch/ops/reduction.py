"""Reductions. Spec: https://onnx.ai/onnx/operators/onnx__ReduceMean.html and its neighbours

The axes were an attribute first; for ReduceSum they became an input in opset 13, for all others in opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []

Axes = tuple[int, ...]


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


_REDUCE: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


def _kernel(op: NodeSpec, fixed: Sequence[int] | None) -> Kernel:
    function, keep = _REDUCE[op.node.op_type], bool(op.attr("keepdims", 1))
    nothing = bool(op.attr("noop_with_empty_axes", 0))

    def run(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        chosen = tuple(fixed if fixed is not None else axes or ())
        if not chosen and nothing:
            return x
        return function(x, chosen or tuple(range(x.dim())), keep) if x.dim() else function(x.reshape(1), (0,), False)

    return run


@register(*_REDUCE)
def reduce_attribute(op: NodeSpec) -> Kernel:
    return _kernel(op, op.ints("axes"))


@register(*(name for name in _REDUCE if name != "ReduceSum"), sizes=(1,), since_version=18)
@register("ReduceSum", sizes=(1,), since_version=13)
def reduce_input(op: NodeSpec) -> Kernel:
    return _kernel(op, None)


@register("ArgMax", "ArgMin")
def arg_extreme(op: NodeSpec) -> Kernel:
    axis, keep = op.attr("axis", 0), bool(op.attr("keepdims", 1))
    last, largest = bool(op.attr("select_last_index", 0)), op.node.op_type == "ArgMax"

    def run(x: Tensor) -> Tensor:
        # PyTorch does not say which of equal entries it takes; ONNX does: the first, or the last. Where there is a NaN
        # it is taken: an index has to be one of the axis.
        extreme = x.amax(axis, keepdim=True) if largest else x.amin(axis, keepdim=True)
        size = x.shape[axis]
        shape = [1] * x.dim()
        shape[axis] = size
        position = torch.arange(size, device=x.device).reshape(shape).expand(x.shape)
        found = torch.where((x == extreme) | (extreme != extreme) & (x != x), position, -1 if last else size)
        return found.amax(axis, keepdim=keep) if last else found.amin(axis, keepdim=keep)

    return run


@register("CumSum", sizes=(1,))
def cum_sum(op: NodeSpec) -> Kernel:
    exclusive, reverse = bool(op.attr("exclusive", 0)), bool(op.attr("reverse", 0))

    def run(x: Tensor, axis: int | Sequence[int]) -> Tensor:
        along = axis if isinstance(axis, int) else axis[0]
        x = x.flip(along) if reverse else x
        y = x.cumsum(along, dtype=x.dtype)
        y = y - x if exclusive else y
        return y.flip(along) if reverse else y

    return run
