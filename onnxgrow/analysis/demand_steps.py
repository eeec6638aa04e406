"""A demand for zeros on its way back: from where they are needed to the constants that can hold them.

Every handler says of one op what has to be zero in front of it for its output to be zero under some masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, grown_offset, layout
from onnxgrow.algebra.reshape import blocks
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.network import Site
from onnxgrow.rules import Terms

__all__ = ["Demand", "Grant", "Masks", "NoGrantError"]

Mask = npt.NDArray[np.bool_]
Masks = tuple[Mask | None, ...]
"""Per axis of a grown value the positions meant, None for all: the value must be zero where all masks hold."""

KEEPS_ZERO = frozenset(
    "Abs Asin Asinh Atan Cast Celu Ceil Dropout Elu Erf Floor Gelu HardSwish Identity LeakyRelu Mish Neg PRelu Relu "
    "Round Selu Sign Sin Softsign Sqrt Swish Tan Tanh".split()
)
DEPTH = 400


@dataclass(frozen=True)
class Grant:
    """Entries of a constant, as read at one site, that have to be zero."""

    site: Site
    masks: Masks


class NoGrantError(Exception):
    """This way leads to no constants that can be zero."""


class Demand:
    """One demand on its way back."""

    def __init__(self, dims: Dimensions, growth: Growth) -> None:
        self.dims = dims
        self.growth = growth

    def at(self, site: Site, masks: Masks, depth: int = 0) -> list[Grant]:
        """Grants that make what a node reads at ``site`` zero under ``masks``. Raises NoGrantError."""
        node, index = site
        value = node.inputs[index] if index < len(node.inputs) else None
        name = (value.name if value is not None else None) or ""
        if not name:
            return []
        if depth > DEPTH:
            raise NoGrantError("the way is too long")
        if name in self.dims.network.tensors:
            return self._constant(site, name, masks)
        producer = self.dims.network.producer(name)
        if producer is None:
            raise NoGrantError(f"{name} is given from outside")
        own = producer.domain in ("", "ai.onnx") or producer.op_type == "RotaryEmbedding"
        handler = _HANDLERS.get(producer.op_type) if own else None
        if handler is None:
            raise NoGrantError(f"{producer.op_type} does not keep zeros")
        output = next(k for k, o in enumerate(producer.outputs) if o.name == name)
        return handler(self, producer, output, masks, depth + 1)

    def _constant(self, site: Site, name: str, masks: Masks) -> list[Grant]:
        """Only new entries may be zeroed, unless the old ones are zero already."""
        terms = self.dims.at(site) or []
        if any(all(masks[a] is None for a in axes) for axes in self.dims.computed.lengths.get(name, ())):
            raise NoGrantError(f"the length of {name}, which it is divided by, would be zero")
        kept = []
        for term, mask in zip(terms, masks, strict=True):
            source = layout(self.dims.forest, term, self.growth)
            kept.append(source[(source >= 0) if mask is None else (source >= 0) & mask])
        if all(k.size for k in kept):
            old = np.asarray(self.dims.network.tensors[name].numpy())
            if np.any(old[np.ix_(*kept)] != 0):
                raise NoGrantError(f"old entries of {name} would have to be zero")
        return [Grant(site, masks)]

    def terms(self, name: str | None) -> Terms:
        found = self.dims.values.get(name or "")
        if found is None:
            raise NoGrantError(f"the shape of {name} is not known")
        return found

    def sizes(self, terms: Terms) -> list[int]:
        return [layout(self.dims.forest, t, self.growth).size for t in terms]

    def broadcast(self, node: ir.Node, index: int, masks: Masks) -> Masks:
        """Masks over the result of an elementwise op, seen by one operand."""
        terms = self.dims.at((node, index)) or []
        tail = masks[len(masks) - len(terms) :]
        return tuple(None if t.size == 1 else m for t, m in zip(terms, tail, strict=True))

    def first(self, ways: Sequence[tuple[Site, Masks]], depth: int) -> list[Grant]:
        """The first way that works."""
        error = NoGrantError("there is no operand")
        for site, masks in ways:
            if all(m is None for m in masks):
                continue
            try:
                return self.at(site, masks, depth)
            except NoGrantError as e:
                error = e
        raise error


Handler = Callable[[Demand, ir.Node, int, Masks, int], list[Grant]]


def _same(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    return d.at((node, 0), masks, depth)


def _every(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Sums, maxima, choices: all operands have to be zero."""
    start = 1 if node.op_type == "Where" else 0
    return [g for i in range(start, len(node.inputs)) for g in d.at((node, i), d.broadcast(node, i, masks), depth)]


