"""Sliding windows: paddings, and the sizes they lead to, for convolutions and pooling.

Spec of ``auto_pad`` and ``pads``: https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import NodeSpec

__all__ = ["Window", "pad", "window"]


@dataclass(frozen=True)
class Window:
    """Attributes of a sliding window; ``kernel`` is empty where it follows from a weight.

    Attributes:
        auto: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        pads: Begin and end for every axis, begins first; empty for none.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    auto: str
    pads: tuple[int, ...]
    ceil: bool

    def steps(self, rank: int) -> tuple[list[int], list[int]]:
        """Strides and dilations of ``rank`` spatial axes."""
        return list(self.strides or (1,) * rank), list(self.dilations or (1,) * rank)

    def paddings(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
        """Paddings at the begin and at the end of every spatial axis."""
        rank = len(sizes)
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            strides, dilations = self.steps(rank)
            begin, end = [], []
            for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
                total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                less = total // 2
                begin.append(less if self.auto == "SAME_UPPER" else total - less)
                end.append(total - begin[-1])
            return begin, end
        pads = list(self.pads) if self.pads and self.auto == "NOTSET" else [0] * 2 * rank
        return pads[:rank], pads[rank:]

    def beyond(self, size: int, axis: int, kernel: int, begin: int, end: int) -> int:
        """What ``ceil_mode`` adds at the end of a padded axis, so that the last window is complete."""
        if not self.ceil:
            return 0
        strides, dilations = self.steps(max(len(self.kernel), axis + 1))
        stride, reach = strides[axis], dilations[axis] * (kernel - 1) + 1
        count = -(-(size + begin + end - reach) // stride) + 1
        if (count - 1) * stride >= size + begin:  # a window must not start in the padding at the end
            count -= 1
        return int(max((count - 1) * stride + reach - (size + begin + end), 0))


def window(op: NodeSpec) -> Window:
    """Read the window attributes of a node."""
    auto = op.attr("auto_pad", "NOTSET") or "NOTSET"
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        op.fail(f"auto_pad {auto}")
    return Window(
        tuple(op.ints("kernel_shape") or ()),
        tuple(op.ints("strides") or ()),
        tuple(op.ints("dilations") or ()),
        auto,
        tuple(op.ints("pads") or ()),
        bool(op.attr("ceil_mode", 0)),
    )


def pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad (or, where negative, crop) the last axes; PyTorch counts them from the last one on."""
    if not any(begin) and not any(end):
        return x
    amounts = [n for b, e in zip(reversed(begin), reversed(end), strict=True) for n in (b, e)]
    return F.pad(x, amounts, value=value)
