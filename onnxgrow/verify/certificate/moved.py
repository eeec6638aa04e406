"""Combined entries behind ops that move entries: where the output has them from the input.

A mean is one of a whole axis, so the axis has to come from the input as a whole. Copies are pairs of indices: they may
be cut out, put side by side, or lie on an axis that was merged from several or split off one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from onnxgrow.verify.certificate.axis import IntArray
from onnxgrow.verify.certificate.question import Handler, Question
from onnxgrow.verify.certificate.side import input_name, output_names

__all__ = ["MOVED"]

_LARGEST = 1 << 27
"""Entries of a block of axes of which pairs are written out."""


def _transpose(q: Question) -> bool:
    order = q.node.attributes.get_ints("perm", ()) or tuple(range(q.rank))[::-1]
    return q.ask(0, order[q.axis])


def _reshape(q: Question) -> bool:
    """One of the input's axes as a whole; or copies among the entries of the axes that this one is made of."""
    ins, outs = q.shape(0), q.out_shape
    before, size = prod(outs[: q.axis]), outs[q.axis]
    if prod(ins) != prod(outs) or 0 in outs:
        return False
    if any(prod(ins[:k]) == before and n == size and q.ask(0, k) for k, n in enumerate(ins)):
        return True
    return q.copy and _regrouped(q, ins, outs)


def _regrouped(q: Question, ins: tuple[int, ...], outs: tuple[int, ...]) -> bool:
    """Copies along an output axis, as copies along each of the input axes that hold the same entries.

    Every pair of entries is brought together by a step along one input axis after the other; a step is proved for all
    indices of the other axes.
    """
    start, end, first = _block(q.axis, ins, outs)
    if prod(ins[start:end]) > _LARGEST:
        return False
    rest = prod(ins[start:end]) // prod(outs[first : q.axis + 1])
    rows = prod(outs[first : q.axis])
    source = q.pattern.source
    assert source is not None

    def flat(indices: IntArray) -> IntArray:
        lead = np.arange(rows, dtype=np.int64)[:, None, None] * outs[q.axis]
        return np.asarray((lead + indices[None, :, None]) * rest + np.arange(rest, dtype=np.int64)).reshape(-1)

    dims = ins[start:end]
    new, old = np.unravel_index(flat(q.pattern.new), dims), np.unravel_index(flat(source), dims)
    return all(
        q.ask(0, start + k, q.pattern.moved(a.astype(np.int64), b.astype(np.int64)))
        for k, (a, b) in enumerate(zip(new, old, strict=True))
        if (a != b).any()
    )


def _block(axis: int, ins: tuple[int, ...], outs: tuple[int, ...]) -> tuple[int, int, int]:
    """Input axes (first, end) that hold the same entries as some output axes around ``axis``; the first of those."""
    i = j = 0
    while True:
        start, first = i, j
        left, right = ins[i], outs[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * ins[i], i + 1
            else:
                right, j = right * outs[j], j + 1
        if axis < j or j == len(outs):
            return start, i, first


def _expand(q: Question) -> bool:
    own = q.operand_axis(0)
    return own is not None and q.ask(0, own)


def _tile(q: Question) -> bool:
    """Along an axis that keeps its size nothing is repeated."""
    shape = q.shape(0)
    return len(shape) == q.rank and shape[q.axis] == q.out_shape[q.axis] and q.ask(0, q.axis)


def _concat(q: Question) -> bool:
    along = q.node.attributes.get_int("axis", 1) % q.rank
    if along != q.axis:
        return all(q.ask(i, q.axis) for i in range(len(q.node.inputs)))
    source = q.pattern.source
    if source is None:
        return False
    ends = np.cumsum([q.shape(i)[along] for i in range(len(q.node.inputs))])
    new, old = (np.searchsorted(ends, at, side="right") for at in (q.pattern.new, source))
    if not np.array_equal(new, old):
        return False
    starts = np.concatenate([[0], ends[:-1]])
    return all(
        q.ask(int(i), along, q.pattern.moved(q.pattern.new[new == i] - starts[i], source[new == i] - starts[i]))
        for i in np.unique(new)
    )


def _taken(q: Question, places: IntArray) -> bool:
    """Copies among entries that an op takes from these indices of the input's axis."""
    source = q.pattern.source
    return source is not None and q.ask(0, q.axis, q.pattern.moved(places[q.pattern.new], places[source]))


def _split(q: Question) -> bool:
    if q.node.attributes.get_int("axis", 0) % q.rank != q.axis:
        return q.ask(0, q.axis)
    shapes = [q.side.shape(name) for name in output_names(q.node)[: q.output]]
    known = [shape[q.axis] for shape in shapes if shape is not None]
    return len(known) == q.output and _taken(q, sum(known) + np.arange(q.out_shape[q.axis], dtype=np.int64))


def _slice(q: Question) -> bool:
    starts, axes, steps = q.ints("starts", 1), q.ints("axes", 3), q.ints("steps", 4)
    if starts is None or (axes is None and q.has(3)) or (steps is None and q.has(4)):
        return False
    cut = [a % q.rank for a in (axes if axes is not None else range(len(starts)))]
    if q.axis not in cut:
        return q.ask(0, q.axis)
    at, size = cut.index(q.axis), q.shape(0)[q.axis]
    step = 1 if steps is None else steps[at]
    if step < 1:
        return False
    start = min(max(starts[at] + size if starts[at] < 0 else starts[at], 0), size)
    return _taken(q, start + step * np.arange(q.out_shape[q.axis], dtype=np.int64))


def _gather(q: Question) -> bool:
    looked = q.node.attributes.get_int("axis", 0) % len(q.shape(0))
    indices = len(q.shape(1))
    if looked <= q.axis < looked + indices:
        return False
    return q.ask(0, q.axis if q.axis < looked else q.axis - indices + 1)


def _gather_nd(q: Question) -> bool:
    """Along the axes behind those that are looked up."""
    given = len(q.shape(1)) - 1
    looked = q.node.attributes.get_int("batch_dims", 0) + q.shape(1)[-1]
    return q.axis >= given and q.ask(0, q.axis - given + looked)


def _where(q: Question) -> bool:
    condition = q.operand_axis(0)
    return (condition is None or (q.copy and q.ask(0, condition))) and q.operand(1) and q.operand(2)


def _resize(q: Question) -> bool:
    """Over other axes than the one asked for it is linear, with the same weights for every channel."""
    mode = q.node.attributes.get_string("coordinate_transformation_mode", "")
    policy = q.node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if mode in ("tf_crop_and_resize", "tf_half_pixel_for_nn") or policy != "stretch":
        return False
    given = q.node.attributes.get_ints("axes", ())
    axes = [a % q.rank for a in given] if given else list(range(q.rank))
    if q.axis in axes and not (q.has(3) and not q.has(2)):
        # Before opset 11 the scales are the second input, before opset 9 an attribute.
        scales = q.side.value(input_name(q.node, 1 if len(q.node.inputs) == 2 else 2))
        stated = q.node.attributes.get_floats("scales", ()) if scales is None else scales.reshape(-1).tolist()
        if len(stated) != len(axes) or float(stated[axes.index(q.axis)]) != 1:
            return False
    return q.shape(0)[q.axis] == q.out_shape[q.axis] and q.ask(0, q.axis)


MOVED: Mapping[str, Handler] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Where": _where,
}
"""Operator → whether what it reads proves what is asked of its output."""
