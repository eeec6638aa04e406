"""Read one residual stream: where its atom lies, and what is known of the values that a node reads."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.algebra import Kind, Term
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.stream import NONE, ZERO_EXPONENT, Impossible, Residual, State
from onnxgrow.axis_map import ANY, COPY
from onnxgrow.rules import LinearUse, Terms

__all__ = ["Reading"]


class Reading:
    """One stream, and what has been found out of its values so far.

    Args:
        dims: Of the network.
        atom: The stream.
        mode: What its new channels hold.

    Attributes:
        found: What is found out in the end.
        states: Value → what its new entries hold, and the exponent of the factor on its old ones.
        uses: Node → its weights.
        zeroed: (constant, axis) of weights that have to be zero where they read new channels.
        followed: Values made of constants that statistics are taken over.
    """

    def __init__(self, dims: Dimensions, atom: Term, mode: str) -> None:
        self.dims, self.network = dims, dims.network
        self.atom, self.mode = atom, mode
        self.found = Residual(mode)
        self.states: dict[str, State] = {}
        self.uses: dict[ir.Node, list[LinearUse]] = {}
        self.zeroed: set[tuple[str, int]] = set()
        self.followed: set[str] = set()
        for use in dims.linears():
            self.uses.setdefault(use.node, []).append(use)

    def carries(self, terms: Terms | None) -> list[int]:
        """Axes that have the atom, alone or among others."""
        return [i for i, t in enumerate(terms or []) if self.atom in self.dims.forest.leaves(t)]

    def pure(self, terms: Terms | None) -> int | None:
        """The axis that is the atom, where no other axis has it."""
        axes = self.carries(terms)
        alone = len(axes) == 1 and self.dims.forest.find((terms or [])[axes[0]]) is self.atom
        return axes[0] if alone else None

    def has_fact(self, terms: Terms | None) -> bool:
        """Whether one fact can be said of new channels: of copies anywhere, of others where the atom is an axis."""
        return bool(self.carries(terms)) if self.mode == COPY else self.pure(terms) is not None

    def name(self, node: ir.Node, index: int) -> str:
        value = node.inputs[index] if index < len(node.inputs) else None
        return (value.name if value is not None else None) or ""

    @staticmethod
    def operator(node: ir.Node) -> str:
        """The operator, with its domain where that is not ONNX's."""
        return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"

    def constant(self, node: ir.Node, index: int) -> bool:
        """Whether an input is computed from constants alone, with no statistic over the atom on the way."""
        name = self.name(node, index)
        return name in self.network.derived and name not in self.followed

    def read(self, node: ir.Node, index: int) -> State:
        """Fact and exponent of an input; a constant has none yet."""
        name = self.name(node, index)
        if name in self.states:
            return self.states[name]
        return (ANY if self.carries(self.dims.at((node, index))) else NONE, ZERO_EXPONENT)

    def computed(self, node: ir.Node) -> list[State]:
        given = [i for i in range(len(node.inputs)) if self.name(node, i) and not self.constant(node, i)]
        return [self.read(node, i) for i in given]

    def constants(self, node: ir.Node) -> list[int]:
        """Inputs that are constants with the atom."""
        return [i for i in range(len(node.inputs)) if self.constant(node, i) and self.carries(self.dims.at((node, i)))]

    def statistics(self, node: ir.Node) -> list[Term]:
        """What has the atom of that which the node takes statistics over: axes, or parts of them."""
        found = [
            over for said in self.dims.declared[node].statistics if (over := self.dims.over(node, said)) is not None
        ]
        return [over for over in found if self.carries([over])]

    def repeats(self, node: ir.Node) -> int:
        """How often the atom is a factor of what the node takes statistics over: with r times as many channels, all of
        them copies, each entry comes r to this power times.
        """
        counts = [self._factors(over) for over in self.statistics(node)]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            raise Impossible(node, "it takes its statistics over parts that do not grow alike")
        return sum(known)

    def _factors(self, term: Term) -> int | None:
        """How often the atom is a factor of an axis; None where only some of the parts side by side have it."""
        term = self.dims.forest.find(term)
        if term.kind is Kind.ATOM:
            return int(term is self.atom)
        counts = [self._factors(part) for part in self.dims.forest.flat(term, term.kind)]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or (term.kind is Kind.CONCAT and len(set(known)) > 1):
            return None
        return known[0] if term.kind is Kind.CONCAT else sum(known)

    def alone(self, node: ir.Node) -> bool:
        """Whether the atom is all that the node takes its statistics over."""
        over = [self.dims.over(node, said) for said in self.dims.declared[node].statistics]
        terms = [term for term in over if term is not None and term.size > 1]
        return len(terms) == 1 and self.dims.forest.find(terms[0]) is self.atom

    def sums_over(self, use: LinearUse) -> bool:
        """Whether the atom is on an axis of a weight that is summed over."""
        return any(a in use.in_axes for a in self.carries(self.dims.at((use.node, use.index))))

    def centred(self, node: ir.Node) -> bool:
        """Whether a Sub takes from a value its own mean over the atom alone."""
        mean = self.network.producer(self.name(node, 1))
        if node.op_type != "Sub" or mean is None or mean.op_type != "ReduceMean":
            return False
        return self.name(mean, 0) == self.name(node, 0) and self.alone(mean)

    def resampled(self, node: ir.Node) -> bool:
        """Whether a node interpolates along other axes, and means stay means: older forms run in single precision only,
        in which they stay so but for roundings.
        """
        region = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return node.op_type == "Resize" and self.network.version(node) >= 11 and not region

    def plain(self, node: ir.Node) -> None:
        """Refuse factors on any input."""
        if any(e for _, e in self.computed(node)):
            raise Impossible(node, "it does not pass on a factor on its input")
