"""Larger kernels: where the taps of a convolution lie, before and after.

Tap t of a Conv reads, for output position p, input position p·stride + t·dilation − begin; tap t of a ConvTranspose
carries input position i to output position i·stride + t·dilation − begin. So nothing changes when every old tap keeps
t·dilation − begin and every new tap is exactly zero. The leading pads follow from the attributes and the concrete
sizes, for the original and for the result. Specs: https://onnx.ai/onnx/operators/onnx__Conv.html and
__ConvTranspose.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.state import Claim, Proved

__all__ = ["PLACING", "taps_stay"]

PLACING = ("auto_pad", "kernel_shape", "output_shape", "pads")
"""Attributes that place the taps; all others have to be the same."""

_COMPUTING = ("auto_pad", "output_shape")
_SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class _Window:
    """One node's spatial geometry, one entry per spatial axis."""

    node: ir.Node
    sizes: Sequence[int]
    kernel: Sequence[int]
    out: Sequence[int]

    def ints(self, name: str, default: int, per_axis: int = 1) -> tuple[int, ...]:
        attribute = self.node.attributes.get(name)
        found = (default,) * (per_axis * len(self.sizes)) if attribute is None else tuple(attribute.as_ints())
        require(len(found) == per_axis * len(self.sizes), f"attribute {name!r} does not fit the rank")
        return found

    def extents(self) -> list[int]:
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.ints("dilations", 1), strict=True)]

    def auto_pad(self) -> str:
        attribute = self.node.attributes.get("auto_pad")
        mode = "NOTSET" if attribute is None else attribute.as_string()
        require(mode in ("NOTSET", "VALID", *_SAME), f"auto_pad is {mode!r}")
        return mode

    def computed(self) -> bool:
        """Whether pads follow from sizes."""
        return self.auto_pad() in _SAME or "output_shape" in self.node.attributes

    def explicit(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Leading and trailing pads that are written down."""
        rank = len(self.sizes)
        pads = (0,) * (2 * rank) if self.auto_pad() == "VALID" else self.ints("pads", 0, 2)
        require(min(pads, default=0) >= 0, "a pad is negative")
        return pads[:rank], pads[rank:]

    def check_size(self, transposed: bool) -> None:
        """Explicit pads must lead to the output's size: shape inference alone may round where a runtime refuses."""
        if self.computed():
            return
        strides, extras = self.ints("strides", 1), self.ints("output_padding", 0)
        around = zip(self.sizes, *self.explicit(), self.extents(), strides, extras, self.out, strict=True)
        for n, begin, end, extent, stride, extra, out in around:
            if transposed:
                fits = (n - 1) * stride + extra + extent - begin - end == out
            else:
                span = n + begin + end - extent
                fits = span >= 0 and span // stride + 1 == out
            require(fits, f"its pads do not lead to an output of size {out}")

    def begins(self) -> tuple[int, ...]:
        """Leading pads of a Conv."""
        mode = self.auto_pad()
        if mode not in _SAME:
            return self.explicit()[0]
        found = []
        for n, s, e in zip(self.sizes, self.ints("strides", 1), self.extents(), strict=True):
            total = max((-(-n // s) - 1) * s + e - n, 0)
            found.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        return tuple(found)

    def transposed_begins(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Leading pads of a ConvTranspose under both readings of an odd total.

        The versions of the specification, and the runtimes, disagree which side gets the larger half.
        """
        if not self.computed():
            begins, _ = self.explicit()
            return begins, begins
        totals = [
            max((n - 1) * s + p + e - o, 0)
            for n, s, p, e, o in zip(
                self.sizes,
                self.ints("strides", 1),
                self.ints("output_padding", 0),
                self.extents(),
                self.out,
                strict=True,
            )
        ]
        return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)


def taps_stay(pair: Pair, x: Proved, w: Proved, claim: Claim, *, transposed: bool) -> None:
    """Prove that the spatial part of a convolution is the original's. Raises ProofError where it is not.

    Args:
        pair: The nodes; their attributes but for ``PLACING`` are known to be equal.
        x, w: Input and weight.
        claim: On the output, whose spatial axes are known not to have grown.
        transposed: Whether it is a ConvTranspose.
    """
    if all(axis.identity for axis in w.axes[2:]):
        pair.same_attributes("group")
        return
    # A computed pad may become an explicit one, never the other way round: the sizes at hand are not all sizes.
    pair.same_attributes(
        "group", *(name for name in PLACING if name not in _COMPUTING or name not in pair.node.attributes)
    )
    shape, old_shape = pair.shapes(claim)
    new = _Window(pair.node, x.shape[2:], w.shape[2:], shape[2:])
    old = _Window(pair.original, x.old_shape[2:], w.old_shape[2:], old_shape[2:])
    for window in (new, old):
        stored = window.node.attributes.get("kernel_shape")
        require(
            stored is None or tuple(stored.as_ints()) == tuple(window.kernel),
            "attribute 'kernel_shape' is not the shape of the weight",
        )
    new.check_size(transposed)
    shifts = []
    for number, axis in enumerate(w.axes[2:]):
        if axis.identity:
            shifts.append(0)
            continue
        require(
            bool(w.zero(number + 2)[axis.new].all()),
            f"a new tap of the kernel on axis {number + 2} is not proved to be zero",
        )
        moved = np.unique(axis.positions - np.arange(axis.old_size))
        require(moved.size == 1, f"the old taps on axis {number + 2} of the kernel are not side by side")
        shifts.append(int(moved[0]))
    wanted = [s * d for s, d in zip(shifts, new.ints("dilations", 1), strict=True)]
    ways = zip(new.transposed_begins(), old.transposed_begins(), strict=True)
    for after, before in ways if transposed else ((new.begins(), old.begins()),):
        for number, (a, b, shift) in enumerate(zip(after, before, wanted, strict=True)):
            require(
                a - b == shift,
                f"the old taps moved on axis {number + 2}: the leading pad went from {b} to {a}, "
                f"their place in the kernel asks for {b + shift}",
            )
