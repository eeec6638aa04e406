"""Values over what an op reads of a constant, as values over the constant itself: back along its way, op by op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, grown_offset, grown_size
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.ways import SCALES, Step
from onnxgrow.errors import UnsupportedError

__all__ = ["SAME", "PullBack"]

Array = npt.NDArray[Any]

SAME = SCALES | {"Identity", "Cast", "CastLike"}
"""Ops behind which every entry lies where it did."""


class PullBack:
    """Takes arrays backwards through ops on constants, in the sizes after a growth.

    Args:
        analysis: Of the original.
        growth: What grows.
        subject: Name of the constant, for errors.
    """

    def __init__(self, analysis: Analysis, growth: Growth, subject: str) -> None:
        self._dims = analysis.dims
        self._network = analysis.network
        self._growth = growth
        self._subject = subject

    def along(self, values: Array, way: Sequence[Step], missing: Any) -> Array:
        """``values`` over the end of a way, as values over its beginning.

        Args:
            values: Any dtype; an axis of size 1 stands for one of any size with the same values.
            way: Ops from the constant on.
            missing: Value of entries that the way drops.

        Raises:
            UnsupportedError: An op on the way repeats entries.
        """
        for step in reversed(way):
            values = self.through(values, step, missing)
        return values

    def through(self, values: Array, step: Step, missing: Any) -> Array:
        """The same for a single op."""
        node, op_type = step.node, step.node.op_type
        if op_type in SAME:
            return values
        if op_type == "Transpose":
            order = node.attributes.get_ints("perm", ()) or tuple(range(values.ndim))[::-1]
            return values.transpose(np.argsort(order))
        if op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            if values.size == 1:
                return values.reshape([1] * len(self.entering(step)))
            return np.broadcast_to(values, self.leaving(step)).reshape(self.entering(step))
        if op_type == "Concat":
            axis = node.attributes.get_int("axis", 1) % values.ndim
            if values.shape[axis] == 1 != self.leaving(step)[axis]:
                return values
            sizes = [self._sizes((node, i))[axis] for i in range(step.index + 1)]
            return np.take(values, np.arange(sum(sizes[:-1]), sum(sizes)), axis)
        if op_type in ("Slice", "Split"):
            whole = np.full(self.entering(step), missing, values.dtype)
            taken = self._cut(step) if op_type == "Split" else self._slice(step)
            whole[np.ix_(*taken)] = values
            return whole
        raise UnsupportedError(self._subject, f"a weight behind {op_type} cannot be widened")

    def entering(self, step: Step) -> tuple[int, ...]:
        """Grown shape of what an op reads."""
        return self._sizes((step.node, step.index))

    def leaving(self, step: Step) -> tuple[int, ...]:
        """Grown shape of what an op gives."""
        terms = self._dims.values.get(step.node.outputs[step.output].name or "") or []
        return tuple(grown_size(self._dims.forest, t, self._growth) for t in terms)

    def _sizes(self, site: tuple[ir.Node, int]) -> tuple[int, ...]:
        return tuple(grown_size(self._dims.forest, t, self._growth) for t in self._dims.at(site) or [])

    def _cut(self, step: Step) -> list[Array]:
        """The indices of each axis that one output of a Split has."""
        taken = [np.arange(n) for n in self.entering(step)]
        axis = step.node.attributes.get_int("axis", 0) % len(taken)
        before = [self.leaving(Step(step.node, 0, k))[axis] for k in range(step.output + 1)]
        taken[axis] = np.arange(sum(before[:-1]), sum(before))
        return taken

    def _slice(self, step: Step) -> list[Array]:
        """The indices of each axis that a Slice takes."""
        terms = self._dims.at((step.node, 0)) or []
        taken = [np.arange(n) for n in self.entering(step)]
        starts, ends = self._ints(step.node, "starts", 1), self._ints(step.node, "ends", 2)
        axes, steps = self._ints(step.node, "axes", 3), self._ints(step.node, "steps", 4)
        if starts is None or ends is None:
            raise UnsupportedError(self._subject, "a weight behind a Slice without known bounds cannot be widened")
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            axis = (axes[i] if axes is not None else i) % len(terms)
            term = terms[axis]
            stride = steps[i] if steps is not None else 1
            first, last, _ = slice(start, end, stride).indices(term.size)
            low = grown_offset(self._dims.forest, term, first, self._growth) if stride == 1 else None
            high = grown_offset(self._dims.forest, term, last, self._growth) if stride == 1 else None
            # A strided axis, or one that is cut apart, is frozen: its old bounds hold.
            taken[axis] = np.arange(first, last, stride) if low is None or high is None else np.arange(low, high)
        return taken

    def _ints(self, node: ir.Node, name: str, index: int) -> list[int] | None:
        given = node.attributes.get(name)
        if given is not None:
            return list(given.as_ints())
        value = node.inputs[index] if index < len(node.inputs) else None
        known = self._network.concrete.values.get((value.name if value is not None else None) or "")
        return None if known is None else [int(v) for v in np.asarray(known).reshape(-1)]
