"""Conv and ConvTranspose in float64, of any rank, with groups and dilations.

Spec: https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__ConvTranspose.html .
The reference implementation covers them, too slowly for real networks.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator

import numpy as np

from onnxgrow.verify.float64.kernels.pieces import is_large, pieces, whole
from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel
from onnxgrow.verify.float64.kernels.windows import Window, pad, window_of

__all__ = ["transposed_sizes"]

COLUMNS = 4_000_000
"""Elements of the column matrix that are laid out at a time (32 MB of doubles)."""
CACHED = 32_768
"""Elements of an image that a depthwise convolution works on at a time (256 KB of doubles)."""


@kernel("Conv", piecewise=(1,), contraction=True)
def _conv(call: Call) -> tuple[Array]:
    x, w, bias = call.inputs[0], call.inputs[1], call.input(2)
    window = window_of(call, x.shape[2:], w.shape[2:])
    group = call.attr("group", 1)
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise ValueError(f"Conv of input {x.shape} with weight {w.shape} in {group} groups")
    x = pad(x, window, 0.0)
    if group == 1 and is_large(w):
        rows = (_summed(call, x, piece, window, 1) for _, piece in pieces(w))
        y = np.concatenate(list(rows), axis=1)
    else:
        y = _summed(call, x, whole(w), window, group)
    if bias is not None:
        y += bias.reshape(-1, *[1] * len(window.out))
    return (y,)


def _summed(call: Call, x: Array, w: Array, window: Window, group: int) -> Array:
    """The sum over parts of the input channels of each group."""
    parts = call.parts(w.shape[1])
    if len(parts) == 1 or w.shape[1] == 1:
        return _convolved(x, w, window, group)
    grouped = x.reshape(x.shape[0], group, -1, *x.shape[2:])
    found = (
        _convolved(
            call.spaced(grouped[:, :, part], 2).reshape(x.shape[0], -1, *x.shape[2:]),
            call.spaced(w[:, part], 1),
            window,
            group,
        )
        for part in parts
    )
    return functools.reduce(operator.iadd, found)


def _convolved(x: Array, w: Array, window: Window, group: int) -> Array:
    if w.shape[1] == 1 and w.shape[0] == group:
        return _depthwise(x, w, window)
    if math.prod(window.kernel) == 1:
        return _pointwise(x, w, window, group)
    return _columns(x, w, window, group)


def _depthwise(x: Array, w: Array, window: Window) -> Array:
    """Tap by tap, one image and a band of channels at a time: the pieces stay in the processor's cache."""
    y = np.zeros((x.shape[0], x.shape[1], *window.out))
    lines = w.reshape(w.shape[0], -1, *[1] * len(window.out))
    band = max(1, CACHED // max(math.prod(x.shape[2:]), 1))
    for first in range(0, x.shape[1], band):
        part = slice(first, first + band)
        term = np.empty_like(y[0, part])
        for image, result in zip(x[:, part], y[:, part], strict=True):
            for tap, cells in window.taps():
                np.multiply(
                    lines[part, np.ravel_multi_index(tap, window.kernel)], image[(slice(None), *cells)], out=term
                )
                result += term
    return y


def _pointwise(x: Array, w: Array, window: Window, group: int) -> Array:
    """A kernel of one cell is a matrix product."""
    _, cells = next(window.taps())
    flat = x[(slice(None), slice(None), *cells)].reshape(x.shape[0], group, x.shape[1] // group, -1)
    y: Array = np.matmul(w.reshape(group, w.shape[0] // group, -1), flat)
    return y.reshape(x.shape[0], w.shape[0], *window.out)


def _columns(x: Array, w: Array, window: Window, group: int) -> Array:
    """Columns times weights, for one group, a band of output rows and as many images as there is room for at a time.

    A product with few columns waits for the weights: small images are better taken together.
    """
    batch, per_group = x.shape[0], x.shape[1] // group
    weights = w.reshape(group, w.shape[0] // group, -1)
    y = np.empty((batch, group, w.shape[0] // group, *window.out))
    taps = [cells for _, cells in window.taps()]
    height = per_group * len(taps)
    band = max(1, COLUMNS // max(height * math.prod(window.out[1:]), 1))
    images = max(1, COLUMNS // max(height * math.prod(window.out), 1))
    stride = window.strides[0]
    for first, at in itertools.product(range(0, window.out[0], band), range(0, batch, images)):
        rows, count = min(band, window.out[0] - first), min(images, batch - at)
        columns = np.empty((per_group, len(taps), count, rows, *window.out[1:]))
        for g in range(group):
            part = x[at : at + count, g * per_group : (g + 1) * per_group].swapaxes(0, 1)
            for i, (row, *others) in enumerate(taps):
                start = row.start + first * stride
                cells = (slice(start, start + (rows - 1) * stride + 1, stride), *others)
                columns[:, i] = part[(slice(None), slice(None), *cells)]
            found = np.matmul(weights[g], columns.reshape(height, -1))
            found = found.reshape(-1, count, rows, *window.out[1:]).swapaxes(0, 1)
            y[at : at + count, g, :, first : first + rows] = found
    return y.reshape(batch, w.shape[0], *window.out)


@kernel("ConvTranspose", contraction=True)
def _conv_transpose(call: Call) -> tuple[Array]:
    x, w, bias = call.inputs[0], call.inputs[1], call.input(2)
    rank, group = x.ndim - 2, call.attr("group", 1)
    kernel_shape = w.shape[2:]
    strides = call.attr("strides") or (1,) * rank
    dilations = call.attr("dilations") or (1,) * rank
    begins, sizes = transposed_sizes(call, x.shape[2:], kernel_shape, strides, dilations)
    full = [
        (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, kernel_shape, dilations, strict=True)
    ]
    reach = [max(f, b + o) for f, b, o in zip(full, begins, sizes, strict=True)]
    per_group = w.shape[1]
    y = np.zeros((x.shape[0], group, per_group, *reach))
    flat = x.reshape(x.shape[0], group, x.shape[1] // group, -1)
    weights = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    for tap in itertools.product(*map(range, kernel_shape)):
        of_tap = weights[(slice(None), slice(None), slice(None), *tap)].transpose(0, 2, 1)
        part = functools.reduce(
            operator.iadd,
            (
                np.matmul(call.spaced(of_tap[:, :, p], 2), call.spaced(flat[:, :, p], 2))
                for p in call.parts(flat.shape[2])
            ),
        )
        cells = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
        )
        y[(slice(None), slice(None), slice(None), *cells)] += part.reshape(*y.shape[:3], *x.shape[2:])
    y = y.reshape(x.shape[0], group * per_group, *reach)
    y = y[(slice(None), slice(None), *[slice(b, b + o) for b, o in zip(begins, sizes, strict=True)])]
    return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def transposed_sizes(
    call: Call,
    sizes: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[list[int], list[int]]:
    """Leading padding and output size of each spatial axis of a ConvTranspose."""
    rank = len(sizes)
    extra = call.attr("output_padding") or (0,) * rank
    full = [
        (n - 1) * s + p + (k - 1) * d + 1
        for n, s, p, k, d in zip(sizes, strides, extra, kernel_shape, dilations, strict=True)
    ]
    auto_pad, wanted = call.attr("auto_pad", "NOTSET"), call.attr("output_shape")
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    if wanted is not None:
        totals = [max(f - o, 0) for f, o in zip(full, list(wanted)[-rank:], strict=True)]
        begins = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
        return begins, list(wanted)[-rank:]
    pads = (call.attr("pads") if auto_pad != "VALID" else None) or (0,) * (2 * rank)
    return list(pads[:rank]), [f - pads[i] - pads[rank + i] for i, f in enumerate(full)]
