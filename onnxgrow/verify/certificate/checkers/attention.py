"""Fused attention: every old head reads what it read, with the scale it had.

A feature axis of heads × size is taken apart into a map of heads and a map of sizes. Old heads must keep their keys and
values, whole heads may be new, and over a grown head size of queries and keys one of the two must be zero at the new
places. Specs: https://onnx.ai/onnx/operators/onnx__Attention.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray
from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.compare import nonzero
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import ProofError, Proved

_MICROSOFT = "com.microsoft"


@register("Attention")
def check_attention(pair: Pair) -> None:
    pair.same_attributes("q_num_heads", "kv_num_heads", "scale")
    q, k, v = (pair.input(i) for i in range(3))
    rank = len(q.axes)
    require(rank in (3, 4) and rank == len(k.axes) == len(v.axes), "its operands have different ranks")
    flat = rank == 3
    counts = [pair.int_attribute(name, 0) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    parts = [_parts(s, flat, c) for s, c in zip((q, k, v), counts, strict=True)]
    (heads, size), (shared, _), (_, wide) = parts
    _agreeing(parts)
    _grouped(heads, shared)
    for state in (q, k, v):
        pair.identity((0, 1 if flat else 2), state, "an operand")
    _sizes_isolated(pair, [[_Place(0, q, rank - 1)], [_Place(1, k, rank - 1), *_past(pair, 4)]], size)
    _scale(pair, size, None)
    _mask(pair, 3, heads)
    _cache(pair, (4, 5), shared, (size, wide))
    if pair.has(6):
        require(pair.input(6).identity, "the lengths grew")
    _output(pair, 0, heads, wide, flat)
    _cache_outputs(pair, shared, (size, wide))
    if 3 in pair.claims:
        axes = pair.claims[3].axes
        _follows(axes[1], heads, "the heads of output 3")
        require(all(a.identity for i, a in enumerate(axes) if i != 1), "output 3 grew elsewhere")


@register("MultiHeadAttention", domain=_MICROSOFT)
def check_multi_head_attention(pair: Pair) -> None:
    pair.same_attributes("num_heads", "scale")
    require(pair.has(1) and pair.has(2), "queries, keys and values are packed")
    states = [pair.input(i) for i in range(3)]
    rank = len(states[1].axes)
    require(len(states[0].axes) == 3 and len(states[2].axes) == rank and rank in (3, 4), "an operand is packed")
    count = pair.int_attribute("num_heads", 0)
    flat = rank == 3
    parts = [_parts(states[0], True, count), *(_parts(s, flat, count) for s in states[1:])]
    (heads, size), (shared, _), (_, wide) = parts
    _agreeing(parts)
    _follows_source(shared, heads, "the heads of queries and keys")
    pair.identity((0, 1), states[0], "an operand")
    for state in states[1:]:
        pair.identity((0, 1 if flat else 2), state, "an operand")
    operands = [[_Place(0, states[0], 2)], [_Place(1, states[1], rank - 1), *_past(pair, 6)]]
    if pair.has(3):
        require(flat, "a bias is added to keys that are laid out by heads")
        bias = pair.input(3)
        joined = _joined([s.axes[2] for s in states])
        require(len(bias.axes) == 1 and np.array_equal(bias.axes[0].source, joined), "the bias does not follow")
        start = 0
        for operand, state in zip(operands, states[:2], strict=True):
            operand.append(_Place(3, bias, 0, start, state.axes[2].size))
            start += state.axes[2].size
    _sizes_isolated(pair, operands, size)
    _scale(pair, size, 0.0)
    _mask(pair, 5, heads)
    _cache(pair, (6, 7), heads, (size, wide))
    _same(pair, (4, 8, 9))
    _output(pair, 0, heads, wide, True)
    _cache_outputs(pair, heads, (size, wide))
    require(3 not in pair.claims or pair.claims[3].identity, "output 3 grew")


@register("Attention", domain=_MICROSOFT)
def check_packed_attention(pair: Pair) -> None:
    """The weight's columns are queries, keys and values."""
    pair.same_attributes("num_heads", "qkv_hidden_sizes", "scale")
    x, w = pair.input(0), pair.input(1)
    require(len(x.axes) == 3 and len(w.axes) == 2, "an operand has another rank")
    pair.identity((0, 1), x, "the input")
    agree(x.axes[2], w.axes[0], "the input's features and the weight's rows")
    columns = w.axes[1]
    new, old = pair.ints_attribute("qkv_hidden_sizes")
    widths, old_widths = new or (columns.size // 3,) * 3, old or (columns.old_size // 3,) * 3
    count = pair.int_attribute("num_heads", 0)
    cut = _cut(columns, widths, old_widths)
    parts = [_split(source, width, count) for source, width in zip(cut, old_widths, strict=True)]
    (heads, size), _, (owned, wide) = parts
    _agreeing(parts)
    require(np.array_equal(heads, owned), "the heads do not agree")
    _rows_isolated(pair, x, w)
    starts = (0, widths[0])
    operands = [[_Place(1, w, 1, start, widths[0])] for start in starts]
    if pair.has(2):
        bias = pair.input(2)
        require(len(bias.axes) == 1, "the bias is no vector")
        agree(bias.axes[0], columns, "the bias and the weight's columns")
        for operand, start in zip(operands, starts, strict=True):
            operand.append(_Place(2, bias, 0, start, widths[0]))
    _sizes_isolated(pair, operands, size)
    _scale(pair, size, 0.0)
    rotated = pair.same_int_attribute("do_rotary", 0)
    require(not (rotated and (size < 0).any()), "the size of heads that are rotated inside grew")
    _same(pair, (3, 4, 6))
    _mask(pair, 5, heads)
    _output(pair, 0, heads, wide, True)
    require(1 not in pair.claims or pair.claims[1].identity, "the cache grew")


@register("GroupQueryAttention", domain=_MICROSOFT)
def check_group_query_attention(pair: Pair) -> None:
    pair.same_attributes("num_heads", "kv_num_heads")
    q_count, k_count = pair.int_attribute("num_heads", 0), pair.int_attribute("kv_num_heads", 0)
    packed = not pair.has(1)
    require(packed == (not pair.has(2)), "keys or values are missing")
    states = [pair.input(i) for i in range(1 if packed else 3)]
    require(all(len(s.axes) == 3 for s in states), "an operand has another rank")
    if packed:
        axis, counts = states[0].axes[2], [(q, k, k) for q, k in zip(q_count, k_count, strict=True)]
        require(min(map(min, counts)) > 0, "the number of heads is not known")
        sizes = [n // sum(c) for n, c in zip((axis.size, axis.old_size), counts, strict=True)]
        widths, old_widths = ([n * h for h in c] for n, c in zip(sizes, counts, strict=True))
        cut = _cut(axis, widths, old_widths)
    else:
        cut, old_widths = [s.axes[2].source for s in states], [s.axes[2].old_size for s in states]
    parts = [_split(s, n, c) for s, n, c in zip(cut, old_widths, (q_count, k_count, k_count), strict=True)]
    (heads, size), (shared, _), (_, wide) = parts
    _agreeing(parts)
    _grouped(heads, shared)
    require(not (size < 0).any() and not (wide < 0).any(), "the head size grew")
    for state in states:
        pair.identity((0, 1), state, "an operand")
    _cache(pair, (3, 4), shared, (size, wide))
    _same(pair, (5, 6, 7, 8, 9))
    _mask(pair, 10, heads)
    if pair.has(11):
        _follows(pair.input(11).axes[0], heads, "the sinks")
    require(all(index < 12 for index in range(pair.count())), "it has inputs that are not known")
    _output(pair, 0, heads, wide, True)
    _cache_outputs(pair, shared, (size, wide))
    require(3 not in pair.claims or pair.claims[3].identity, "output 3 grew")


# ---- heads and sizes


def _split(source: IntArray, old_size: int, counts: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """An axis of heads × size as two maps: for each new head, and each place in a head, the old one or −1."""
    count, old_count = counts
    require(count > 0 and old_count > 0, "the number of heads is not known")
    require(source.size % count == 0 and old_size % old_count == 0, "its features do not divide into heads")
    table = source.reshape(count, -1)
    width = old_size // old_count
    known = table >= 0
    heads = np.where(known.any(axis=1), table.max(axis=1) // max(width, 1), -1)
    inner = np.where(known.any(axis=0), table.max(axis=0) % max(width, 1), -1)
    both = (heads[:, None] >= 0) & (inner[None, :] >= 0)
    expected = np.where(both, heads[:, None] * width + inner[None, :], -1)
    require(np.array_equal(table, expected), "its features are no heads of one size")
    return heads.astype(np.int64), inner.astype(np.int64)


def _cut(axis: Axis, widths: Sequence[int], old_widths: Sequence[int]) -> list[IntArray]:
    """An axis that joins queries, keys and values as a map of each."""
    fits = sum(widths) == axis.size and sum(old_widths) == axis.old_size
    require(fits, "its parts do not make up the whole")
    found = []
    start = old_start = 0
    for width, old_width in zip(widths, old_widths, strict=True):
        source = axis.source[start : start + width]
        inside = np.where(source < 0, -1, source - old_start)
        require(((inside < old_width) & (inside >= -1)).all(), "queries, keys and values changed places")
        found.append(inside)
        start, old_start = start + width, old_start + old_width
    return found


def _parts(state: Proved, flat: bool, counts: tuple[int, int]) -> tuple[IntArray, IntArray]:
    if not flat:
        return state.axes[1].source, state.axes[3].source
    return _split(state.axes[2].source, state.axes[2].old_size, counts)


def _agreeing(parts: Sequence[tuple[IntArray, IntArray]]) -> None:
    """Queries and keys are as wide, keys and values have the same heads."""
    (_, size), (shared, size_k), (owned, _) = parts
    require(np.array_equal(size, size_k), "the head sizes of queries and keys do not agree")
    require(np.array_equal(shared, owned), "the heads of keys and values do not agree")


def _grouped(heads: IntArray, shared: IntArray) -> None:
    """Every old query head still reads its old key head."""
    old_heads, old_shared = int((heads >= 0).sum()), int((shared >= 0).sum())
    require(heads.size % shared.size == 0 and old_heads % old_shared == 0, "query heads do not divide into groups")
    ratio, old_ratio = heads.size // shared.size, old_heads // old_shared
    old = np.flatnonzero(heads >= 0)
    read = shared[old // ratio]
    require(np.array_equal(read, heads[old] // old_ratio), "query heads read other key heads than before")


def _follows(axis: Axis, source: IntArray, what: str) -> None:
    _follows_source(axis.source, source, what)


def _follows_source(found: IntArray, wanted: IntArray, what: str) -> None:
    require(np.array_equal(found, wanted), f"{what} do not agree")


def _joined(axes: Sequence[Axis]) -> IntArray:
    """The map of several axes one after the other."""
    starts = np.cumsum([0, *(axis.old_size for axis in axes)])
    return np.concatenate([np.where(a.source < 0, -1, a.source + s) for a, s in zip(axes, starts, strict=False)])


# ---- what old heads must not see


@dataclass(frozen=True)
class _Place:
    """Where an operand lies: the places ``start … start + width − 1`` of an input's axis; width 0 for all of it."""

    index: int
    state: Proved
    axis: int
    start: int = 0
    width: int = 0

    def zero(self, pair: Pair, size: IntArray, new: IntArray) -> bool:
        """Whether it is zero at the new places of every old head."""
        source = self.state.axes[self.axis].source[self.start :][: self.width or None]
        table = source.reshape(-1, size.size)
        # New heads read what they like.
        owned = np.flatnonzero(table.max(axis=1) >= 0)
        places = self.start + (owned[:, None] * size.size + new[None, :]).reshape(-1)
        return bool(self.state.zero(self.axis)[places].all()) or pair.is_zero(self.index, self.axis, places)


def _past(pair: Pair, index: int) -> list[_Place]:
    """Past keys of [batch, heads, sequence, size]: they are read like the present ones."""
    given = index < pair.count() and pair.has(index)
    return [_Place(index, pair.input(index), 3)] if given else []


def _sizes_isolated(pair: Pair, operands: Sequence[Sequence[_Place]], size: IntArray) -> None:
    """Queries or keys are zero at the new places of an old head, with all that is added to them inside."""
    new = np.flatnonzero(size < 0)
    if new.size and not any(all(place.zero(pair, size, new) for place in places) for places in operands):
        raise ProofError("queries and keys are multiplied at new places of a head, and neither is proved zero there")


def _rows_isolated(pair: Pair, x: Proved, w: Proved) -> None:
    """Old columns of the weight are zero in rows of new features, unless those are zero."""
    rows = np.flatnonzero(w.axes[0].new & ~x.zero(2))
    columns = np.flatnonzero(w.axes[1].source >= 0)
    if not rows.size:
        return
    reader = pair.reader(1)
    require(reader is not None, "the weight is computed, and old heads may read new features")
    assert reader is not None
    found = nonzero(reader, {0: rows, 1: columns}, pair.tally)
    require(not found.any(), "old heads read new features: the weight is not zero there")


def _scale(pair: Pair, size: IntArray, unset: float | None) -> None:
    """The softmax scale of the original: as stated, or 1 / √(old head size), rounded to float32 like an attribute."""
    values = []
    for node, width in ((pair.node, size.size), (pair.original, int((size >= 0).sum()))):
        given = node.attributes.get("scale")
        value = None if given is None else given.as_float()
        values.append(1.0 / np.sqrt(width) if value is None or value == unset else value)
    new, old = (np.float32(v) for v in values)
    require(new == old, f"the softmax scale is {new} instead of {old}")


def _mask(pair: Pair, index: int, heads: IntArray) -> None:
    """A mask or bias that broadcasts to [batch, heads, sequence, sequence]."""
    if index >= pair.count() or not pair.has(index):
        return
    state = pair.input(index)
    for back, axis in enumerate(reversed(state.axes), start=1):
        if back == 3 and not axis.size == axis.old_size == 1:
            _follows(axis, heads, "the mask's heads")
        else:
            require(axis.identity, "the mask grew")


def _cache(pair: Pair, indices: tuple[int, int], heads: IntArray, sizes: tuple[IntArray, IntArray]) -> None:
    for index, size in zip(indices, sizes, strict=True):
        if index < pair.count() and pair.has(index):
            _cached(pair.input(index).axes, heads, size)


def _cache_outputs(pair: Pair, heads: IntArray, sizes: tuple[IntArray, IntArray]) -> None:
    for index, size in enumerate(sizes, start=1):
        if index in pair.claims:
            _cached(pair.claims[index].axes, heads, size)


def _cached(axes: Sequence[Axis], heads: IntArray, size: IntArray) -> None:
    require(len(axes) == 4 and axes[0].identity and axes[2].identity, "the cache grew")
    _follows(axes[1], heads, "the heads of the cache")
    _follows(axes[3], size, "the head size of the cache")


def _same(pair: Pair, indices: Sequence[int]) -> None:
    for index in indices:
        if index < pair.count() and pair.has(index):
            require(pair.input(index).identity, f"input {index} grew")


def _output(pair: Pair, index: int, heads: IntArray, wide: IntArray, flat: bool) -> None:
    if index not in pair.claims:
        return
    axes = pair.claims[index].axes
    require(len(axes) == (3 if flat else 4), "the output has another rank")
    if not flat:
        _follows(axes[1], heads, "the heads of the output")
        _follows(axes[3], wide, "the head size of the output")
        require(axes[0].identity and axes[2].identity, "the output grew elsewhere")
        return
    require(axes[0].identity and axes[1].identity, "the output grew elsewhere")
    old = int((wide >= 0).sum())
    both = (heads[:, None] >= 0) & (wide[None, :] >= 0)
    expected = np.where(both, heads[:, None] * old + wide[None, :], -1).reshape(-1)
    _follows(axes[2], expected, "the features of the output")
