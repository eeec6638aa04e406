"""Fused attention: whole heads can be appended, values widened, and queries with their keys.

The features of a three-dimensional operand are heads × head size. Where query heads share a key head, whole groups of
them are appended. A softmax scale that follows from the head size is written down when that grows. Keys and values of
a cache are inputs and outputs of the network, which cannot grow; with a cache the heads are frozen.
Spec: https://onnx.ai/onnx/operators/onnx__Attention.html,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxgrow.algebra import Growth, Term
from onnxgrow.rules.context import NodeContext, Place, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

BATCH, SEQUENCE = "it is the batch", "it is the sequence"
GROUP = "it counts the query heads that share a key head"
LAYOUT = "its features do not divide into heads"
CACHED = "it is kept in a cache of keys and values together"
MICROSOFT = "com.microsoft"


@register("Attention", since_version=23)
def attention(op: NodeContext) -> Sequence[Terms | None]:
    """Q, K, V of [batch, heads, sequence, size] or [batch, sequence, heads · size]."""
    q, k, v = op.terms(0), op.terms(1), op.terms(2)
    flat = len(q) == 3
    if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
        raise Unsuitable("operands of unexpected rank")
    query_heads = int(op.attr("q_num_heads", 0)) if flat else q[1].size
    key_heads = int(op.attr("kv_num_heads", 0)) if flat else k[1].size
    heads = op.forest.atom(_count(key_heads))
    grouped = _grouped(op, heads, query_heads)
    size, wide = _size(op, k, key_heads, flat), _size(op, v, key_heads, flat)
    for terms, count, inner in ((q, grouped, size), (k, heads, size), (v, heads, wide)):
        _lay(op, terms, count, inner, flat)
    _same_sequences(op, q, k, v, *((1, 1) if flat else (2, 2)))
    _bias(op, 3, grouped)
    _cache(op, (4, 5), heads, (size, wide))
    if op.has(6):
        op.freeze(op.terms(6), BATCH)
    keys = [Place(1, len(k) - 1), *([Place(4, 3)] if op.has(4) else [])]
    op.product((Place(0, len(q) - 1),), tuple(keys), size)
    if flat:
        op.attribute("q_num_heads", lambda growth: op.size(grouped, growth))
        op.attribute("kv_num_heads", lambda growth: op.size(heads, growth))
    op.attribute("scale", _kept_scale(op, size, None))
    y = [q[0], q[1], op.forest.product((grouped, wide))] if flat else [q[0], grouped, q[2], wide]
    out: list[Terms | None] = [y, *_present(op, heads, (size, wide))]
    if len(op.node.outputs) > 3:
        scores = op.out_shapes[3]
        out.append(None if scores is None else [q[0], grouped, *op.fresh_all(scores[2:], SEQUENCE, 2)])
    return out[: len(op.node.outputs)]


@register("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: NodeContext) -> Sequence[Terms | None]:
    """Query, key and value of [batch, sequence, heads · size] each, and perhaps one bias for the three.

    Keys and values may be [batch, heads, sequence, size], as another decoder keeps them.
    """
    if not (op.has(1) and op.has(2)):
        raise Unsuitable("packed queries, keys and values, which ONNX Runtime does not run on every device")
    q, k, v = op.terms(0), op.terms(1), op.terms(2)
    flat = len(k) == 3
    if len(q) != 3 or len(k) != len(v) or len(k) not in (3, 4) or (op.has(3) and not flat):
        raise Unsuitable("operands of unexpected rank")
    count = _count(int(op.attr("num_heads", 0)))
    heads = op.forest.atom(count)
    size, wide = _size(op, k, count, flat), _size(op, v, count, flat)
    _lay(op, q, heads, size, True)
    _lay(op, k, heads, size, flat)
    _lay(op, v, heads, wide, flat)
    _same_sequences(op, q, k, v, 1, 1 if flat else 2)
    if not flat:
        op.unify(size, wide, "keys and values laid out by heads have one size")
    queries, keys = [Place(0, 2)], [Place(1, len(k) - 1)]
    if op.has(3):
        op.unify(op.terms(3)[0], op.forest.concat([q[2], k[2], v[2]]), "its bias does not line up")
        op.fill(3, 0.0)
        queries.append(Place(3, 0, (), q[2]))
        keys.append(Place(3, 0, (q[2],), k[2]))
    if op.has(4):
        op.freeze(op.terms(4), SEQUENCE)
    _bias(op, 5, heads)
    _cache(op, (6, 7), heads, (size, wide))
    if op.has(6):
        keys.append(Place(6, 3))
    for i in (8, 9):
        if op.has(i):
            op.freeze(op.terms(i), SEQUENCE)
    op.product(tuple(queries), tuple(keys), size)
    op.attribute("num_heads", lambda growth: op.size(heads, growth))
    op.attribute("scale", _kept_scale(op, size, 0.0))
    out: list[Terms | None] = [[q[0], q[1], op.forest.product((heads, wide))], *_present(op, heads, (size, wide))]
    return [*out, None][: len(op.node.outputs)]


@register("Attention", domain=MICROSOFT)
def packed_attention(op: NodeContext) -> Sequence[Terms | None]:
    """The weight [in, queries + keys + values] lies inside; each part is heads · size."""
    x, w = op.terms(0), op.terms(1)
    if not op.is_constant(1) or len(x) != 3 or len(w) != 2:
        raise Unsuitable("a weight that is computed, or operands of unexpected rank")
    count = _count(int(op.attr("num_heads", 0)))
    given = op.attr("qkv_hidden_sizes")
    sizes = [int(n) for n in given] if given else [w[1].size // 3] * 3
    if any(n % count for n in sizes) or sum(sizes) != w[1].size or sizes[0] != sizes[1]:
        raise Unsuitable("parts that do not divide into heads")
    heads = op.forest.atom(count)
    size, wide = _atom(op, sizes[0], count), _atom(op, sizes[2], count)
    parts = [op.forest.product((heads, inner)) for inner in (size, size, wide)]
    whole = op.forest.concat(parts)
    op.freeze(x[:1], BATCH)
    op.freeze(x[1:2], SEQUENCE, 1)
    op.unify(x[2], w[0], "its input features do not line up")
    op.unify(w[1], whole, LAYOUT)
    op.linear(1, [1], [0], data=0)
    queries, keys = [Place(1, 1, (), parts[0])], [Place(1, 1, (parts[0],), parts[1])]
    if op.has(2):
        op.unify(op.terms(2)[0], whole, "its bias does not line up")
        op.fill(2, 0.0)
        queries.append(Place(2, 0, (), parts[0]))
        keys.append(Place(2, 0, (parts[0],), parts[1]))
    op.product(tuple(queries), tuple(keys), size)
    if op.attr("do_rotary", 0):
        op.freeze([size], "its features are rotated in pairs inside", 2)
    for i in (3, 6):
        if op.has(i):
            op.freeze(op.terms(i), SEQUENCE)
    if op.has(4):
        _tie(op, 4, [None, None, heads, None, size])
        op.freeze([heads, size, wide], CACHED)
    _bias(op, 5, heads)
    op.attribute("num_heads", lambda growth: op.size(heads, growth))
    op.attribute("scale", _kept_scale(op, size, 0.0))

    def parts_after(growth: Growth) -> list[int] | None:
        if given or op.grows(wide, growth) or op.grows(size, growth):
            return [op.size(part, growth) for part in parts]
        return None

    op.attribute("qkv_hidden_sizes", parts_after)
    out: list[Terms | None] = [[x[0], x[1], parts[2]]]
    present = op.out_shapes[1] if len(op.node.outputs) > 1 else None
    if present is not None:
        frozen = op.fresh_all(present, "it is a cache")
        out.append([frozen[0], frozen[1], heads, frozen[3], size])
        op.freeze([heads, size, wide], CACHED)
    return [*out, None][: len(op.node.outputs)]


@register("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(op: NodeContext) -> Sequence[Terms | None]:
    """Query heads share key heads; keys and values have one head size, and are kept in a cache."""
    q = op.terms(0)
    key_heads, query_heads = _count(int(op.attr("kv_num_heads", 0))), _count(int(op.attr("num_heads", 0)))
    heads = op.forest.atom(key_heads)
    grouped = _grouped(op, heads, query_heads)
    total = query_heads if op.has(1) else query_heads + 2 * key_heads
    if len(q) != 3 or q[2].size % total:
        raise Unsuitable("features that do not divide into heads")
    size = op.fresh(q[2].size // total, "keys and values of the cache have this head size", 2)
    queries, keys = op.forest.product((grouped, size)), op.forest.product((heads, size))
    op.freeze(q[:1], BATCH)
    op.freeze(q[1:2], SEQUENCE, 1)
    if op.has(1):
        op.unify(q[2], queries, LAYOUT)
        for i in (1, 2):
            op.unify(op.terms(i)[2], keys, LAYOUT)
            op.freeze(op.terms(i)[:2], SEQUENCE)
    else:
        op.unify(q[2], op.forest.concat([queries, keys, keys]), LAYOUT)
    _cache(op, (3, 4), heads, (size, size))
    for i in range(5, len(op.inputs)):
        if i == 11 and op.has(i):
            op.unify(op.terms(i)[0], grouped, LAYOUT)
        elif i == 10:
            _bias(op, i, grouped)
        elif op.has(i):
            op.freeze(op.terms(i), "it holds positions or angles")
    op.attribute("num_heads", lambda growth: op.size(grouped, growth))
    op.attribute("kv_num_heads", lambda growth: op.size(heads, growth))
    out: list[Terms | None] = [[q[0], q[1], queries], *_present(op, heads, (size, size))]
    return [*out, None][: len(op.node.outputs)]


# ---- parts


def _count(heads: int) -> int:
    if heads < 1:
        raise Unsuitable("no number of heads")
    return heads


def _grouped(op: NodeContext, heads: Term, queries: int) -> Term:
    """The query heads: groups of them belong to each key head."""
    if queries < 1 or queries % heads.size:
        raise Unsuitable("query heads that do not divide among the key heads")
    return heads if queries == heads.size else op.forest.product((heads, op.fresh(queries // heads.size, GROUP)))


def _atom(op: NodeContext, features: int, heads: int) -> Term:
    if features % heads:
        raise Unsuitable("features that do not divide into heads")
    return op.forest.atom(features // heads)


def _size(op: NodeContext, terms: Terms, heads: int, flat: bool) -> Term:
    return _atom(op, terms[2].size, _count(heads)) if flat else terms[3]


def _lay(op: NodeContext, terms: Terms, heads: Term, size: Term, flat: bool) -> None:
    """Say that an operand's features are heads × size."""
    if flat:
        op.unify(terms[2], op.forest.product((heads, size)), LAYOUT)
    else:
        op.unify(terms[1], heads, LAYOUT)
        op.unify(terms[3], size, "the head sizes differ")


