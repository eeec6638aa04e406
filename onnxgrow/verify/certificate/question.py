"""A question about combined entries: do the new ones that a node gives combine the old ones as a pattern says?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.patterns import Pattern
from onnxgrow.verify.certificate.side import Side, input_name, output_names

__all__ = ["Handler", "Question"]


@dataclass(frozen=True)
class Question:
    """The question at one node."""

    side: Side
    holds: Callable[[str, int, Pattern, int], bool]
    node: ir.Node
    output: int
    axis: int
    pattern: Pattern
    depth: int

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
        return self.holds(input_name(self.node, index), axis, pattern or self.pattern, self.depth)

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


Handler = Callable[[Question], bool]
"""Whether what a node reads proves what is asked of its output; False says nothing."""
