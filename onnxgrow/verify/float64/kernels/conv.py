"""Conv and ConvTranspose in float64, of any rank, with groups and dilations.

Spec: https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__ConvTranspose.html .
The reference implementation covers them, too slowly for real networks.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel
from onnxgrow.verify.float64.kernels.windows import Window, pad, window_of

__all__: list[str] = []

COLUMNS = 4_000_000
"""Elements of the column matrix that are laid out at a time (32 MB of doubles)."""


@kernel("Conv")
def _conv(call: Call) -> tuple[Array]:
    x, w, bias = call.inputs[0], call.inputs[1], call.input(2)
    window = window_of(call, x.shape[2:], w.shape[2:])
    group = call.attr("group", 1)
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise ValueError(f"Conv of input {x.shape} with weight {w.shape} in {group} groups")
    x = pad(x, window, 0.0)
    y = _depthwise(x, w, window) if w.shape[1] == 1 and w.shape[0] == group else _columns(x, w, window, group)
    return (y if bias is None else y + bias.reshape(-1, *[1] * len(window.out)),)


def _depthwise(x: Array, w: Array, window: Window) -> Array:
    y = np.zeros((x.shape[0], x.shape[1], *window.out))
    for tap, cells in window.taps():
        line = w[:, 0].reshape(w.shape[0], -1)[:, np.ravel_multi_index(tap, window.kernel)]
        y += line.reshape(-1, *[1] * len(window.out)) * x[(slice(None), slice(None), *cells)]
    return y


def _columns(x: Array, w: Array, window: Window, group: int) -> Array:
    """Columns times weights, a band of output rows at a time."""
    batch, channels = x.shape[:2]
    rank = len(window.out)
    extent = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    view = sliding_window_view(x, extent, axis=tuple(range(2, 2 + rank)))
    starts = [slice(0, (o - 1) * s + 1, s) for o, s in zip(window.out, window.strides, strict=True)]
    view = view[(slice(None), slice(None), *starts, *[slice(None, None, d) for d in window.dilations])]
    weights = w.reshape(group, w.shape[0] // group, -1)
    y = np.empty((batch, group, w.shape[0] // group, *window.out))
    per_row = batch * channels * int(np.prod(window.kernel)) * int(np.prod(window.out[1:]))
    band = max(1, COLUMNS // max(per_row, 1))
    for first in range(0, window.out[0], band):
        rows = slice(first, first + band)
        part = view[:, :, rows].reshape(batch, group, channels // group, *view[:, :, rows].shape[2:])
        order = (0, 1, 2, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank))
        columns = part.transpose(order).reshape(batch, group, weights.shape[2], -1)
        y[:, :, :, rows] = np.matmul(weights, columns).reshape(*y.shape[:3], -1, *window.out[1:])
    return y.reshape(batch, w.shape[0], *window.out)


@kernel("ConvTranspose")
def _conv_transpose(call: Call) -> tuple[Array]:
    x, w, bias = call.inputs[0], call.inputs[1], call.input(2)
    rank, group = x.ndim - 2, call.attr("group", 1)
    kernel_shape = w.shape[2:]
    strides = call.attr("strides") or (1,) * rank
    dilations = call.attr("dilations") or (1,) * rank
    begins, sizes = _transposed_sizes(call, x.shape[2:], kernel_shape, strides, dilations)
    full = [
        (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, kernel_shape, dilations, strict=True)
    ]
    reach = [max(f, b + o) for f, b, o in zip(full, begins, sizes, strict=True)]
    per_group = w.shape[1]
    y = np.zeros((x.shape[0], group, per_group, *reach))
    flat = x.reshape(x.shape[0], group, x.shape[1] // group, -1)
    weights = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    for tap in itertools.product(*map(range, kernel_shape)):
        part = np.matmul(weights[(slice(None), slice(None), slice(None), *tap)].transpose(0, 2, 1), flat)
        cells = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
        )
        y[(slice(None), slice(None), slice(None), *cells)] += part.reshape(*y.shape[:3], *x.shape[2:])
    y = y.reshape(x.shape[0], group * per_group, *reach)
    y = y[(slice(None), slice(None), *[slice(b, b + o) for b, o in zip(begins, sizes, strict=True)])]
    return (y if bias is None else y + bias.reshape(-1, *[1] * rank),)


def _transposed_sizes(
    call: Call,
    sizes: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[list[int], list[int]]:
    """Leading padding and output size of each spatial axis."""
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
