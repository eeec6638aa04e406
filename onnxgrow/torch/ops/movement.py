"""Ops that move, repeat or drop entries. Spec: https://onnx.ai/onnx/operators/onnx__Reshape.html and its neighbours"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


@register("Reshape", sizes=(1,))
def reshape(op: NodeSpec) -> Kernel:
    """A 0 stands for the size of the same axis of the input, unless ``allowzero`` says it is one."""
    literal = bool(op.attr("allowzero", 0))
    old = op.ints("shape")  # opset 1 has it as an attribute

    def run(x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        sizes = old if shape is None else shape
        if not literal:
            sizes = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(sizes or ())]
        return x.reshape(tuple(sizes or ()))

    return run


@register("Flatten")
def flatten(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 1)

    def run(x: Tensor) -> Tensor:
        start = axis % x.dim() if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:start]), math.prod(x.shape[start:]))

    return run


@register("Transpose")
def transpose(op: NodeSpec) -> Kernel:
    order = op.ints("perm")
    return lambda x: x.permute(order if order is not None else tuple(range(x.dim()))[::-1])


@register("Squeeze")
@register("Squeeze", since_version=13, sizes=(1,))
def squeeze(op: NodeSpec) -> Kernel:
    fixed = op.ints("axes")

    def run(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        chosen = fixed if axes is None else axes
        if chosen is None:
            chosen = [i for i, n in enumerate(x.shape) if n == 1]
        for axis in sorted((a % x.dim() for a in chosen), reverse=True):
            x = x.squeeze(axis)
        return x

    return run


@register("Unsqueeze")
@register("Unsqueeze", since_version=13, sizes=(1,))
def unsqueeze(op: NodeSpec) -> Kernel:
    fixed = op.ints("axes")

    def run(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        chosen = (fixed if axes is None else axes) or ()
        rank = x.dim() + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return run


@register("Concat")
def concat(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 1)
    return lambda *xs: torch.cat(xs, axis)


@register("Split")
@register("Split", since_version=13, sizes=(1,))
def split(op: NodeSpec) -> Kernel:
    """Equal parts, the last one smaller where they do not divide, or parts of the given sizes."""
    axis, fixed, count = op.attr("axis", 0), op.ints("split"), op.outputs

    def run(x: Tensor, sizes: Sequence[int] | None = None) -> Tensor | tuple[Tensor, ...]:
        chosen = fixed if sizes is None else sizes
        if count == 1:
            return x
        if chosen is not None:
            return torch.split(x, list(chosen), axis)
        parts = torch.split(x, -(-x.shape[axis] // count), axis)
        empty = x.narrow(axis, 0, 0)
        return (*parts, *[empty] * (count - len(parts)))

    return run


@register("Slice")
def slice_attributes(op: NodeSpec) -> Kernel:
    starts, ends = op.ints("starts") or [], op.ints("ends") or []
    axes = op.ints("axes") or list(range(len(starts)))
    return lambda x: _slice(x, starts, ends, axes, [1] * len(starts))


@register("Slice", since_version=10, sizes=(1, 2, 3, 4))
def slice_inputs(op: NodeSpec) -> Kernel:
    def run(
        x: Tensor,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Tensor:
        chosen = range(len(starts)) if axes is None else axes
        return _slice(x, starts, ends, chosen, [1] * len(starts) if steps is None else steps)

    return run


def _slice(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        if step < 0:
            # A slice with a negative step is the mirrored slice of the mirrored axis.
            x = x.flip(axis)
            start = _mirrored(start, size)
            end = _mirrored(end, size)
            step = -step
        x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
    return x


def _mirrored(position: int, size: int) -> int:
    """Where a start or end lies on the mirrored axis; what is out of range is brought to its border first."""
    position = position + size if position < 0 else position
    return size - 1 - min(max(position, -1), size - 1)


@register("Expand", sizes=(1,))
def expand(op: NodeSpec) -> Kernel:
    def run(x: Tensor, shape: Sequence[int]) -> Tensor:
        behind = len(shape) - x.dim()
        sizes = list(x.shape) if behind < 0 else [*shape[:behind], *x.shape]
        wanted = list(shape) if behind >= 0 else [*[1] * -behind, *shape]
        return x.expand([w if n == 1 or i < behind else n for i, (n, w) in enumerate(zip(sizes, wanted, strict=True))])

    return run


@register("Tile", sizes=(1,))
def tile(op: NodeSpec) -> Kernel:
    return lambda x, repeats: x.repeat(tuple(repeats))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@register("Pad")
def pad_attributes(op: NodeSpec) -> Kernel:
    mode, value = op.attr("mode", "constant"), op.attr("value", 0.0)
    pads = op.ints("pads") or op.ints("paddings") or []
    return lambda x: _pad(x, pads, None, mode, value)


@register("Pad", since_version=11, sizes=(1, 3))
def pad_inputs(op: NodeSpec) -> Kernel:
    mode = op.attr("mode", "constant")
    if mode not in _PAD_MODES:
        op.fail(f"mode {mode}")
    known = op.constants.get(2)
    fixed = float(known.reshape(-1)[0]) if known is not None and known.size == 1 else None

    def run(x: Tensor, pads: Sequence[int], value: Tensor | None = None, axes: Sequence[int] | None = None) -> Tensor:
        if value is None:
            return _pad(x, pads, axes, mode, 0.0)
        return _pad(x, pads, axes, mode, fixed if fixed is not None else value.item())

    return run


def _pad(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None, mode: str, value: float) -> Tensor:
    chosen = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    half = len(chosen)
    begin, end = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(chosen):
        begin[axis], end[axis] = pads[i], pads[half + i]
    if mode == "constant":
        amounts = [n for b, e in zip(reversed(begin), reversed(end), strict=True) for n in (b, e)]
        return F.pad(x, amounts, value=value)
    for axis, (b, e) in enumerate(zip(begin, end, strict=True)):
        if b or e:
            x = x.index_select(axis, _source(x.shape[axis], b, e, mode, x.device))
    return x


def _source(size: int, begin: int, end: int, mode: str, device: torch.device) -> Tensor:
    """The index that each entry of a padded axis is taken from."""
    position = torch.arange(-begin, size + end, device=device)
    if mode == "edge":
        return position.clamp(0, size - 1)
    if mode == "wrap":
        return position % size
    period = max(2 * (size - 1), 1)
    position = position % period
    return torch.where(position < size, position, period - position)


@register("DepthToSpace")
def depth_to_space(op: NodeSpec) -> Kernel:
    block, mode = op.attr("blocksize"), op.attr("mode", "DCR")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if mode == "DCR":
            y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            y = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(n, c // block**2, h * block, w * block)

    return run


@register("SpaceToDepth")
def space_to_depth(op: NodeSpec) -> Kernel:
    block = op.attr("blocksize")

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * block**2, h // block, w // block)

    return run


@register("Trilu", sizes=(1,))
@register("Trilu", domain="com.microsoft", sizes=(1,))
def trilu(op: NodeSpec) -> Kernel:
    upper = bool(op.attr("upper", 1))

    def run(x: Tensor, k: int | Sequence[int] | None = None) -> Tensor:
        diagonal = 0 if k is None else k if isinstance(k, int) else k[0]
        return x.triu(diagonal) if upper else x.tril(diagonal)

    return run


@register("ReverseSequence")
def reverse_sequence(op: NodeSpec) -> Kernel:
    batch, time = op.attr("batch_axis", 1), op.attr("time_axis", 0)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.movedim((batch, time), (0, 1))
        position = torch.arange(moved.shape[1], device=x.device)[None]
        index = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
        shaped = index.reshape(*index.shape, *[1] * (moved.dim() - 2)).expand(moved.shape)
        return moved.gather(1, shaped).movedim((0, 1), (batch, time))

    return run
