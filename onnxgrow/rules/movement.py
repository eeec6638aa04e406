"""Ops that move entries without changing them: transposes, reshapes, squeezes, expansion, padding, blocks.

Spec: https://onnx.ai/onnx/operators/onnx__Reshape.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxgrow.algebra import Growth, reshape
from onnxgrow.rules.context import IntArray, NodeContext, Operand, Reason, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__ = ["target_shape"]


@register("Transpose")
def transpose(op: NodeContext) -> Sequence[Terms | None]:
    """Permute the axes; reversed when no permutation is given."""
    x = op.terms(0)
    order = op.attr("perm") or list(range(len(x)))[::-1]
    return [[x[op.axis(int(i), len(x))] for i in order]]


@register("Reshape")
def reshape_op(op: NodeContext) -> Sequence[Terms | None]:
    """Regroup the axes; the shape operand follows the growth, its −1 and 0 stay where they still fit."""
    x = op.terms(0)
    out = reshape(op.forest, x, op.out_shape(), Reason(op.label, None, "a reshape cuts across it"))
    keeps_zero = not op.attr("allowzero", 0)

    def wanted(growth: Growth, natural: IntArray) -> IntArray:
        new = natural.copy()
        for i, term in enumerate(out):
            size = op.size(term, growth)
            kept = natural[i] == -1 or (natural[i] == 0 and keeps_zero and i < len(x) and op.size(x[i], growth) == size)
            if not kept:
                new[i] = size if op.grows(term, growth) or natural[i] != 0 else natural[i]
        return new

    if op.attr("shape") is not None:
        old = np.asarray(op.attr("shape"), np.int64)
        op.attribute("shape", lambda growth: wanted(growth, old).tolist())
    else:
        op.operand(1, target_shape(op, out, wanted))
    return [out]


def target_shape(op: NodeContext, out: Terms, wanted: Callable[[Growth, IntArray], IntArray]) -> Operand:
    """The operand of an op that takes a whole target shape; one that is not known cannot follow a growth."""

    def update(growth: Growth, natural: IntArray | None) -> IntArray | None:
        if natural is not None:
            return wanted(growth, natural)
        if any(op.grows(t, growth) for t in out):
            raise Unsuitable("its target shape is computed from data")
        return None

    return update


@register("Flatten")
def flatten(op: NodeContext) -> Sequence[Terms | None]:
    """To a matrix, cut before ``axis``."""
    return [reshape(op.forest, op.terms(0), op.out_shape(), Reason(op.label, None, "a flatten cuts across it"))]


@register("Squeeze")
def squeeze(op: NodeContext) -> Sequence[Terms | None]:
    """Drop axes of size 1."""
    x = op.terms(0)
    given = op.ints("axes", 1)
    ones = [i for i, n in enumerate(op.shape(0)) if n == 1]
    axes = {op.axis(i, len(x)) for i in (ones if given is None else given)}
    return [[t for i, t in enumerate(x) if i not in axes]]


@register("Unsqueeze")
def unsqueeze(op: NodeContext) -> Sequence[Terms | None]:
    """Insert axes of size 1."""
    x = op.terms(0)
    given = op.ints("axes", 1)
    if given is None:
        raise Unsuitable("no axes")
    rank = len(x) + len(given)
    axes = {op.axis(i, rank) for i in given}
    rest = iter(x)
    return [[op.forest.one() if i in axes else next(rest) for i in range(rank)]]


@register("Expand")
def expand(op: NodeContext) -> Sequence[Terms | None]:
    """Broadcast to a shape: an axis of size 1 becomes a new axis, the others pass through."""
    x, sizes = op.terms(0), op.out_shape()
    padded = [op.forest.one() for _ in range(len(sizes) - len(x))] + list(x)
    out = [t if t.size == n else op.fresh(n) for t, n in zip(padded, sizes, strict=True)]

    def wanted(growth: Growth, natural: IntArray) -> IntArray:
        new = natural.copy()
        lead = len(out) - len(natural)
        for i in range(len(natural)):
            term = out[lead + i]
            # 1 leaves the data's own size; it only has to change where the data has size 1 too.
            if natural[i] != 1 or padded[lead + i].size == 1 != term.size:
                new[i] = op.size(term, growth)
        return new

    op.operand(1, target_shape(op, out, wanted))
    return [out]


@register("Tile")
def tile(op: NodeContext) -> Sequence[Terms | None]:
    """Repeat along axes: a repeated axis is repetitions × the axis."""
    x, sizes = op.terms(0), op.out_shape()
    if op.version < 6:
        raise Unsuitable("the form of opset 1")
    out = []
    for axis, (term, size) in enumerate(zip(x, sizes, strict=True)):
        if term.size == size:
            out.append(term)
        elif term.size == 0 or size == 0:
            raise Unsuitable("no entries")
        else:
            out.append(op.forest.product((op.fresh(size // term.size, "it counts repetitions", axis), term)))
    op.operand(1, _unchanged)
    return [out]


def _unchanged(growth: Growth, natural: IntArray | None) -> IntArray | None:
    return None


@register("Pad")
def pad(op: NodeContext) -> Sequence[Terms | None]:
    """A padded axis cannot grow (its end moves); the others pass through."""
    x, sizes = op.terms(0), op.out_shape()
    pads = op.ints("pads", 1) if op.version >= 2 else op.attr("paddings")
    if pads is None:
        raise Unsuitable("no pads")
    if op.has(3):
        named = op.constant(3)
        if named is None:
            raise Unsuitable("axes are computed from data")
        axes = [op.axis(int(a), len(x)) for a in named]
    else:
        axes = list(range(len(x)))
    padded = {a for i, a in enumerate(axes) if pads[i] or pads[i + len(axes)]}
    out = []
    for axis, (term, size) in enumerate(zip(x, sizes, strict=True)):
        if axis in padded:
            op.freeze_axis(x, axis, "it is padded")
            out.append(op.fresh(size, "it is padded", axis))
        else:
            out.append(term)
    return [out]


@register("DepthToSpace")
def depth_to_space(op: NodeContext) -> Sequence[Terms | None]:
    """Channels are blocks × blocks × depth (DCR), or depth × blocks × blocks (CRD)."""
    x, sizes = op.terms(0), op.out_shape()
    block = int(op.attr("blocksize")) ** 2
    blocks = op.fresh(block, "it is moved into space", 1)
    depth = op.forest.atom(sizes[1])
    order = (blocks, depth) if op.attr("mode", "DCR") == "DCR" else (depth, blocks)
    op.unify(x[1], op.forest.product(order), "its channels do not divide into blocks")
    op.freeze(x[2:], "it is spread out", 2)
    return [[x[0], depth, *op.fresh_all(sizes[2:], "it is spread out", 2)]]


@register("SpaceToDepth")
def space_to_depth(op: NodeContext) -> Sequence[Terms | None]:
    """Channels become blocks × blocks × channels."""
    x, sizes = op.terms(0), op.out_shape()
    blocks = op.fresh(int(op.attr("blocksize")) ** 2, "it counts blocks", 1)
    op.freeze(x[2:], "it is gathered into blocks", 2)
    out = op.forest.product((blocks, x[1]))
    return [[x[0], out, *op.fresh_all(sizes[2:], "it is gathered into blocks", 2)]]


@register("Trilu")
def trilu(op: NodeContext) -> Sequence[Terms | None]:
    """The last two axes form a triangle."""
    x = op.terms(0)
    op.freeze(x[-2:], "a triangle is cut from it", max(0, len(x) - 2))
    return [list(x)]


@register("ReverseSequence")
def reverse_sequence(op: NodeContext) -> Sequence[Terms | None]:
    """Entries along time change places, up to a length for each batch entry; the other axes pass through."""
    x = op.terms(0)
    for name, default in (("batch_axis", 1), ("time_axis", 0)):
        op.freeze_axis(x, op.axis(int(op.attr(name, default)), len(x)), "sequences are reversed along it")
    op.freeze(op.terms(1), "it holds lengths of sequences")
    return [list(x)]
