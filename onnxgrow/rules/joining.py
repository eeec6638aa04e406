"""Concat, Split and Slice: axes made of parts.

Spec: https://onnx.ai/onnx/operators/onnx__Concat.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgrow.algebra import Growth, Term, factor, grown_offset, split_at
from onnxgrow.rules.context import IntArray, NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

STRIDED = "a strided slice reads it"


@register("Concat")
def concat(op: NodeContext) -> Sequence[Terms | None]:
    """Joined on one axis, the same on all others."""
    parts = [op.terms(i) for i in range(len(op.inputs))]
    rank = len(parts[0])
    axis = op.axis(int(op.attr("axis", 1)), rank)
    out = []
    for i in range(rank):
        if i == axis:
            out.append(op.forest.concat([p[i] for p in parts]))
        else:
            for other in parts[1:]:
                op.unify(parts[0][i], other[i], "joined tensors of different size")
            out.append(parts[0][i])
    return [out]


@register("Split")
def split(op: NodeContext) -> Sequence[Terms | None]:
    """Cut on one axis; the sizes (attribute or second input) follow the growth."""
    x = op.terms(0)
    axis = op.axis(int(op.attr("axis", 0)), len(x))
    if op.has(1) and op.constant(1) is None:
        raise Unsuitable("sizes computed from data")
    sizes = [op.out_shape(i)[axis] for i in range(len(op.node.outputs))]
    pieces = _cut(op, x[axis], sizes)
    if pieces is None:
        op.freeze_axis(x, axis, "a split cuts through it")
        pieces = [op.fresh(n, "a split cuts through it", axis) for n in sizes]

    def wanted(growth: Growth) -> list[int] | None:
        return [op.size(p, growth) for p in pieces] if op.grows(x[axis], growth) else None

    if op.version < 13:
        op.attribute("split", lambda growth: wanted(growth) or op.ints("split", 1))
    else:
        op.operand(1, lambda growth, natural: _as_array(wanted(growth)))
        op.attribute("num_outputs", lambda growth: None if wanted(growth) else op.attr("num_outputs"))
    return [[*x[:axis], piece, *x[axis + 1 :]] for piece in pieces]


def _as_array(sizes: list[int] | None) -> IntArray | None:
    return None if sizes is None else np.asarray(sizes, np.int64)


def _cut(op: NodeContext, term: Term, sizes: Sequence[int]) -> list[Term] | None:
    """Cut ``term`` into parts of the given sizes; None where it cannot be cut so."""
    if 0 in sizes:
        return None
    pieces = []
    with op.forest.transaction() as attempt:
        for size in sizes[:-1]:
            pair = split_at(op.forest, term, size) if size < op.forest.find(term).size else None
            if pair is None:
                attempt.rollback()
                return None
            pieces.append(pair[0])
            term = pair[1]
        if op.forest.find(term).size != sizes[-1]:
            attempt.rollback()
            return None
    return [*pieces, term]


@dataclass
class _Window:
    """One sliced axis: the range [start, end) of old indices, and its part of the axis (None: cannot be cut)."""

    axis: int
    start: int
    end: int
    step: int


@register("Slice")
def slice_op(op: NodeContext) -> Sequence[Terms | None]:
    """A range of each axis; starts and ends follow the growth.

    Of an axis that is read with steps only whole runs of entries grow, such as the pairs of a rotary embedding.
    """
    x, out = op.terms(0), list(op.terms(0))
    windows = _windows(op)
    for at, window in enumerate(windows):
        axis, size = window.axis, op.shape(0)[window.axis]
        if window.step == 1 and (window.start, window.end) == (0, size):
            continue
        part = None
        if window.step == 1 and window.start < window.end:
            sizes = [window.start, window.end - window.start, size - window.end]
            pieces = _cut(op, x[axis], [n for n in sizes if n])
            part = None if pieces is None else pieces[1 if window.start else 0]
        elif window.step > 1:
            part = _every(op, x[axis], window)
        if part is None:
            why = "a slice cuts through it" if window.step == 1 else STRIDED
            op.freeze_axis(x, axis, why)
            part = op.fresh(op.out_shape()[axis], why, axis)
        out[axis] = part
        windows[at] = window
    _declare_bounds(op, x, windows)
    return [out]


def _every(op: NodeContext, term: Term, window: _Window) -> Term | None:
    """What counts the entries that a strided slice reads, where it reads one of every whole run of ``step`` entries."""
    size, step = op.forest.find(term).size, window.step
    whole = size % step == 0 and size > step and window.start < step and window.end > size - step + window.start
    if not whole or all(leaf.frozen for leaf in op.forest.leaves(term)):
        return None
    factors = factor(op.forest, term, step)
    if factors is None:
        return None
    op.freeze([factors[1]], STRIDED, window.axis)
    return factors[0]


def _windows(op: NodeContext) -> list[_Window]:
    shape = op.shape(0)
    starts, ends = op.ints("starts", 1), op.ints("ends", 2)
    if starts is None or ends is None:
        raise Unsuitable("no bounds")
    axes = op.ints("axes", 3)
    steps = op.ints("steps", 4)
    axes = [op.axis(a, len(shape)) for a in axes] if axes is not None else list(range(len(starts)))
    windows = []
    for i, axis in enumerate(axes):
        step = steps[i] if steps is not None else 1
        if step > 0:
            size = shape[axis]
            windows.append(_Window(axis, _clamp(starts[i], size), _clamp(ends[i], size), step))
        else:
            windows.append(_Window(axis, 0, 0, step))
    return windows


def _clamp(index: int, size: int) -> int:
    return min(max(index + size if index < 0 else index, 0), size)


def _declare_bounds(op: NodeContext, x: Terms, windows: list[_Window]) -> None:
    def bounds(which: str, growth: Growth, natural: IntArray) -> IntArray:
        new = natural.copy()
        for i, window in enumerate(windows):
            term = x[window.axis]
            if window.step < 1 or not op.grows(term, growth):
                continue
            grown = op.size(term, growth)
            offset: int | None = window.start if which == "start" else grown
            if window.step == 1:
                offset = grown_offset(op.forest, term, getattr(window, which), growth)
            if offset is not None and _clamp(int(natural[i]), grown) != offset:
                new[i] = offset
        return new

    def declare(index: int, which: str, name: str) -> None:
        given = op.attr(name)
        if given is not None:
            old = np.asarray(given, np.int64)
            op.attribute(name, lambda growth: bounds(which, growth, old).tolist())
        else:
            op.operand(index, lambda growth, natural: None if natural is None else bounds(which, growth, natural))

    declare(1, "start", "starts")
    declare(2, "end", "ends")
