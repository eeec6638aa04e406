"""Pads that keep a convolution's old taps where they were when its kernel gets larger.

Taps that are added ``front`` and ``behind`` move the old ones by ``front`` places, so the leading pad
has to grow by ``front · dilation``, the other one by ``behind · dilation``. Explicit pads can always say that;
``auto_pad`` and ``output_shape`` compute pads from sizes, and are kept where they come out right for every size.
Spec: https://onnx.ai/onnx/operators/onnx__Conv.html and __ConvTranspose.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

__all__ = ["Unplaceable", "Window", "placed"]

SAME = ("SAME_UPPER", "SAME_LOWER")


class Unplaceable(Exception):
    """No pads keep the old taps where they were; the text says why."""


@dataclass(frozen=True)
class Window:
    """The spatial part of a Conv or ConvTranspose, one entry per spatial axis.

    Attributes:
        node: The node; attributes it does not have are at their defaults.
        kernel: Kernel sizes.
        sizes: Sizes of the input, in elements.
        out: Sizes of the output.
        fixed: Whether the size of the input is the same for all inputs of the model.
    """

    node: ir.Node
    kernel: tuple[int, ...]
    sizes: tuple[int, ...]
    out: tuple[int, ...]
    fixed: tuple[bool, ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def transposed(self) -> bool:
        return self.node.op_type == "ConvTranspose"

    def ints(self, name: str, default: int, per_axis: int = 1) -> tuple[int, ...]:
        attribute = self.node.attributes.get(name)
        return (default,) * (per_axis * self.rank) if attribute is None else tuple(attribute.as_ints())

    @property
    def auto_pad(self) -> str:
        attribute = self.node.attributes.get("auto_pad")
        return "NOTSET" if attribute is None else attribute.as_string()

    def extent(self, axis: int) -> int:
        """Cells from the first to the last tap."""
        return (self.kernel[axis] - 1) * self.ints("dilations", 1)[axis] + 1

    def surplus(self, axis: int) -> int:
        """What computed pads add up to; negative where they would have to crop, then they are 0."""
        n, s, o = self.sizes[axis], self.ints("strides", 1)[axis], self.out[axis]
        if self.transposed:
            return (n - 1) * s + self.ints("output_padding", 0)[axis] + self.extent(axis) - o
        return (o - 1) * s + self.extent(axis) - n

    def follows_size(self, axis: int) -> bool:
        """Whether computed pads change with the size of the input."""
        if self.transposed:
            return "output_shape" in self.node.attributes
        return self.ints("strides", 1)[axis] != 1


def placed(window: Window, front: Sequence[int], behind: Sequence[int]) -> dict[str, Any]:
    """Attributes to set (None: to remove) so that the old taps stay where they are.

    Args:
        window: The convolution as it is.
        front, behind: Taps to add per spatial axis.

    Raises:
        Unplaceable: Computed pads that cannot be kept and are not the same for all sizes, or are ambiguous.
    """
    attributes = window.node.attributes
    changes: dict[str, Any] = {}
    if "kernel_shape" in attributes:
        changes["kernel_shape"] = [f + k + b for f, k, b in zip(front, window.kernel, behind, strict=True)]
    computed = window.auto_pad in SAME or (window.transposed and "output_shape" in attributes)
    if window.transposed and window.auto_pad in SAME:
        for axis, stride in enumerate(window.ints("strides", 1)):
            if window.extent(axis) < stride:
                raise Unplaceable(f"how large axis {axis + 2} of its output is, is not the same in all runtimes")
    if computed and all(_keeps(window, axis, front[axis], behind[axis]) for axis in range(window.rank)):
        return changes
    begins, ends = [], []
    for axis, dilation in enumerate(window.ints("dilations", 1)):
        begin, end = _computed(window, axis) if computed else _explicit(window, axis)
        begin, end = begin + front[axis] * dilation, end + behind[axis] * dilation
        if end < 0:
            raise Unplaceable(f"on axis {axis + 2} it makes more than its input gives, which no pads can say")
        begins.append(begin)
        ends.append(end)
    changes["pads"] = [*begins, *ends]
    if window.auto_pad != "NOTSET":
        changes["auto_pad"] = None
    if "output_shape" in attributes:
        changes["output_shape"] = None
    return changes


def _keeps(window: Window, axis: int, front: int, behind: int) -> bool:
    """Whether computed pads grow by themselves as they have to: evenly, and not from below zero."""
    if not (front or behind):
        return True
    if front != behind:
        return False
    if not window.transposed:
        return window.extent(axis) >= window.ints("strides", 1)[axis]
    return window.surplus(axis) >= 0 and (window.fixed[axis] or not window.follows_size(axis))


def _explicit(window: Window, axis: int) -> tuple[int, int]:
    if window.auto_pad == "VALID":
        return 0, 0
    pads = window.ints("pads", 0, 2)
    return pads[axis], pads[window.rank + axis]


def _computed(window: Window, axis: int) -> tuple[int, int]:
    """What computed pads come to, as explicit ones. The last one is negative where an output is larger than pads say.

    Raises:
        Unplaceable: They are not the same for every size, or the specification is not clear about them.
    """
    if window.follows_size(axis) and not window.fixed[axis]:
        stride = window.ints("strides", 1)[axis]
        raise Unplaceable(
            f"its pads follow the size of axis {axis + 2}, which is dynamic, and a kernel of {window.kernel[axis]} "
            f"with stride {stride} cannot grow so that they fit every size"
        )
    surplus = window.surplus(axis)
    total = max(surplus, 0)
    if window.transposed:
        if total % 2:
            raise Unplaceable(f"which side of axis {axis + 2} is padded more is not the same in all runtimes")
        return total // 2, surplus - total // 2
    begin = total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2
    return begin, total - begin
