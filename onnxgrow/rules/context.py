"""What a rule sees of one node, and what it may say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Forest, Growth, Term, grown_size, grows, unify

__all__ = [
    "Contraction",
    "Declarations",
    "LinearUse",
    "NodeContext",
    "Operand",
    "Place",
    "Reason",
    "Statistic",
    "Terms",
]

Terms = list[Term]
IntArray = npt.NDArray[Any]
AttributeUpdate = Callable[[Growth], Any]
Operand = Callable[[Growth, "IntArray | None"], "IntArray | None"]


@dataclass(frozen=True)
class Reason:
    """Why an axis cannot grow: the node that forbids it, the axis of its tensor there, and the cause."""

    node: str
    axis: int | None
    why: str

    def __str__(self) -> str:
        place = f"{self.node}, axis {self.axis}" if self.axis is not None else self.node
        return f"{self.why} ({place})"


@dataclass(frozen=True)
class LinearUse:
    """One use of a weight by a linear op.

    Attributes:
        node: The node that reads the weight.
        index: Which of its inputs the weight is.
        out_axes: Axes of the weight that make output channels.
        in_axes: Axes of the weight that are summed over with the data's channels.
        data: Index of the input that the weight is contracted with; −1 for a table look-up.
    """

    node: ir.Node
    index: int
    out_axes: tuple[int, ...]
    in_axes: tuple[int, ...]
    data: int


@dataclass(frozen=True)
class Place:
    """Where an operand of a product lies in an input: an axis, or one of the parts that an axis joins.

    Attributes:
        index, axis: Which axis of which input.
        before: Terms of the parts in front of it.
        part: Term of the part; None for the whole axis.
    """

    index: int
    axis: int
    before: tuple[Term, ...] = ()
    part: Term | None = None


@dataclass(frozen=True)
class Contraction:
    """Two computed operands that are multiplied and summed over an axis.

    Attributes:
        operands: The two; each is zero where all of its places are (a projection and its bias, both inside the op).
        over: The innermost factor of the axis, where only that is summed over; None for all of the axis.
    """

    operands: tuple[tuple[Place, ...], tuple[Place, ...]]
    over: Term | None = None


@dataclass(frozen=True)
class Statistic:
    """An axis of an input that statistics are taken over.

    Attributes:
        index, axis: Which axis of which input.
        why: Why it cannot simply grow.
        over: The part of the axis that they are taken over, the others for themselves; None for all of it.
    """

    index: int
    axis: int
    why: str
    over: Term | None = None


@dataclass
class Declarations:
    """What a node's rule said beside the ties: how its parts are rebuilt when axes grow.

    Attributes:
        linears: Its weights.
        contractions: Products of computed values that are summed over.
        fills: Input index → value of new entries of a constant operand that is no weight.
        attributes: Attribute name → its new value (None: remove it), given the growth.
        operands: Input index → wanted integer operand, given the growth and the operand's value without a change
            (None: the input is absent, or its value is not known); returns None or an equal array to leave it.
        statistics: Axes that statistics are taken over.
    """

    linears: list[LinearUse] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    fills: dict[int, float] = field(default_factory=dict)
    attributes: dict[str, AttributeUpdate] = field(default_factory=dict)
    operands: dict[int, Operand] = field(default_factory=dict)
    statistics: list[Statistic] = field(default_factory=list)


class NodeContext:
    """One node with the terms of its inputs, for a rule to tie and to declare on.

    Attributes:
        node: The node.
        version: Opset version of its domain in the model.
        inputs: Terms of every input, one per axis; None for an absent input.
        in_shapes, out_shapes: Concrete shapes; None for an absent input or output.
        forest: The forest of all terms.
        said: What the rule declared.
    """

    def __init__(
        self,
        node: ir.Node,
        version: int,
        forest: Forest,
        inputs: Sequence[Terms | None],
        in_shapes: Sequence[tuple[int, ...] | None],
        out_shapes: Sequence[tuple[int, ...] | None],
        constant: Callable[[int], IntArray | None],
        is_constant: Callable[[int], bool],
    ) -> None:
        self.node = node
        self.version = version
        self.forest = forest
        self.inputs = list(inputs)
        self.in_shapes = list(in_shapes)
        self.out_shapes = list(out_shapes)
        self.said = Declarations()
        self._constant = constant
        self._is_constant = is_constant

    @property
    def label(self) -> str:
        """How messages call the node: its operator and its name, or its first output where it has none."""
        name = self.node.name or next((o.name for o in self.node.outputs if o.name), "") or ""
        return f"{self.node.op_type} {name}"

    # ---- reading

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, ``default`` when the node does not have it."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.type == ir.AttributeType.STRING:
            return attribute.as_string()
        return attribute.value

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def terms(self, index: int) -> Terms:
        """Terms of a required input."""
        terms = self.inputs[index] if index < len(self.inputs) else None
        if terms is None:
            raise Unsuitable(f"input {index} is missing")
        return terms

    def shape(self, index: int) -> tuple[int, ...]:
        """Concrete shape of a required input."""
        shape = self.in_shapes[index] if index < len(self.in_shapes) else None
        if shape is None:
            raise Unsuitable(f"the shape of input {index} is unknown")
        return shape

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Concrete shape of a required output."""
        shape = self.out_shapes[index]
        if shape is None:
            raise Unsuitable(f"the shape of output {index} is unknown")
        return shape

    def constant(self, index: int) -> IntArray | None:
        """Value of an input that is known before any data is seen (a small constant or shape arithmetic)."""
        return self._constant(index) if self.has(index) else None

    def is_constant(self, index: int) -> bool:
        """Whether an input is computed from constants alone: a weight, perhaps behind Transpose or Cast."""
        return self.has(index) and self._is_constant(index)

    def ints(self, name: str, index: int) -> list[int] | None:
        """Integers given as attribute ``name`` (older opsets) or as input ``index``; None when given as neither.

        Raises:
            Unsuitable: The input is given but computed from data.
        """
        value = self.attr(name)
        if value is not None:
            return [int(v) for v in value]
        if not self.has(index):
            return None
        known = self.constant(index)
        if known is None:
            raise Unsuitable(f"{name} is computed from data")
        return [int(v) for v in np.atleast_1d(known)]

    def axis(self, value: int, rank: int) -> int:
        """A non-negative axis."""
        if not -rank <= value < max(rank, 1):
            raise Unsuitable(f"axis {value} of a tensor of rank {rank}")
        return value % rank if rank else 0

    # ---- saying

    def unify(self, a: Term, b: Term, why: str = "its axes do not line up") -> bool:
        """Say that two axes are the same axis."""
        return unify(self.forest, a, b, Reason(self.label, None, why))

    def freeze(self, terms: Iterable[Term], why: str, first_axis: int = 0) -> None:
        """Say that axes cannot grow here; ``first_axis`` is the position of the first of ``terms``."""
        for i, term in enumerate(terms):
            self.forest.freeze(term, Reason(self.label, first_axis + i, why))

    def freeze_axis(self, terms: Terms, axis: int, why: str) -> None:
        """Say that one axis cannot grow here."""
        self.forest.freeze(terms[axis], Reason(self.label, axis, why))

    def fresh(self, size: int, why: str = "", axis: int | None = None) -> Term:
        """A new axis of ``size``, frozen when ``why`` says so."""
        return self.forest.atom(size, *([Reason(self.label, axis, why)] if why else []))

    def fresh_all(self, shape: Sequence[int], why: str, first_axis: int = 0) -> Terms:
        """New frozen axes."""
        return [self.fresh(n, why, first_axis + i) for i, n in enumerate(shape)]

    def linear(self, index: int, out_axes: Sequence[int], in_axes: Sequence[int], data: int) -> None:
        """Declare input ``index`` a weight."""
        self.said.linears.append(LinearUse(self.node, index, tuple(out_axes), tuple(in_axes), data))

    def contraction(self, a: tuple[int, int], b: tuple[int, int], over: Term | None = None) -> None:
        """Declare that two computed values, (input, axis) each, are multiplied and summed over an axis.

        Only over its innermost factor where ``over`` is given.
        """
        self.product((Place(*a),), (Place(*b),), over)

    def product(self, a: tuple[Place, ...], b: tuple[Place, ...], over: Term | None = None) -> None:
        """The same of operands that lie in several inputs, or in parts of an axis."""
        self.said.contractions.append(Contraction((a, b), over))

    def fill(self, index: int, value: float) -> None:
        """Declare what new entries of a constant operand are."""
        self.said.fills[index] = value

    def attribute(self, name: str, update: AttributeUpdate) -> None:
        """Declare an attribute that follows the growth."""
        self.said.attributes[name] = update

    def operand(self, index: int, update: Operand) -> None:
        """Declare an integer operand that follows the growth."""
        self.said.operands[index] = update

    def statistic(self, index: int, axis: int, why: str, over: Term | None = None) -> None:
        """Declare that a statistic is taken over an axis of an input, or over a part of it: it grows in special ways
        only, if at all.
        """
        self.said.statistics.append(Statistic(index, axis, why, over))

    def size(self, term: Term, growth: Growth) -> int:
        """Size of an axis after the growth."""
        return grown_size(self.forest, term, growth)

    def grows(self, term: Term, growth: Growth) -> bool:
        """Whether an axis grows."""
        return grows(self.forest, term, growth)


class Unsuitable(Exception):
    """A rule does not cover this form of its op; every axis at the node is frozen with the reason."""
