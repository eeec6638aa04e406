"""Resampling. Spec: https://onnx.ai/onnx/operators/onnx__Resize.html

Every axis is resampled by itself: its output entries are weighted sums of at most four input entries. GridSample reads
at places that are computed, of all axes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


@dataclass(frozen=True)
class _Method:
    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool


@register("Upsample")
def upsample_attribute(op: NodeSpec) -> Kernel:
    scales = op.attr("scales")
    method = _Method(op.attr("mode", "nearest"), "asymmetric", "floor", -0.75, False)
    return lambda x: _resize(op, x, method, scales, None, None)


@register("Upsample", since_version=9, sizes=(1,))
@register("Resize", since_version=10, sizes=(1,))
def upsample(op: NodeSpec) -> Kernel:
    method = _Method(op.attr("mode", "nearest"), "asymmetric", "floor", -0.75, False)
    return lambda x, scales: _resize(op, x, method, scales, None, None)


@register("Resize", since_version=11, sizes=(2, 3))
def resize(op: NodeSpec) -> Kernel:
    if op.attr("antialias", 0):
        op.fail("it is anti-aliased")
    method = _Method(
        op.attr("mode", "nearest"),
        op.attr("coordinate_transformation_mode", "half_pixel"),
        op.attr("nearest_mode", "round_prefer_floor"),
        op.attr("cubic_coeff_a", -0.75),
        bool(op.attr("exclude_outside", 0)),
    )
    if method.coordinates == "tf_crop_and_resize":
        op.fail("it crops (tf_crop_and_resize)")
    if op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        op.fail("it keeps the aspect ratio")
    axes = op.ints("axes")

    def run(
        x: Tensor, roi: Tensor | None = None, scales: Sequence[float] | None = None, sizes: Sequence[int] | None = None
    ) -> Tensor:
        return _resize(op, x, method, scales or None, sizes or None, axes)

    return run


def _resize(
    op: NodeSpec,
    x: Tensor,
    method: _Method,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    axes: Sequence[int] | None,
) -> Tensor:
    if method.mode not in ("nearest", "linear", "bilinear", "cubic"):
        op.fail(f"mode {method.mode}")
    chosen = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    for i, axis in enumerate(chosen):
        old = x.shape[axis]
        new = int(sizes[i]) if sizes is not None else int(old * scales[i]) if scales is not None else old
        scale = new / old if sizes is not None or scales is None else float(scales[i])
        if new != old or scale != 1.0:
            x = _along(x, axis, new, scale, method)
    return x


def _positions(old: int, new: int, scale: float, method: _Method, device: torch.device) -> Tensor:
    """Where each output entry lies on the input axis; float64."""
    at = torch.arange(new, device=device, dtype=torch.float64)
    kind = method.coordinates
    if kind == "half_pixel":
        return (at + 0.5) / scale - 0.5
    if kind == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if new > 1 else torch.zeros_like(at)
    if kind == "half_pixel_symmetric":
        adjustment = new / (scale * old)
        centre = old / 2
        return centre * (1 - adjustment) + (at + 0.5) / scale - 0.5
    if kind == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else torch.zeros_like(at)
    return at / scale


def _along(x: Tensor, axis: int, new: int, scale: float, method: _Method) -> Tensor:
    old = x.shape[axis]
    position = _positions(old, new, scale, method, x.device)
    if method.mode == "nearest":
        return x.index_select(axis, _nearest(position, method.rounding).clamp(0, old - 1).long())
    base = position.floor()
    t = position - base
    if method.mode == "cubic":
        a = method.cubic
        distances = (t + 1, t, 1 - t, 2 - t)
        far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in distances]
        near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in distances]
        weights, offsets = [far[0], near[1], near[2], far[3]], [-1, 0, 1, 2]
    else:
        weights, offsets = [1 - t, t], [0, 1]
    index = [base + o for o in offsets]
    if method.exclude_outside:
        weights = [w * ((i >= 0) & (i < old)) for w, i in zip(weights, index, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [w / total for w in weights]
    shape = [1] * x.dim()
    shape[axis] = new
    parts = [
        x.index_select(axis, i.clamp(0, old - 1).long()) * w.to(x.dtype).reshape(shape)
        for i, w in zip(index, weights, strict=True)
    ]
    return torch.stack(parts).sum(0)


def _nearest(position: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return position.floor()
    if rounding == "ceil":
        return position.ceil()
    if rounding == "round_prefer_ceil":
        return (position + 0.5).floor()
    return (position - 0.5).ceil()


@register("GridSample", since_version=16)
def grid_sample(op: NodeSpec) -> Kernel:
    """Spec: https://onnx.ai/onnx/operators/onnx__GridSample.html"""
    mode = op.attr("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    if mode not in ("bilinear", "nearest", "bicubic"):
        op.fail(f"mode {mode}")
    padding, corners = op.attr("padding_mode", "zeros"), bool(op.attr("align_corners", 0))

    def run(x: Tensor, grid: Tensor) -> Tensor:
        if x.dim() not in (4, 5) or (mode == "bicubic" and x.dim() == 5):
            op.fail(f"{mode} over {x.dim() - 2} spatial axes")
        return F.grid_sample(x, grid, mode, padding, corners)

    return run
