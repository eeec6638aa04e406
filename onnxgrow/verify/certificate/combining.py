"""Combined entries behind ops that compute: linear ones keep means and copies, functions of single channels copies."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.axis import IntArray
from onnxgrow.verify.certificate.facts import KEEP_ZERO
from onnxgrow.verify.certificate.question import Handler, Question
from onnxgrow.verify.certificate.side import input_name

__all__ = ["COMBINING"]

_ENTRYWISE = (
    *KEEP_ZERO,
    *("Acos", "Acosh", "Clip", "Cos", "Cosh", "Exp", "HardSigmoid", "Log", "Max", "Min", "PRelu", "Pow", "Reciprocal"),
    *("Sigmoid", "Softplus"),
)
_OVER_AN_AXIS = ("LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Softmax")
"""Ops without parameters in which an entry depends on its own value and on others that it shares with its copies."""


def _same(q: Question) -> bool:
    target = q.node.attributes.get("to")
    if not q.copy and q.node.op_type in ("Cast", "CastLike"):
        whole = target is None or not ir.DataType(target.as_int()).is_floating_point()
        return not whole and q.ask(0, q.axis)
    return q.ask(0, q.axis)


def _sum(q: Question) -> bool:
    return all(q.operand(i) for i in range(len(q.node.inputs)))


def _entrywise(q: Question) -> bool:
    return q.copy and all(q.operand(i) for i in range(len(q.node.inputs)) if q.has(i))


def _quantised(q: Question) -> bool:
    """Entry by entry, with one scale and zero point for all or for each index of an axis."""
    rank, axis = len(q.shape(0)), q.node.attributes.get_int("axis", 1)
    parameters = [i for i in (1, 2) if q.has(i)]
    blocked = q.node.attributes.get_int("block_size", 0) != 0 or any(len(q.shape(i)) > 1 for i in parameters)
    if not q.copy or blocked or not q.ask(0, q.axis):
        return False
    each = [i for i in parameters if prod(q.shape(i)) > 1 and axis % rank == q.axis]
    return all(q.ask(i, 0) for i in each)


def _product(q: Question) -> bool:
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


def _matmul(q: Question) -> bool:
    left, right = len(q.shape(0)), len(q.shape(1))
    if left < 2 or right < 2:
        return False
    if q.axis == q.rank - 1:
        return q.ask(1, right - 1)
    if q.axis == q.rank - 2:
        return q.ask(0, left - 2)
    # Axes in front count products: a copied one multiplies copies.
    return q.copy and q.operand(0) and q.operand(1)


def _gemm(q: Question) -> bool:
    flag = q.node.attributes.get_int("transB" if q.axis else "transA", 0)
    weight = q.ask(1, 0 if flag else 1) if q.axis else q.ask(0, 1 if flag else 0)
    return weight and (not q.has(2) or q.operand(2))


def _conv(q: Question) -> bool:
    """Along the output channels; a copy in another group has copies of that group's inputs."""
    if q.axis != 1:
        return False
    group = q.node.attributes.get_int("group", 1)
    own = q.ask(1, 0) and (not q.has(2) or q.ask(2, 0))
    return own and (group == 1 or (q.copy and _other_groups(q, group, q.out_shape[1], q.shape(0)[1])))


def _conv_transpose(q: Question) -> bool:
    alone = q.axis == 1 and q.node.attributes.get_int("group", 1) == 1
    return alone and q.ask(1, 1) and (not q.has(2) or q.ask(2, 0))


