"""Window arithmetic shared by convolutions and pools: pads, output sizes, strided taps.

Spec: https://onnx.ai/onnx/operators/onnx__Conv.html (``auto_pad``, ``pads``, ``dilations``)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call

__all__ = ["Window", "pad", "window_of"]


class Window:
    """Geometry of a sliding window over the spatial axes.

    Attributes:
        kernel, strides, dilations: One entry per spatial axis.
        begins, ends: Explicit padding per spatial axis.
        out: Output sizes.
        extra: Cells beyond the padded end that ``ceil_mode`` reaches into.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        auto_pad: str,
        ceil_mode: bool,
    ) -> None:
        rank = len(sizes)
        self.kernel, self.strides, self.dilations = tuple(kernel), tuple(strides), tuple(dilations)
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        begins, ends = list(pads[:rank]), list(pads[rank:])
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            for i, (n, e, s) in enumerate(zip(sizes, extent, strides, strict=True)):
                total = max((-(-n // s) - 1) * s + e - n, 0)
                small, large = total // 2, total - total // 2
                begins[i], ends[i] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        elif auto_pad == "VALID":
            begins, ends = [0] * rank, [0] * rank
        self.begins, self.ends = tuple(begins), tuple(ends)
        out, extra = [], []
        for n, b, e, x, s in zip(sizes, begins, ends, extent, strides, strict=True):
            span = n + b + e - x
            steps = -(-span // s) if ceil_mode else span // s
            if ceil_mode and steps * s >= n + b:
                steps -= 1  # a window has to start inside the input or its left padding
            out.append(steps + 1)
            extra.append(max(steps * s + x - (n + b + e), 0))
        self.out, self.extra = tuple(out), tuple(extra)

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each kernel position, with the slices that pick its cells from the padded input (… + spatial axes)."""
        for tap in itertools.product(*map(range, self.kernel)):
            yield (
                tap,
                tuple(
                    slice(t * d, t * d + (o - 1) * s + 1, s)
                    for t, d, o, s in zip(tap, self.dilations, self.out, self.strides, strict=True)
                ),
            )


def window_of(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window that a Conv or pool node describes. ``sizes``: spatial sizes of its input."""
    rank = len(sizes)
    return Window(
        sizes,
        kernel,
        call.attr("strides") or (1,) * rank,
        call.attr("dilations") or (1,) * rank,
        call.attr("pads") or (0,) * (2 * rank),
        call.attr("auto_pad", "NOTSET"),
        bool(call.attr("ceil_mode", 0)),
    )


def pad(x: Array, window: Window, fill: float) -> Array:
    """``x`` (N, C, spatial…) padded as ``window`` asks for, including the cells that ``ceil_mode`` reaches."""
    ends = [e + more for e, more in zip(window.ends, window.extra, strict=True)]
    if not any(window.begins) and not any(ends):
        return x
    widths = [(0, 0)] * (x.ndim - len(ends)) + list(zip(window.begins, ends, strict=True))
    if all(b >= 0 and e >= 0 for b, e in widths):
        return np.pad(x, widths, constant_values=fill)
    # negative pads crop
    x = np.pad(x, [(max(b, 0), max(e, 0)) for b, e in widths], constant_values=fill)
    return x[tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(widths, x.shape, strict=True))]