def _same_sequences(op: NodeContext, q: Terms, k: Terms, v: Terms, of_queries: int, of_keys: int) -> None:
    for terms, axis in ((q, of_queries), (k, of_keys), (v, of_keys)):
        op.freeze(terms[:1], BATCH)
        op.freeze(terms[axis : axis + 1], SEQUENCE, axis)


def _bias(op: NodeContext, index: int, heads: Term) -> None:
    """A mask or bias that broadcasts to [batch, heads, sequence, sequence]."""
    if not op.has(index):
        return
    terms = op.terms(index)
    for back, term in enumerate(reversed(terms), start=1):
        if back == 3 and term.size != 1:
            op.unify(term, heads, "a head each")
        else:
            op.freeze([term], SEQUENCE, len(terms) - back)


def _tie(op: NodeContext, index: int, wanted: Sequence[Term | None]) -> None:
    """Tie the axes of an operand to those given; the others are frozen."""
    for axis, (term, other) in enumerate(zip(op.terms(index), wanted, strict=True)):
        if other is None:
            op.freeze([term], "it is a cache", axis)
        else:
            op.unify(term, other, "the cache does not line up")


def _cache(op: NodeContext, indices: tuple[int, int], heads: Term, sizes: tuple[Term, Term]) -> None:
    """Past keys and values of [batch, heads, sequence, size]."""
    for index, size in zip(indices, sizes, strict=True):
        if op.has(index):
            if len(op.terms(index)) != 4:
                raise Unsuitable("a cache of unexpected rank")
            _tie(op, index, [None, heads, None, size])


def _present(op: NodeContext, heads: Term, sizes: tuple[Term, Term]) -> list[Terms | None]:
    """Present keys and values, where the node gives them."""
    out: list[Terms | None] = []
    for index, size in enumerate(sizes, start=1):
        shape = op.out_shapes[index] if index < len(op.node.outputs) else None
        if shape is None or len(shape) != 4:
            out.append(None)
        else:
            frozen = op.fresh_all(shape, "it is a cache")
            out.append([frozen[0], heads, frozen[2], size])
    return out


def _kept_scale(op: NodeContext, size: Term, unset: float | None) -> Callable[[Growth], float | None]:
    """The softmax scale: as given, or that of the old head size where it was left to follow from that."""
    given, old = op.attr("scale"), size.size

    def update(growth: Growth) -> float | None:
        if (given is None or given == unset) and op.grows(size, growth):
            return float(np.float32(1.0 / np.sqrt(old)))
        return None if given is None else float(given)

    return update
