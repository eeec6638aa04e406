"""New entries that combine the old ones along one axis: judged backwards from the constants, on the result alone.

``mean``: every new entry is the mean of the old ones (or, in front of a layer's own scale, their weighted mean);
``copy``: it equals one of them. Ops that work entry by entry along the axis, or are linear in what they read, pass
such a fact on; constants are compared number by number (:mod:`onnxgrow.verify.certificate.patterns`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.facts import KEEP_ZERO
from onnxgrow.verify.certificate.patterns import Pattern, follows
from onnxgrow.verify.certificate.side import Side, input_name, output_names

__all__ = ["Combinations"]

_DEPTH = 400

_SAME = ("Cast", "CastLike", "Identity", "Neg")
_SUMS = ("Add", "Mean", "Sub", "Sum")
_ENTRYWISE = (
    *KEEP_ZERO,
    *("Acos", "Acosh", "Clip", "Cos", "Cosh", "Exp", "HardSigmoid", "Log", "Max", "Min", "PRelu", "Pow", "Reciprocal"),
    *("Sigmoid", "Softplus"),
)
_PER_CHANNEL = ("BatchNormalization", "InstanceNormalization")
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


class Combinations:
    """Answers questions about one model, each once."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._known: dict[tuple[str, int, tuple[bytes, ...]], bool] = {}

    def holds(self, name: str, axis: int, pattern: Pattern, depth: int = 0) -> bool:
        """Whether the new entries of a value along ``axis`` combine its old ones as the pattern says.

        Returns:
            True only when it is proved; False says nothing.
        """
        shape = self.side.shape(name)
        if not name or shape is None or not 0 <= axis < len(shape) or depth > _DEPTH:
            return False
        if shape[axis] != pattern.new.size + pattern.old.size:
            return False
        key = (name, axis, pattern.key)
        if key not in self._known:
            reader = self.side.reader(name)
            # A value that is made of constants alone is rounded, too: its ops may prove what its numbers do not show.
            stored = reader is not None and follows(reader, axis, pattern)
            self._known[key] = stored or self._computed(name, axis, pattern, depth)
        return self._known[key]

    def _computed(self, name: str, axis: int, pattern: Pattern, depth: int) -> bool:
        entry = self.side.producer.get(name)
        if entry is None or self.side.is_function(entry[0]):
            return False
        domain = self.side.domain(entry[0])
        handler = _HANDLERS.get(f"{domain}:{entry[0].op_type}" if domain else entry[0].op_type)
        return handler is not None and handler(_Question(self, entry[0], entry[1], axis, pattern, depth + 1))