def _either(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Products: one factor is enough; computed ones first, since constant factors may serve others.

    What only lets another factor through comes last: behind its zeros nothing would ever learn.
    """
    masks_of = d.dims.computed.sources
    order = sorted(
        range(len(node.inputs)),
        key=lambda i: (_is_constant(d, node, i), (node, i) in masks_of and masks_of[node, i].mask),
    )
    return d.first([((node, i), d.broadcast(node, i, masks)) for i in order], depth)


def _is_constant(d: Demand, node: ir.Node, index: int) -> bool:
    value = node.inputs[index]
    return value is not None and value.name in d.dims.network.derived


def _numerator(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    return d.at((node, 0), d.broadcast(node, 0, masks), depth)


def _powered(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """0 to a positive power."""
    value = node.inputs[1]
    power = d.dims.network.concrete.values.get(value.name or "") if value is not None else None
    if power is None or not bool(np.all(np.asarray(power, np.float64) > 0)) or not _is_constant(d, node, 1):
        raise NoGrantError("Pow by an exponent that is not known to be positive")
    return d.at((node, 0), d.broadcast(node, 0, masks), depth)


def _padded(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Padded along other axes than those of the masks: with zeros, or what lies there."""
    terms = d.terms(node.outputs[0].name)
    inner = d.dims.at((node, 0)) or []
    if any(m is not None and a.size != b.size for m, a, b in zip(masks, terms, inner, strict=True)):
        raise NoGrantError("it is padded along that axis")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if node.attributes.get_string("mode", "constant") == "constant" and given is not None and given.name:
        known = d.dims.network.concrete.values.get(given.name)
        if known is None or np.any(known != 0):
            raise NoGrantError("it is padded with other values than zero")
    return d.at((node, 0), masks, depth)


def _transpose(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    order = node.attributes.get_ints("perm", ()) or tuple(range(len(masks)))[::-1]
    back: list[Mask | None] = [None] * len(masks)
    for k, axis in enumerate(order):
        back[axis] = masks[k]
    return d.at((node, 0), tuple(back), depth)


def _reshape(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Masks regroup with the axes; a block whose mask is no product of masks per axis cannot be demanded."""
    outs = d.sizes(d.terms(node.outputs[0].name))
    ins = d.sizes(d.dims.at((node, 0)) or [])
    back: list[Mask | None] = [None] * len(ins)
    for (i0, i1), (o0, o1) in blocks(ins, outs):
        if all(masks[k] is None for k in range(o0, o1)):
            continue
        whole: Mask = np.ones(outs[o0:o1], bool)
        for k in range(o0, o1):
            mask = masks[k]
            if mask is not None:
                whole &= mask.reshape([-1 if q == k else 1 for q in range(o0, o1)])
        whole = whole.reshape(ins[i0:i1])
        rebuilt = np.ones_like(whole)
        for k in range(i0, i1):
            others = tuple(q - i0 for q in range(i0, i1) if q != k)
            along: Mask = np.asarray(whole.any(axis=others))
            back[k] = None if along.all() else along
            rebuilt &= along.reshape([-1 if q == k else 1 for q in range(i0, i1)])
        if not np.array_equal(rebuilt, whole):
            raise NoGrantError(f"{node.op_type} spreads the entries over several axes")
    return d.at((node, 0), tuple(back), depth)


def _tile(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """An entry has to be zero where any of its repetitions has to be."""
    ins = d.sizes(d.dims.at((node, 0)) or [])
    back = [None if m is None else np.asarray(m.reshape(-1, n).any(axis=0)) for m, n in zip(masks, ins, strict=True)]
    return d.at((node, 0), tuple(back), depth)


def _concat(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    axis = node.attributes.get_int("axis", 1) % len(masks)
    found: list[Grant] = []
    offset = 0
    for i in range(len(node.inputs)):
        size = d.sizes([(d.dims.at((node, i)) or [])[axis]])[0]
        mask = masks[axis]
        part = None if mask is None else mask[offset : offset + size]
        offset += size
        if part is not None and not part.any():
            continue
        mine = list(masks)
        mine[axis] = None if part is None or part.all() else part
        found += d.at((node, i), tuple(mine), depth)
    return found


def _split(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    axis = node.attributes.get_int("axis", 0) % len(masks)
    sizes = [d.sizes([d.terms(o.name)[axis]])[0] for o in node.outputs]
    return d.at((node, 0), _widened(masks, axis, sum(sizes[:output]), sum(sizes), sizes[output]), depth)


def _slice(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    whole = d.dims.at((node, 0)) or []
    cut = d.terms(node.outputs[0].name)
    starts, axes, steps = _ints(d, node, "starts", 1), _ints(d, node, "axes", 3), _ints(d, node, "steps", 4)
    if starts is None or any(step < 1 for step in steps or ()):
        raise NoGrantError("a slice backwards, or one with computed bounds")
    found = masks
    for i, start in enumerate(starts):
        axis = (axes[i] if axes is not None else i) % len(whole)
        size, step = whole[axis].size, steps[i] if steps else 1
        first = min(max(start + size if start < 0 else start, 0), size)
        # With steps, every run of entries has one that is read: the first run stays the first.
        offset = first if step > 1 else grown_offset(d.dims.forest, whole[axis], first, d.growth)
        total, part = d.sizes([whole[axis], cut[axis]])
        if offset is None or offset + step * (part - 1) >= total:
            raise NoGrantError("a slice cuts through it")
        found = _widened(found, axis, offset, total, part, step)
    return d.at((node, 0), found, depth)


def _widened(masks: Masks, axis: int, start: int, total: int, part: int, step: int = 1) -> Masks:
    """Masks over a range of one axis, as masks over all of it."""
    whole = np.zeros(total, bool)
    mask = masks[axis]
    whole[start : start + step * part : step] = True if mask is None else mask
    out = list(masks)
    out[axis] = None if whole.all() else whole
    return tuple(out)


def _ints(d: Demand, node: ir.Node, name: str, index: int) -> list[int] | None:
    given = node.attributes.get(name)
    if given is not None:
        return list(given.as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.name:
        return None
    known = d.dims.network.concrete.values.get(value.name)
    if known is None:
        raise NoGrantError(f"{name} of {node.op_type} are computed from data")
    return [int(v) for v in np.asarray(known).reshape(-1)]


def _gather(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Through the axes that are not looked up; a single known index leaves its one entry."""
    terms, indices = d.dims.at((node, 0)) or [], d.dims.at((node, 1)) or []
    axis = node.attributes.get_int("axis", 0) % len(terms)
    looked: Mask | None = None
    value = node.inputs[1]
    known = d.dims.network.concrete.values.get(value.name or "") if value is not None else None
    if known is not None and not indices:
        source = layout(d.dims.forest, terms[axis], d.growth)
        looked = source == int(np.asarray(known)) % terms[axis].size
        looked = None if looked.all() else looked
    return d.at((node, 0), (*masks[:axis], looked, *masks[axis + len(indices) :]), depth)


def _gather_nd(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Through the axes behind those that are looked up."""
    indices = d.dims.at((node, 1)) or []
    looked = node.attributes.get_int("batch_dims", 0) + indices[-1].size
    given = len(indices) - 1
    if any(m is not None for m in masks[:given]):
        raise NoGrantError("positions of a look-up")
    return d.at((node, 0), (*[None] * looked, *masks[given:]), depth)


def _matmul(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Zero columns come from zero columns of the right operand, zero rows from zero rows of the left one."""
    left, right = d.dims.at((node, 0)) or [], d.dims.at((node, 1)) or []
    if len(left) < 2 or len(right) < 2:
        raise NoGrantError("a product with a vector")
    ways: list[tuple[Site, Masks]] = []
    if masks[-1] is not None:
        ways.append(((node, 1), (*[None] * (len(right) - 1), masks[-1])))
    if masks[-2] is not None:
        ways.append(((node, 0), (*[None] * (len(left) - 2), masks[-2], None)))
    return d.first(ways, depth)


def _reduced(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Of what is zero all along the axes that it runs over."""
    rank = len(d.dims.at((node, 0)) or [])
    axes = {a % rank for a in _ints(d, node, "axes", 1) or range(rank)}
    left = iter(m for a, m in enumerate(masks) if not (node.attributes.get_int("keepdims", 1) and a in axes))
    return d.at((node, 0), tuple(None if a in axes else next(left) for a in range(rank)), depth)


def _rotary(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Whole pairs of features stay zero when they are turned."""
    mask = masks[-1]
    if mask is not None:
        table = d.dims.at((node, 1 if node.domain in ("", "ai.onnx") else 2)) or []
        pairs = d.sizes(table[-1:])[0]
        counted = d.dims.declared[node].attributes.get("num_heads")
        heads = 1 if len(masks) == 4 else counted(d.growth) if counted else mask.size // (2 * pairs)
        turned = mask.reshape(heads, -1)[:, : 2 * pairs]
        interleaved = node.attributes.get_int("interleaved", 0)
        turned = turned.reshape(heads, pairs, 2) if interleaved else turned.reshape(heads, 2, pairs).transpose(0, 2, 1)
        if (turned[..., 0] != turned[..., 1]).any():
            raise NoGrantError("RotaryEmbedding turns zeros together with what is not zero")
    return d.at((node, 0), masks, depth)


def _gemm(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """As a product of matrices, either of them perhaps transposed; what is added has to be zero, too."""
    ways: list[tuple[Site, Masks]] = []
    for index, mask in ((1, masks[1]), (0, masks[0])):
        flipped = bool(node.attributes.get_int("transB" if index else "transA", 0))
        ways.append(((node, index), (mask, None) if flipped == bool(index) else (None, mask)))
    found = d.first(ways, depth)
    return found + d.at((node, 2), d.broadcast(node, 2, masks), depth) if len(node.inputs) > 2 else found


def _conv(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    if masks[1] is None:
        raise NoGrantError("positions of a convolution")
    rank = len(d.dims.at((node, 1)) or [])
    found = d.at((node, 1), (masks[1], *[None] * (rank - 1)), depth)
    return found + d.at((node, 2), (masks[1],), depth) if len(node.inputs) > 2 else found


def _batch_norm(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """(0 − mean)·scale + shift: mean and shift have to be zero too."""
    if masks[1] is None:
        raise NoGrantError("positions of a normalisation")
    return [
        *d.at((node, 0), masks, depth),
        *d.at((node, 2), (masks[1],), depth),
        *d.at((node, 3), (masks[1],), depth),
    ]


def _dequantize(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """A quantised constant can hold its zero point; of a quantised activation, what was quantised has to be zero."""
    if _is_constant(d, node, 0):
        return d.at((node, 0), masks, depth)
    names = [(v.name if v is not None else None) or "" for v in node.inputs]
    producer = d.dims.network.producer(names[0])
    if producer is None or producer.op_type != "QuantizeLinear":
        raise NoGrantError("it is dequantised, but not quantised by a QuantizeLinear")
    if [(v.name if v is not None else None) or "" for v in producer.inputs][2:] != names[2:]:
        raise NoGrantError("it is dequantised with another zero point than it is quantised with")
    return d.at((producer, 0), masks, depth)


def _quantize(d: Demand, node: ir.Node, output: int, masks: Masks, depth: int) -> list[Grant]:
    """Reached only from the DequantizeLinear that undoes it, where both are computed from constants."""
    if not _is_constant(d, node, 0):
        raise NoGrantError("QuantizeLinear maps zero to its zero point")
    return d.at((node, 0), masks, depth)


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys((*KEEPS_ZERO, "LpNormalization"), _same),
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min", "Mean", "Where"), _every),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), _reduced),
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "Div": _numerator,
    "Expand": _numerator,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _either,
    "Pad": _padded,
    "Pow": _powered,
    "RotaryEmbedding": _rotary,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
}
