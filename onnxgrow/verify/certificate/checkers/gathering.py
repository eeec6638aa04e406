"""Gather: with known indices along a grown axis, or with computed ones along an axis that did not grow."""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import Mask
from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Zeros


@register("Gather")
def check_gather(pair: Pair) -> None:
    pair.same_attributes()
    data, claim = pair.input(0), pair.claim()
    axis = pair.axis(pair.same_int_attribute("axis", 0), len(data.axes))
    names = input_name(pair.node, 1), input_name(pair.original, 1)
    index, old_index = pair.new.value(names[0]), pair.old.value(names[1])
    known = index is not None and old_index is not None
    rank = index.ndim if index is not None else len(pair.input(1).axes)
    require(len(claim.axes) == len(data.axes) - 1 + rank, "the rank does not follow from the inputs")
    for number in range(axis):
        agree(data.axes[number], claim.axes[number], f"axis {number}")
    for number in range(axis + 1, len(data.axes)):
        agree(data.axes[number], claim.axes[number - 1 + rank], f"axis {number}")
    own = claim.axes[axis : axis + rank]
    along = data.axes[axis]
    if known:
        assert index is not None
        assert old_index is not None
        require(
            index.shape == tuple(a.size for a in own) and old_index.shape == tuple(a.old_size for a in own),
            "the output does not fit the indices",
        )
        read = np.ascontiguousarray(index).astype(np.int64)
        wanted = np.ascontiguousarray(old_index).astype(np.int64)
        require(
            bool(np.all((read >= -along.size) & (read < along.size)))
            and bool(np.all((wanted >= -along.old_size) & (wanted < along.old_size))),
            "an index is out of range",
        )
        read, wanted = read % max(along.size, 1), wanted % max(along.old_size, 1)
        kept = read[np.ix_(*(a.positions for a in own))] if own else read
        require(np.array_equal(along.source[kept], wanted), "old entries are gathered from elsewhere")
    else:
        state = pair.input(1)
        require(along.identity, f"axis {axis} of the data grew and the indices depend on data")
        for number, (a, b) in enumerate(zip(state.axes, own, strict=True)):
            agree(a, b, f"axis {number} of the indices")

    def zeros() -> Zeros:
        found: dict[int, Mask] = {}
        for number, mask in data.zeros.items():
            if number < axis:
                found[number] = mask
            elif number > axis:
                found[number - 1 + rank] = mask
            elif known and rank == 1:
                found[axis] = mask[read]
        return found

    pair.zeros[0] = zeros
