"""How a value is stored, where a constant is scaled or quantised on its way to the op that uses it.

The ops on the way map each entry for itself, v = stored · scale + offset. A hard zero is then the zero point, and a
value that is drawn for the op has to be divided by the scale, and rounded where integers are stored.
Spec: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.ways import QUANTISED, SCALES, Step
from onnxgrow.errors import UnsupportedError
from onnxgrow.init import cast
from onnxgrow.passes.pull_back import PullBack
from onnxgrow.passes.regions import Region
from onnxgrow.passes.roles import Role

__all__ = ["Stored", "is_plain", "stored_form"]

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

PLAIN = frozenset((ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE))


def is_plain(dtype: ir.DataType) -> bool:
    """Whether new values can be had in a type as they are: the floating-point types of two bytes and more."""
    return dtype in PLAIN


@dataclass(frozen=True)
class Stored:
    """v is stored as v · ``factor`` + ``offset``, rounded and within the range of the type.

    Attributes:
        factor, offset: float64, an axis for each of the constant's; an axis of size 1 stands for all of it.
        dtype: Of what is stored.
    """

    factor: Float64
    offset: Float64
    dtype: np.dtype[Any]

    def zero(self, region: Region) -> Array:
        """What stands for zero in a region; axes that do not matter may have size 1."""
        return self._rounded(_part(self.offset, region))

    def store(self, values: Float64, region: Region) -> Array:
        """What stands for values of a region."""
        return self._rounded(values * _part(self.factor, region) + _part(self.offset, region))

    def _rounded(self, values: Float64) -> Array:
        kind = ir.DataType.from_numpy(self.dtype)
        if is_plain(kind):
            return cast(values, self.dtype)
        if kind.is_integer():
            # Rounded first: a conversion from float would cut the fraction off.
            return np.clip(np.rint(values), int(kind.min), int(kind.max)).astype(np.int64).astype(self.dtype)
        largest = float(kind.max)
        return np.clip(values, -largest, largest).astype(np.float32).astype(self.dtype)


def _part(values: Float64, region: Region) -> Float64:
    return values[tuple(slice(None) if n == 1 else s for n, s in zip(values.shape, region.slices, strict=True))]


def stored_form(
    analysis: Analysis,
    growth: Growth,
    role: Role,
    dtype: np.dtype[Any],
    subject: str,
    picks: Callable[[Term], Array] | None = None,
) -> Stored | None:
    """How values of one use are stored; None where they are stored as they are.

    Args:
        analysis: Of the original.
        growth: What grows.
        role: The use.
        dtype: Of the constant.
        subject: Its name, for errors.
        picks: Term → old index that each new index of an axis repeats, where new channels are copies.
    """
    if is_plain(ir.DataType.from_numpy(dtype)) and not any(step.node.op_type in SCALES for step in role.way):
        return None
    back = PullBack(analysis, growth, subject)
    terms = analysis.dims.at(role.site) or []
    factor: Float64 = np.ones([1] * len(terms))
    offset: Float64 = np.zeros([1] * len(terms))
    for step in reversed(role.way):
        if step.node.op_type in SCALES:
            scale, zero_point = _parameters(analysis, growth, step, subject, picks)
            with np.errstate(divide="ignore", invalid="ignore"):
                if step.node.op_type in ("Mul", "DequantizeLinear"):
                    factor, offset = (np.where(scale == 0, 0.0, v / scale) for v in (factor, offset))
                    offset = offset + zero_point
                else:
                    factor, offset = factor * scale, (offset - zero_point) * scale
        factor, offset = (back.through(v, step, missing) for v, missing in ((factor, 1.0), (offset, 0.0)))
    return Stored(factor, offset, dtype)


def _parameters(
    analysis: Analysis, growth: Growth, step: Step, subject: str, picks: Callable[[Term], Array] | None
) -> tuple[Float64, Float64]:
    """Scale and zero point of an op, grown, laid along the axes of its data."""
    node = step.node
    rank = len(analysis.dims.at((node, step.index)) or [])
    if node.op_type not in QUANTISED:
        scale = _grown(analysis, growth, (node, 1 - step.index), subject, picks)
        return scale.reshape([1] * (rank - scale.ndim) + list(scale.shape)), np.zeros([1] * rank)
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    parts = [_grown(analysis, growth, (node, i), subject, picks) for i in ((1, 2) if given else (1,))]
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    laid = []
    for part in parts:
        if part.size == 1:
            laid.append(part.reshape([1] * rank))
        elif block:
            laid.append(np.repeat(part, block, axis % rank))
        else:
            laid.append(part.reshape([-1 if a == axis % rank else 1 for a in range(rank)]))
    return laid[0], laid[1] if given else np.zeros([1] * rank)


def _grown(
    analysis: Analysis,
    growth: Growth,
    site: tuple[ir.Node, int],
    subject: str,
    picks: Callable[[Term], Array] | None,
) -> Float64:
    """A parameter as it will be: new entries repeat the first one, or the one that a copy takes."""
    value = site[0].inputs[site[1]]
    name = (value.name if value is not None else None) or ""
    tensor = analysis.network.tensors.get(name)
    known = tensor.numpy() if tensor is not None else analysis.network.concrete.values.get(name)
    if known is None:
        raise UnsupportedError(subject, f"the scale {name} of this weight is not known")
    values = np.asarray(known).astype(np.float64)
    for axis, term in enumerate(analysis.dims.at(site) or []):
        source = picks(term) if picks is not None else np.maximum(layout(analysis.dims.forest, term, growth), 0)
        if source.size != values.shape[axis] or not np.array_equal(source, np.arange(source.size)):
            values = np.take(values, source, axis)
    return values