@dataclass(frozen=True)
class _Question:
    """The question at one node."""

    asked: Combinations
    node: ir.Node
    output: int
    axis: int
    pattern: Pattern
    depth: int

    @property
    def side(self) -> Side:
        return self.asked.side

    @property
    def rank(self) -> int:
        return len(self.out_shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.side.shape(output_names(self.node)[self.output]) or ()

    @property
    def copy(self) -> bool:
        return self.pattern.source is not None

    def shape(self, index: int) -> tuple[int, ...]:
        return self.side.shape(input_name(self.node, index)) or ()

    def has(self, index: int) -> bool:
        return bool(input_name(self.node, index))

    def ask(self, index: int, axis: int, pattern: Pattern | None = None) -> bool:
        """The same of an input."""
        return self.asked.holds(input_name(self.node, index), axis, pattern or self.pattern, self.depth)

    def operand_axis(self, index: int) -> int | None:
        """The axis of a broadcast operand that lies under the axis asked for; None where the operand has one entry."""
        shape = self.shape(index)
        own = self.axis - (self.rank - len(shape))
        return own if own >= 0 and shape[own] != 1 else None

    def operand(self, index: int) -> bool:
        """The same of a broadcast operand. One entry for all is the mean of itself, but no weighted one."""
        own = self.operand_axis(index)
        if own is None:
            return self.side.shape(input_name(self.node, index)) is not None and self.pattern.weights is None
        return self.ask(index, own)

    def ints(self, name: str, index: int) -> list[int] | None:
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return list(attribute.as_ints())
        value = self.side.value(input_name(self.node, index)) if self.has(index) else None
        return None if value is None else [int(v) for v in np.asarray(value).reshape(-1)]


def _same(q: _Question) -> bool:
    target = q.node.attributes.get("to")
    if not q.copy and q.node.op_type in ("Cast", "CastLike"):
        whole = target is None or not ir.DataType(target.as_int()).is_floating_point()
        return not whole and q.ask(0, q.axis)
    return q.ask(0, q.axis)


def _sum(q: _Question) -> bool:
    return all(q.operand(i) for i in range(len(q.node.inputs)))


def _entrywise(q: _Question) -> bool:
    return q.copy and all(q.operand(i) for i in range(len(q.node.inputs)) if q.has(i))


def _product(q: _Question) -> bool:
    """One operand alike along the axis, the other combined; or a constant that weighs the other one's entries."""
    own = [q.operand_axis(i) for i in range(2)]
    if q.node.op_type == "Div" and own[1] is not None and not q.copy:
        return False
    if own[0] is None or own[1] is None:
        index = 0 if own[1] is None else 1
        axis = own[index]
        return axis is not None and q.ask(index, axis)
    if q.copy and q.ask(0, own[0]) and q.ask(1, own[1]):
        return True
    for index in range(2):
        reader, axis, other = q.side.reader(input_name(q.node, index)), own[index], own[1 - index]
        assert axis is not None
        assert other is not None
        if reader is None or prod(reader.shape) != reader.shape[axis] or q.node.op_type != "Mul":
            continue
        factors = reader.read([slice(0, n) for n in reader.shape]).astype(np.float64).reshape(-1)
        pattern = q.pattern.reweighed(factors)
        if pattern is not None and q.ask(1 - index, other, pattern):
            return True
    return False


def _matmul(q: _Question) -> bool:
    left, right = len(q.shape(0)), len(q.shape(1))
    if left < 2 or right < 2:
        return False
    if q.axis == q.rank - 1:
        return q.ask(1, right - 1)
    return q.axis == q.rank - 2 and q.ask(0, left - 2)


def _gemm(q: _Question) -> bool:
    flag = q.node.attributes.get_int("transB" if q.axis else "transA", 0)
    weight = q.ask(1, 0 if flag else 1) if q.axis else q.ask(0, 1 if flag else 0)
    return weight and (not q.has(2) or q.operand(2))


def _conv(q: _Question) -> bool:
    """Along the output channels; a depthwise one passes copies on."""
    if q.axis != 1:
        return False
    group = q.node.attributes.get_int("group", 1)
    if group != 1 and not (q.copy and group == q.shape(0)[1] == q.out_shape[1] and q.ask(0, 1)):
        return False
    return q.ask(1, 0) and (not q.has(2) or q.ask(2, 0))


def _gather(q: _Question) -> bool:
    looked = q.node.attributes.get_int("axis", 0) % len(q.shape(0))
    indices = len(q.shape(1))
    if looked <= q.axis < looked + indices:
        return False
    return q.ask(0, q.axis if q.axis < looked else q.axis - indices + 1)


def _transpose(q: _Question) -> bool:
    order = q.node.attributes.get_ints("perm", ()) or tuple(range(q.rank))[::-1]
    return q.ask(0, order[q.axis])


def _reshape(q: _Question) -> bool:
    """The axis must be one of the input's, as a whole."""
    ins, outs = q.shape(0), q.out_shape
    before, size = prod(outs[: q.axis]), outs[q.axis]
    if prod(ins) != prod(outs) or 0 in outs:
        return False
    return any(prod(ins[:k]) == before and n == size and q.ask(0, k) for k, n in enumerate(ins))


def _expand(q: _Question) -> bool:
    own = q.operand_axis(0)
    return own is not None and q.ask(0, own)


def _tile(q: _Question) -> bool:
    """Along an axis that keeps its size nothing is repeated."""
    shape = q.shape(0)
    return len(shape) == q.rank and shape[q.axis] == q.out_shape[q.axis] and q.ask(0, q.axis)


def _concat(q: _Question) -> bool:
    along = q.node.attributes.get_int("axis", 1) % q.rank
    return along != q.axis and all(q.ask(i, q.axis) for i in range(len(q.node.inputs)))


def _split(q: _Question) -> bool:
    return q.node.attributes.get_int("axis", 0) % q.rank != q.axis and q.ask(0, q.axis)


def _slice(q: _Question) -> bool:
    starts, axes = q.ints("starts", 1), q.ints("axes", 3)
    if starts is None:
        return False
    cut = {a % q.rank for a in (axes if axes is not None else range(len(starts)))}
    return q.axis not in cut and (axes is not None or not q.has(3)) and q.ask(0, q.axis)


def _where(q: _Question) -> bool:
    condition = q.operand_axis(0)
    return (condition is None or (q.copy and q.ask(0, condition))) and q.operand(1) and q.operand(2)


def _reduce(q: _Question) -> bool:
    """Over other axes than the one asked for: linear ones keep means, all keep copies."""
    if not q.copy and q.node.op_type not in ("ReduceMean", "ReduceSum"):
        return False
    axes, rank = q.ints("axes", 1), len(q.shape(0))
    if not axes:
        return False
    reduced = {a % rank for a in axes}
    keep = q.node.attributes.get_int("keepdims", 1)
    kept = [k for k in range(rank) if keep or k not in reduced]
    own = kept[q.axis] if q.axis < len(kept) else -1
    return own not in reduced and q.ask(0, own)


def _resize(q: _Question) -> bool:
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


def _per_channel(q: _Question) -> bool:
    return q.copy and q.axis == 1 and q.ask(0, 1) and all(q.ask(i, 0) for i in range(1, len(q.node.inputs)))


def _pool(q: _Question) -> bool:
    average = q.node.op_type in ("AveragePool", "GlobalAveragePool")
    return q.output == 0 and q.axis < 2 and (q.copy or average) and q.ask(0, q.axis)


def _norm(q: _Question) -> bool:
    """Copies of normalised entries; what is normalised over is judged where the old entries are."""
    parameters = (i for i in range(1, len(q.node.inputs)) if q.has(i))
    return q.copy and q.output == 0 and q.ask(0, q.axis) and all(q.operand(i) for i in parameters)


def _norm_of_sum(q: _Question) -> bool:
    """Output 3 is the sum; inputs but the first two are vectors over the last axis."""
    scaled = q.node.op_type == "SkipLayerNormalization"
    summed = [i for i in (0, 1, 4 if scaled else 3) if q.has(i)]
    others = [i for i in ((2, 3) if scaled else (2,)) if q.has(i)]
    if q.output == 3:
        return all(q.operand(i) for i in summed)
    return q.copy and q.output == 0 and all(q.operand(i) for i in (*summed, *others))


def _norm_of_embeddings(q: _Question) -> bool:
    """Output 2 is the sum; tables have their features last."""
    if q.axis != q.rank - 1:
        return False
    tables = all(q.ask(i, 1) for i in (2, 3, 4) if q.has(i))
    if q.output == 2:
        return tables
    return q.copy and q.output == 0 and tables and all(q.ask(i, 0) for i in (5, 6) if q.has(i))


def _unit_length(q: _Question) -> bool:
    return q.copy and q.ask(0, q.axis)


_HANDLERS: dict[str, Callable[[_Question], bool]] = {
    **dict.fromkeys(_ENTRYWISE, _entrywise),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_PER_CHANNEL, _per_channel),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduce),
    "Concat": _concat,
    "Conv": _conv,
    "Div": _product,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "LpNormalization": _unit_length,
    "MatMul": _matmul,
    "Mul": _product,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Where": _where,
    "com.microsoft:EmbedLayerNormalization": _norm_of_embeddings,
    "com.microsoft:SkipLayerNormalization": _norm_of_sum,
    "com.microsoft:SkipSimplifiedLayerNormalization": _norm_of_sum,
}
