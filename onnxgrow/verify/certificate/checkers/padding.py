"""Pad in every mode, as an index map per axis."""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import IntArray, Mask
from onnxgrow.verify.certificate.checkers.movement import follow
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Zeros


def _pads(pair: Pair, which: int, rank: int) -> list[tuple[int, int]]:
    """(begin, end) per axis of one model."""
    node, side = ((pair.node, pair.new), (pair.original, pair.old))[which]
    axes = tuple(range(rank))
    if pair.opset < 11:
        given = pair.ints_attribute("pads")[which] or pair.ints_attribute("paddings")[which] or ()
    else:
        value = side.value(input_name(node, 1))
        require(value is not None, "the pads depend on data")
        assert value is not None
        given = tuple(int(i) for i in value.reshape(-1))
        if input_name(node, 3):
            listed = side.value(input_name(node, 3))
            require(listed is not None, "the axes depend on data")
            assert listed is not None
            axes = tuple(pair.axis(int(i), rank) for i in listed.reshape(-1))
    require(len(given) == 2 * len(axes) and len(set(axes)) == len(axes), "the pads do not fit the axes")
    pads = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pads[axis] = (given[place], given[place + len(axes)])
    return pads


def _read(size: int, pad: tuple[int, int], mode: str) -> IntArray:
    """Which index each output index reads; −1 for the constant."""
    index = np.arange(-pad[0], size + pad[1], dtype=np.int64)
    if mode == "constant":
        return np.where((index >= 0) & (index < size), index, -1)
    require(size > 0, "there is nothing to repeat")
    if mode == "edge":
        return np.clip(index, 0, size - 1)
    if mode == "wrap":
        return index % size
    require(mode == "reflect", f"mode {mode!r} is not known")
    period = max(2 * (size - 1), 1)
    folded = index % period
    return np.where(folded < size, folded, period - folded)


@register("Pad")
def check_pad(pair: Pair) -> None:
    pair.same_attributes("pads", "paddings")
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    require(rank == len(claim.axes), "the ranks differ")
    attr = pair.node.attributes.get("mode")
    mode = "constant" if attr is None else attr.as_string()
    zero_padding = pair.float_attribute("value", 0.0) == 0
    if pair.opset >= 11 and pair.has(2):
        fill = pair.input(2)
        require(all(axis.size == 1 for axis in fill.axes), "the padding value is no scalar")
        value = pair.new.value(input_name(pair.node, 2))
        zero_padding = value is not None and not np.any(value != 0)
    new, old = _pads(pair, 0, rank), _pads(pair, 1, rank)
    reads: list[IntArray] = []
    for number, (axis, out) in enumerate(zip(x.axes, claim.axes, strict=True)):
        read = _read(axis.size, new[number], mode)
        wanted = _read(axis.old_size, old[number], mode)
        follow(out, axis, read, wanted, f"axis {number}")
        reads.append(read)
    padded = [n for n, read in enumerate(reads) if (read < 0).any()]

    def zeros() -> Zeros:
        found: dict[int, Mask] = {}
        for number, mask in x.zeros.items():
            if padded and not zero_padding and padded != [number]:
                continue
            read = reads[number]
            inside = read >= 0
            found[number] = np.where(inside, mask[np.where(inside, read, 0)], zero_padding)
        return found

    pair.zeros[0] = zeros
