"""Zeros that no slab can express: is a value zero in a box, judged from the constants behind it?

Forward facts are kept per axis. Where one fused weight makes queries, keys and values, only the queries' part of the
new head size is zero: a box over two axes. Such a question is answered backwards on the result alone: through ops that
keep zeros to constants, whose entries are read. All arithmetic is on finite values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.axis import IntArray
from onnxgrow.verify.certificate.compare import Tally, nonzero
from onnxgrow.verify.certificate.facts import KEEP_ZERO
from onnxgrow.verify.certificate.pairs import turned
from onnxgrow.verify.certificate.side import Side, input_name, output_names
from onnxgrow.verify.certificate.state import ProofError

__all__ = ["Box", "is_zero"]

Box = tuple[IntArray | None, ...]
"""Per axis the indices meant, None for all."""

_DEPTH = 300

_NO_ZERO = frozenset((ir.DataType.UNDEFINED, ir.DataType.STRING, ir.DataType.FLOAT8E8M0))
"""Types in which there is no number zero."""


def is_zero(side: Side, name: str, box: Box, tally: Tally, depth: int = 0) -> bool:
    """Whether a value of the model is exactly zero (of either sign) at every combination of the box's indices.

    Args:
        side: The result, with its concrete shapes.
        name: The value.
        box: One entry per axis.
        tally: Takes the number of constant entries found zero.
        depth: Ops passed so far.

    Returns:
        True only when it is proved; False says nothing.
    """
    shape = side.shape(name)
    if not name or shape is None or len(shape) != len(box) or depth > _DEPTH:
        return False
    if any(indices is not None and not indices.size for indices in box) or 0 in shape:
        return True
    reader = side.reader(name)
    if reader is not None:
        keep = {
            k: np.arange(n, dtype=np.int64) if b is None else b for k, (b, n) in enumerate(zip(box, shape, strict=True))
        }
        return not bool(np.any(reader.read(()) != 0)) if not shape else not nonzero(reader, keep, tally).any()
    entry = side.producer.get(name)
    if entry is None or side.is_function(entry[0]):
        return False
    domain = side.domain(entry[0])
    handler = _HANDLERS.get(f"{domain}:{entry[0].op_type}" if domain else entry[0].op_type)
    return handler is not None and handler(_Question(side, entry[0], entry[1], box, tally, depth + 1))


class _Question:
    """The question at one node: is this output zero in this box?"""

    def __init__(self, side: Side, node: ir.Node, output: int, box: Box, tally: Tally, depth: int) -> None:
        self.side, self.node, self.output, self.box = side, node, output, box
        self._tally, self._depth = tally, depth

    def ask(self, index: int, box: Sequence[IntArray | None]) -> bool:
        """The same of an input; an absent input is no obstacle."""
        name = input_name(self.node, index)
        return not name or is_zero(self.side, name, tuple(box), self._tally, self._depth)

    def shape(self, index: int) -> tuple[int, ...]:
        return self.side.shape(input_name(self.node, index)) or ()

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.side.shape(output_names(self.node)[self.output]) or ()

    def broadcast(self, index: int) -> list[IntArray | None]:
        """The box as an operand of an elementwise op sees it."""
        shape = self.shape(index)
        tail = self.box[len(self.box) - len(shape) :]
        return [None if n == 1 else b for n, b in zip(shape, tail, strict=True)]

    def ints(self, name: str, index: int) -> list[int] | None:
        """Integers of an attribute or of a known input; None when not given. Raises LookupError when computed."""
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return list(attribute.as_ints())
        operand = input_name(self.node, index)
        if not operand:
            return None
        value = self.side.value(operand)
        if value is None:
            raise LookupError(name)
        return [int(v) for v in np.asarray(value).reshape(-1)]

    def int_attribute(self, name: str, default: int) -> int:
        return self.node.attributes.get_int(name, default)


def _same(q: _Question) -> bool:
    return q.ask(0, q.box)


def _cast(q: _Question) -> bool:
    return q.int_attribute("to", 0) not in _NO_ZERO and _same(q)


def _every(q: _Question) -> bool:
    return all(q.ask(i, q.broadcast(i)) for i in range(len(q.node.inputs)))


def _choice(q: _Question) -> bool:
    return q.ask(1, q.broadcast(1)) and q.ask(2, q.broadcast(2))


def _any(q: _Question) -> bool:
    return any(bool(input_name(q.node, i)) and q.ask(i, q.broadcast(i)) for i in range(len(q.node.inputs)))


def _first(q: _Question) -> bool:
    return q.ask(0, q.broadcast(0))


def _powered(q: _Question) -> bool:
    power = q.side.value(input_name(q.node, 1))
    return power is not None and bool(np.all(power.astype(np.float64) > 0)) and q.ask(0, q.broadcast(0))


def _padded(q: _Question) -> bool:
    """With zeros, or along other axes than those asked about with what lies there."""
    shape = q.shape(0)
    whole = all(b is None or n == m for b, n, m in zip(q.box, shape, q.out_shape, strict=True))
    constant = q.node.attributes.get_string("mode", "constant") == "constant"
    value = q.side.value(input_name(q.node, 2)) if len(q.node.inputs) > 2 and q.node.inputs[2] is not None else 0
    zero = value is not None and not np.any(np.asarray(value) != 0) and not q.node.attributes.get_float("value", 0.0)
    return whole and (zero or not constant) and q.ask(0, q.box)


def _transpose(q: _Question) -> bool:
    order = q.node.attributes.get_ints("perm", ()) or tuple(range(len(q.box)))[::-1]
    back: list[IntArray | None] = [None] * len(q.box)
    for k, axis in enumerate(order):
        back[axis] = q.box[k]
    return q.ask(0, back)


def _reshape(q: _Question) -> bool:
    """Block by block of equal products; in a block the entries asked for must again be a box."""
    ins, outs = q.shape(0), q.out_shape
    back: list[IntArray | None] = [None] * len(ins)
    i = j = 0
    while i < len(ins) or j < len(outs):
        i0, j0, a, b = i, j, 1, 1
        if i < len(ins):
            a, i = ins[i], i + 1
        if j < len(outs):
            b, j = outs[j], j + 1
        while a != b:
            if a < b and i < len(ins):
                a, i = a * ins[i], i + 1
            elif b < a and j < len(outs):
                b, j = b * outs[j], j + 1
            else:
                return False
        if all(q.box[k] is None for k in range(j0, j)):
            continue
        whole = np.zeros(outs[j0:j], np.bool_)
        whole[np.ix_(*(np.arange(outs[k]) if q.box[k] is None else q.box[k] for k in range(j0, j)))] = True
        whole = whole.reshape(ins[i0:i])
        parts = [np.flatnonzero(whole.any(axis=tuple(m for m in range(i - i0) if m != k))) for k in range(i - i0)]
        if int(np.count_nonzero(whole)) != int(np.prod([p.size for p in parts], dtype=np.int64)):
            return False
        for k, part in enumerate(parts):
            back[i0 + k] = None if part.size == ins[i0 + k] else part.astype(np.int64)
    return q.ask(0, back)


def _tile(q: _Question) -> bool:
    shape = q.shape(0)
    if len(shape) != len(q.box) or 0 in shape:
        return False
    return q.ask(0, [None if b is None else np.unique(b % n) for b, n in zip(q.box, shape, strict=True)])


def _concat(q: _Question) -> bool:
    axis = q.int_attribute("axis", 1) % len(q.box)
    along = q.box[axis]
    offset = 0
    for i in range(len(q.node.inputs)):
        size = q.shape(i)[axis]
        mine = list(q.box)
        if along is not None:
            mine[axis] = along[(along >= offset) & (along < offset + size)] - offset
        if not q.ask(i, mine):
            return False
        offset += size
    return True


def _split(q: _Question) -> bool:
    axis = q.int_attribute("axis", 0) % len(q.box)
    names = output_names(q.node)
    sizes = [(q.side.shape(name) or ())[axis] for name in names[: q.output + 1]]
    return _shifted(q, {axis: np.arange(sizes[-1], dtype=np.int64) + sum(sizes[:-1])})


def _slice(q: _Question) -> bool:
    shape = q.shape(0)
    try:
        starts, ends = q.ints("starts", 1), q.ints("ends", 2)
        axes, steps = q.ints("axes", 3), q.ints("steps", 4)
    except LookupError:
        return False
    if starts is None or ends is None:
        return False
    taken: dict[int, IntArray] = {}
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[i] if axes is not None else i) % len(shape)
        window = slice(start, end, steps[i] if steps is not None else 1)
        taken[axis] = np.arange(*window.indices(shape[axis]), dtype=np.int64)
    return _shifted(q, taken)


def _shifted(q: _Question, taken: dict[int, IntArray]) -> bool:
    """Where output index k of an axis is input index ``taken[axis][k]``."""
    back = list(q.box)
    for axis, indices in taken.items():
        if indices.size != q.out_shape[axis]:
            return False
        along = q.box[axis]
        back[axis] = indices if along is None else indices[along]
    return q.ask(0, back)


def _gather(q: _Question) -> bool:
    shape = q.shape(0)
    axis = q.int_attribute("axis", 0) % len(shape)
    rank = len(q.shape(1))
    index = q.side.value(input_name(q.node, 1))
    looked: IntArray | None = None
    if index is not None and rank <= 1:
        flat = np.asarray(index, np.int64).reshape(-1) % shape[axis]
        along = q.box[axis] if rank else None
        looked = flat if along is None else flat[along]
    return q.ask(0, (*q.box[:axis], looked, *q.box[axis + rank :]))


def _gather_nd(q: _Question) -> bool:
    """Behind the axes that are looked up, wherever those are read."""
    given = len(q.shape(1)) - 1
    looked = q.int_attribute("batch_dims", 0) + q.shape(1)[-1]
    return q.ask(0, (*[None] * looked, *q.box[given:]))


def _reduced(q: _Question) -> bool:
    """Of what is zero all along the axes that it runs over."""
    rank, keep = len(q.shape(0)), q.int_attribute("keepdims", 1)
    try:
        given = q.ints("axes", 1)
    except LookupError:
        return False
    if not given and q.int_attribute("noop_with_empty_axes", 0):
        return q.ask(0, q.box)
    axes = {a % rank for a in given or range(rank)}
    left = iter(b for a, b in enumerate(q.box) if not (keep and a in axes))
    return q.ask(0, [None if a in axes else next(left) for a in range(rank)])


def _rotary(q: _Question) -> bool:
    """A pair of zeros stays zero when it is turned."""
    along = q.box[-1]
    if along is None:
        return q.ask(0, q.box)
    try:
        partner = turned(q.side, q.node).partner
    except ProofError:
        return False
    return q.ask(0, [*q.box[:-1], np.union1d(along, partner[along]).astype(np.int64)])


def _matmul(q: _Question) -> bool:
    left, right = q.shape(0), q.shape(1)
    if len(left) < 2 or len(right) < 2:
        return False
    if q.box[-1] is not None and q.ask(1, [*[None] * (len(right) - 1), q.box[-1]]):
        return True
    return q.box[-2] is not None and q.ask(0, [*[None] * (len(left) - 2), q.box[-2], None])


def _gemm(q: _Question) -> bool:
    """As a product of matrices, either of them perhaps transposed; what is added has to be zero, too."""
    columns = [q.box[1], None] if q.int_attribute("transB", 0) else [None, q.box[1]]
    rows = [None, q.box[0]] if q.int_attribute("transA", 0) else [q.box[0], None]
    zero = (q.box[1] is not None and q.ask(1, columns)) or (q.box[0] is not None and q.ask(0, rows))
    return zero and (not input_name(q.node, 2) or q.ask(2, q.broadcast(2)))


def _conv(q: _Question) -> bool:
    weight = [q.box[1], *[None] * (len(q.shape(1)) - 1)]
    return q.box[1] is not None and q.ask(1, weight) and q.ask(2, [q.box[1]])


def _dequantize(q: _Question) -> bool:
    """What was quantised with the same zero point is asked for: that zero becomes the zero point and back."""
    entry = q.side.producer.get(input_name(q.node, 0))
    if entry is None or entry[0].op_type != "QuantizeLinear" or q.side.domain(entry[0]) or q.side.is_function(entry[0]):
        return False
    if input_name(entry[0], 2) != input_name(q.node, 2):
        return False
    return is_zero(q.side, input_name(entry[0], 0), q.box, q._tally, q._depth)


_HANDLERS: dict[str, Callable[[_Question], bool]] = {
    **dict.fromkeys((*KEEP_ZERO, "Identity", "LpNormalization"), _same),
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min", "Mean"), _every),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), _reduced),
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _first,
    "Expand": _first,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _any,
    "Pad": _padded,
    "Pow": _powered,
    "RotaryEmbedding": _rotary,
    "com.microsoft:RotaryEmbedding": _rotary,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Where": _choice,
}
