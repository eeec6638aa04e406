"""Two linear layers in a row as one: W = W₂ W₁, where padding and cost allow it.

With zero padding, a bias of the first layer is missing at the borders that the second one pads. So two convolutions are
one only if the second has kernel 1 and no pads, or the first has kernel 1 and either no bias or an unpadded second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["Linear", "Merged", "NotMergeableError", "merge"]

Array = npt.NDArray[np.float64]


class NotMergeableError(Exception):
    """Two layers do not make one; the text says why."""


@dataclass(frozen=True)
class Linear:
    """A linear layer with constant weights.

    Attributes:
        weight: (outputs, inputs, kernel …).
        bias: (outputs,); None without one.
        node: The Conv, Gemm or MatMul.
    """

    weight: Array
    bias: Array | None
    node: ir.Node

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def ints(self, name: str, default: int, count: int) -> list[int]:
        return list(self.node.attributes.get_ints(name, ())) or [default] * count

    @property
    def pads(self) -> list[int]:
        """Leading and trailing pads. Raises NotMergeableError where they are computed."""
        mode = self.node.attributes.get("auto_pad")
        if mode is not None and mode.as_string() not in ("NOTSET", "VALID"):
            raise NotMergeableError("its pads are not written down")
        return self.ints("pads", 0, 2 * len(self.kernel))


@dataclass(frozen=True)
class Merged:
    """The layer that two make.

    Attributes:
        weight, bias: As in :class:`Linear`.
        attributes: To be set on the second node.
    """

    weight: Array
    bias: Array | None
    attributes: Mapping[str, Any]


def merge(first: Linear, scale: Array, second: Linear) -> Merged:
    """second(scale · first(x)) as one layer.

    Args:
        first, second: The layers.
        scale: One factor for each output of the first, or one for all.

    Raises:
        NotMergeableError: It would not be the same, or cost more.
    """
    if first.weight.shape[0] != second.weight.shape[1] or len(first.kernel) != len(second.kernel):
        raise NotMergeableError("the second does not read the first's channels as they are")
    w1 = first.weight * scale.reshape(-1, *(1,) * (first.weight.ndim - 1))
    b1 = None if first.bias is None or not first.bias.any() else first.bias * scale.reshape(-1)
    attributes: dict[str, Any] = {}
    if not first.kernel:
        weight = second.weight @ w1
        reach = second.weight
    else:
        weight, attributes = _convolution(first, w1, b1, second)
        reach = second.weight.sum(axis=tuple(range(2, second.weight.ndim)))
    if weight.size > first.weight.size + second.weight.size:
        raise NotMergeableError("one layer would cost more than the two")
    bias = second.bias
    if b1 is not None:
        bias = reach @ b1 + (0 if bias is None else bias)
    return Merged(weight, bias, attributes)


def _convolution(first: Linear, w1: Array, b1: Array | None, second: Linear) -> tuple[Array, dict[str, Any]]:
    rank = len(first.kernel)
    for layer in (first, second):
        if layer.node.attributes.get_int("group", 1) != 1 or layer.ints("dilations", 1, rank) != [1] * rank:
            raise NotMergeableError("groups and dilations are not merged")
    strides = first.ints("strides", 1, rank)
    if all(k == 1 for k in second.kernel) and not any(second.pads):
        weight: Array = np.einsum("om,mi...->oi...", second.weight.reshape(second.weight.shape[:2]), w1)
        both = [a * b for a, b in zip(strides, second.ints("strides", 1, rank), strict=True)]
        return weight, {
            "auto_pad": None,
            "kernel_shape": list(first.kernel),
            "pads": first.pads,
            "strides": both,
        }
    if not all(k == 1 for k in first.kernel) or any(first.pads) or strides != [1] * rank:
        raise NotMergeableError("of two convolutions one has to have kernel 1: padded borders would differ")
    if b1 is not None and any(second.pads):
        raise NotMergeableError("the first has a bias, which is missing where the second pads")
    return np.einsum("om...,mi->oi...", second.weight, w1.reshape(w1.shape[:2])), {}
