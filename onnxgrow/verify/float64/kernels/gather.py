"""Sampling by index: Gather, GatherElements, GridSample and OneHot.

Spec: https://onnx.ai/onnx/operators/onnx__Gather.html, …GatherElements.html, …GridSample.html, …OneHot.html . The
reference implementation of GatherElements fails on indices of fewer rows than the data, GridSample's computes
coordinates in float32, and OneHot's fails on a depth of rank 1. Gather is here to read no more of a large table than
the rows it needs.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.float64.kernels.pieces import Derived, to_float64, whole
from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []


@kernel("Gather", piecewise=(0,))
def _gather(call: Call) -> tuple[Array]:
    x, index = call.inputs
    axis = call.axis(x.ndim, 0)
    if isinstance(x, Derived):
        if axis:
            x = whole(x)
        else:
            rows = np.asarray(index)
            _inside(rows, x.shape[0])
            picked = x[np.where(rows < 0, rows + x.shape[0], rows).reshape(-1)]
            return (picked.reshape(*rows.shape, *x.shape[1:]),)
    _inside(index, x.shape[axis])
    return (to_float64(np.take(x, index, axis=axis)),)


def _inside(index: Array, size: int) -> None:
    if index.size and (index.min() < -size or index.max() >= size):
        raise ValueError(f"Gather of index {int(index.min())} to {int(index.max())} from {size} entries")


@kernel("GatherElements")
def _gather_elements(call: Call) -> tuple[Array]:
    x, index = call.inputs
    axis = call.axis(x.ndim, 0)
    cut = tuple(slice(None) if a == axis else slice(0, n) for a, n in enumerate(index.shape))
    index = np.where(index < 0, index + x.shape[axis], index)
    return (np.take_along_axis(x[cut], index, axis),)


def _cubic(t: Array, a: float = -0.75) -> list[Array]:
    """Weights of the four neighbours at distances 1 + t, t, 1 − t, 2 − t (Keys 1981)."""

    def near(s: Array) -> Array:
        return ((a + 2) * s - (a + 3)) * s * s + 1

    def far(s: Array) -> Array:
        return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def _reflect(i: Array, low: float, high: float) -> Array:
    span = high - low
    if span == 0:
        return np.zeros_like(i)
    folded = np.abs(i - low) % (2 * span)
    return np.where(folded > span, 2 * span - folded, folded) + low


@kernel("GridSample")
def _grid_sample(call: Call) -> tuple[Array]:
    x, grid = call.inputs
    if x.ndim != 4:
        raise call.unsupported("only images (N, C, H, W) are covered")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(str(call.attr("mode", "linear")), call.attr("mode", "linear"))
    corners, padding = bool(call.attr("align_corners", 0)), call.attr("padding_mode", "zeros")
    places, spans = [], []
    for axis, size in enumerate(x.shape[2:]):
        g = grid[..., 1 - axis]
        place = (g + 1) / 2 * (size - 1) if corners else ((g + 1) * size - 1) / 2
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        if padding == "border":
            place = np.clip(place, 0, size - 1)
        elif padding == "reflection" and mode != "cubic":
            place = np.clip(_reflect(place, low, high), 0, size - 1)
        places.append(place)
        spans.append((low, high))
    neighbours = [_neighbours(place, str(mode)) for place in places]
    total = np.zeros((x.shape[0], *grid.shape[1:3], x.shape[1]))
    batch = np.arange(x.shape[0])[:, None, None]
    for row, row_weight in neighbours[0]:
        for column, column_weight in neighbours[1]:
            index, inside = [], np.ones(row.shape, bool)
            for i, size, (low, high) in zip((row, column), x.shape[2:], spans, strict=True):
                if padding == "reflection":
                    i = np.rint(np.clip(_reflect(i, low, high), 0, size - 1))
                inside &= (i >= 0) & (i <= size - 1) if padding == "zeros" else True
                index.append(np.clip(i, 0, size - 1).astype(np.int64))
            picked = x[batch, :, index[0], index[1]]
            total += picked * (row_weight * column_weight * inside)[..., None]
    return (total.transpose(0, 3, 1, 2),)


def _neighbours(place: Array, mode: str) -> list[tuple[Array, Array]]:
    """Integer positions around ``place`` with their weights."""
    if mode == "nearest":
        return [(np.rint(place), np.ones_like(place))]
    base = np.floor(place)
    t = place - base
    if mode == "linear":
        return [(base, 1 - t), (base + 1, t)]
    return [(base + k - 1, weight) for k, weight in enumerate(_cubic(t))]


@kernel("OneHot")
def _one_hot(call: Call) -> tuple[Array]:
    indices, depth, (off, on) = call.inputs
    classes = int(np.asarray(depth).reshape(-1)[0])
    axis = int(call.attr("axis", -1)) % (indices.ndim + 1)
    wrapped = np.expand_dims(np.where(indices < 0, indices + classes, indices), axis)
    column = np.arange(classes).reshape(-1, *[1] * (indices.ndim - axis))
    return (np.where(wrapped == column, on, off),)
