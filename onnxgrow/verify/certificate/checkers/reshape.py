"""Reshape, Flatten, Squeeze and Unsqueeze: the same elements in row-major order under other axes.

Input and output axes are cut into minimal blocks whose products agree in the original and in the result.
Inside a block, the flat element at each old output index must be the flat element that the original has
there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Zeros

MAX_BLOCK = 2**27
"""Largest number of elements of a block that is compared index by index (1 GiB of indices)."""


@dataclass(frozen=True)
class Block:
    """Axes of the input and of the output that hold the same elements."""

    inputs: range
    outputs: range


def blocks(inputs: Sequence[Axis], outputs: Sequence[Axis]) -> list[Block]:
    """Minimal blocks of equal products. Raises ProofError where the products never agree."""
    found: list[Block] = []
    i = j = 0
    while i < len(inputs) or j < len(outputs):
        first_i, first_j = i, j
        left, right = [1, 1], [1, 1]
        while True:
            if i == len(inputs) and j == len(outputs):
                require(left == right, "the numbers of elements differ")
                break
            # Take from the side that lags behind in the original or, when even there, in the result.
            behind = (left[1], left[0]) <= (right[1], right[0])
            if (behind and i < len(inputs)) or j == len(outputs):
                axis, side = inputs[i], left
                i += 1
            else:
                axis, side = outputs[j], right
                j += 1
            side[0] *= axis.size
            side[1] *= axis.old_size
            if left == right and i > first_i and j > first_j:
                break
        found.append(Block(range(first_i, i), range(first_j, j)))
    return found


def flat_source(axes: Sequence[Axis]) -> IntArray:
    """For each flat new index of these axes, the flat old index, or −1 where any coordinate is new."""
    size = math.prod(axis.size for axis in axes)
    require(size <= MAX_BLOCK, f"a block of {size} elements is too large to compare")
    flat = np.zeros(1, np.int64)
    for axis in axes:
        old = (flat >= 0)[:, None] & (axis.source >= 0)[None, :]
        flat = np.where(old, flat[:, None] * axis.old_size + axis.source[None, :], -1).reshape(-1)
    return flat


def flat_zero(axes: Sequence[Axis], zeros: Sequence[Mask]) -> Mask:
    """For each flat index of these axes, whether it lies in a zero slab of any of them."""
    flat = np.zeros(1, np.bool_)
    for mask in zeros:
        flat = (flat[:, None] | mask[None, :]).reshape(-1)
    return flat


@register("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def check_reshape(pair: Pair) -> None:
    """What the target shape asks for is seen in the output's concrete shape; the operand itself may differ."""
    # Attributes only say where axes go, which the concrete shapes show; before opset 13 (5 for Reshape) that
    # is all.
    if pair.node.op_type in ("Reshape", "Flatten"):
        pair.same_attributes("shape")
    else:
        pair.same_attributes()
    pair.fixed(1)
    x, claim = pair.input(0), pair.claim()
    require(
        math.prod(x.shape) == math.prod(a.size for a in claim.axes)
        and math.prod(x.old_shape) == math.prod(a.old_size for a in claim.axes),
        "the number of elements changes",
    )
    if math.prod(x.old_shape) == 0:
        return  # no old element, so nothing is claimed
    cut = blocks(x.axes, claim.axes)
    for block in cut:
        inputs, outputs = [x.axes[i] for i in block.inputs], [claim.axes[j] for j in block.outputs]
        if all(axis.identity for axis in (*inputs, *outputs)):
            continue
        if len(inputs) == len(outputs) == 1 and inputs[0].same(outputs[0]):
            continue
        source, wanted = flat_source(inputs), flat_source(outputs)
        require(
            source.size == wanted.size and not ((wanted >= 0) & (source != wanted)).any(),
            f"input axes {list(block.inputs)} and output axes {list(block.outputs)} order the elements differently",
        )

    def zeros() -> Zeros:
        found: dict[int, Mask] = {}
        if x.all_zero:
            return {number: np.ones(axis.size, np.bool_) for number, axis in enumerate(claim.axes)}
        for block in cut:
            masks = [x.zero(i) for i in block.inputs]
            if not any(mask.any() for mask in masks):
                continue
            shape = tuple(claim.axes[j].size for j in block.outputs)
            flat = flat_zero([x.axes[i] for i in block.inputs], masks).reshape(shape)
            for place, j in enumerate(block.outputs):
                found[j] = np.all(flat, axis=tuple(k for k in range(len(shape)) if k != place))
        return found

    pair.zeros[0] = zeros