def _other_groups(q: Question, groups: int, outputs: int, inputs: int) -> bool:
    """Whether output channels that copy one of another group read copies of that group's inputs."""
    source = q.pattern.source
    assert source is not None
    size = inputs // groups
    pairs = np.unique(np.stack([q.pattern.new, source]) // (outputs // groups), axis=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    new, old = (_members(of, size) for of in pairs)
    return not new.size or q.ask(0, 1, q.pattern.moved(new, old))


def _members(groups: IntArray, size: int) -> IntArray:
    """The channels of some groups, one after the other."""
    return np.asarray(groups[:, None] * size + np.arange(size, dtype=np.int64)).reshape(-1)


def _einsum(q: Question) -> bool:
    """Copies along a letter of the result: in all operands that have it; a mean, where only one has it."""
    equation = q.node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow or "." in equation or len(right) != q.rank:
        return False
    own = [(i, letters.find(right[q.axis])) for i, letters in enumerate(left.split(",")) if right[q.axis] in letters]
    plain = all(letters.count(right[q.axis]) <= 1 for letters in left.split(","))
    return plain and bool(own) and (q.copy or len(own) == 1) and all(q.ask(i, axis) for i, axis in own)


def _reduce(q: Question) -> bool:
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


def _per_channel(q: Question) -> bool:
    """One-dimensional parameters belong to axis 1; entries of one channel share them, and its statistics."""
    if not q.copy or q.output != 0 or (q.axis != 1 and q.node.op_type != "InstanceNormalization"):
        return False
    parameters = range(1, len(q.node.inputs)) if q.axis == 1 else ()
    return q.ask(0, q.axis) and all(q.ask(i, 0) for i in parameters)


def _per_group(q: Question) -> bool:
    """A copy in another group has copies of that group's channels; parameters are for channels, or for groups."""
    if not q.copy or q.axis != 1:
        return False
    groups, channels = q.node.attributes.get_int("num_groups", 0), q.out_shape[1]
    source = q.pattern.source
    assert source is not None
    if groups < 1 or channels % groups or not q.ask(0, 1) or not _other_groups(q, groups, channels, channels):
        return False
    each = q.side.opsets.get("", 1) >= 21
    size = 1 if each else channels // groups
    parameters = q.pattern.moved(q.pattern.new // size, source // size)
    return all(q.ask(i, 0, parameters) for i in (1, 2))


def _pool(q: Question) -> bool:
    average = q.node.op_type in ("AveragePool", "GlobalAveragePool")
    return q.output == 0 and q.axis < 2 and (q.copy or average) and q.ask(0, q.axis)


def _norm(q: Question) -> bool:
    """Copies of normalised entries; what is normalised over is judged where the old entries are."""
    parameters = (i for i in range(1, len(q.node.inputs)) if q.has(i))
    return q.copy and q.output == 0 and q.ask(0, q.axis) and all(q.operand(i) for i in parameters)


def _norm_of_sum(q: Question) -> bool:
    """Output 3 is the sum; inputs but the first two are vectors over the last axis."""
    scaled = q.node.op_type == "SkipLayerNormalization"
    summed = [i for i in (0, 1, 4 if scaled else 3) if q.has(i)]
    others = [i for i in ((2, 3) if scaled else (2,)) if q.has(i)]
    if q.output == 3:
        return all(q.operand(i) for i in summed)
    return q.copy and q.output == 0 and all(q.operand(i) for i in (*summed, *others))


def _norm_of_embeddings(q: Question) -> bool:
    """Output 2 is the sum; tables have their features last."""
    if q.axis != q.rank - 1:
        return False
    tables = all(q.ask(i, 1) for i in (2, 3, 4) if q.has(i))
    if q.output == 2:
        return tables
    return q.copy and q.output == 0 and tables and all(q.ask(i, 0) for i in (5, 6) if q.has(i))


def _over_an_axis(q: Question) -> bool:
    return q.copy and q.ask(0, q.axis)


COMBINING: Mapping[str, Handler] = {
    **dict.fromkeys(_ENTRYWISE, _entrywise),
    **dict.fromkeys(("Cast", "CastLike", "Identity", "Neg"), _same),
    **dict.fromkeys(("Add", "Mean", "Sub", "Sum"), _sum),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _norm),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduce),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _quantised),
    **dict.fromkeys(("Div", "Mul"), _product),
    **dict.fromkeys(_OVER_AN_AXIS, _over_an_axis),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _per_group,
    "MatMul": _matmul,
    "com.microsoft:EmbedLayerNormalization": _norm_of_embeddings,
    "com.microsoft:SkipLayerNormalization": _norm_of_sum,
    "com.microsoft:SkipSimplifiedLayerNormalization": _norm_of_sum,
}
"""Operator, with its domain where that is not ONNX's → whether what it reads proves what is asked of its output."""
