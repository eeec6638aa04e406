"""A node of the result beside the node of the original that it stands for: all that a checker sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import onnx_ir as ir

from onnxgrow.verify.certificate.axis import Axis, IntArray
from onnxgrow.verify.certificate.backward import is_zero
from onnxgrow.verify.certificate.blocks import Array
from onnxgrow.verify.certificate.compare import Tally
from onnxgrow.verify.certificate.equality import attributes_difference
from onnxgrow.verify.certificate.readers import Reader
from onnxgrow.verify.certificate.side import Side, input_name
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Zeros

__all__ = ["Pair", "covers", "require"]

_LINEAR = frozenset("Cast Expand Flatten Identity Neg Reshape Squeeze Transpose Unsqueeze".split())
"""Ops of one data input whose output has the input's factor."""


def require(condition: object, reason: str) -> None:
    """Raise a ProofError with this reason unless the condition holds."""
    if not condition:
        raise ProofError(reason)


def covers(out: Axis, source: IntArray, reason: str) -> None:
    """Every old index of ``out`` must be read from where the original reads it.

    Args:
        out: The claimed axis of the output.
        source: For each new index of the output, the old *output* index whose content the input has
            there; −1 for none.
        reason: Said when it does not hold.
    """
    require(source.shape == out.source.shape, f"{reason} (sizes {source.size} and {out.size})")
    wrong = (out.source >= 0) & (source != out.source)
    require(not wrong.any(), reason)


@dataclass
class Pair:
    """One node to check.

    Attributes:
        node: The node of the result.
        original: The node of the original.
        new, old: The two models.
        opset: Version of the op's domain.
        claims: Output index → claim to prove; only outputs that are not proved otherwise.
        relate: Gives the proved state of a value of the result relative to a value of the original, or
            raises ProofError.
        tally: Counts what is compared.
        zeros: Output index → zero slabs the checker proved, computed when asked for.
        squares: Output index → square of the factor that its old entries get; 1 where there is none.
    """

    node: ir.Node
    original: ir.Node
    new: Side
    old: Side
    opset: int
    claims: dict[int, Claim]
    relate: Callable[[str, str], Proved]
    tally: Tally
    zeros: dict[int, Callable[[], Zeros]] = field(default_factory=dict)
    squares: dict[int, Fraction] = field(default_factory=dict)

    def has(self, index: int) -> bool:
        """Whether this input is there; it must be there in both nodes or in neither."""
        new, old = bool(input_name(self.node, index)), bool(input_name(self.original, index))
        require(new == old, f"input {index} is present in one of the two models only")
        return new

    def count(self) -> int:
        """Number of inputs, the same in both."""
        require(len(self.node.inputs) == len(self.original.inputs), "the number of inputs differs")
        return len(self.node.inputs)

    def input(self, index: int) -> Proved:
        """The proved state of an input. Raises ProofError where there is none, or where the op changes its factor."""
        state = self.scaled(index)
        if state.square != 1:
            require(index == 0 and self.node.op_type in _LINEAR, f"the old entries of input {index} are multiplied")
            self.squares = dict.fromkeys(self.claims, state.square)
        return state

    def scaled(self, index: int) -> Proved:
        """As :meth:`input`, for a checker that follows the factor itself."""
        require(self.has(index), f"input {index} is missing")
        return self.relate(input_name(self.node, index), input_name(self.original, index))

    def known(self, index: int) -> tuple[Array, Array]:
        """The values (new, old) of an input that constants and shapes alone decide. Raises ProofError otherwise."""
        new = self.new.value(input_name(self.node, index))
        old = self.old.value(input_name(self.original, index))
        require(new is not None and old is not None, f"input {index} depends on data")
        assert new is not None
        assert old is not None
        return new, old

    def fixed(self, index: int) -> None:
        """An operand that may stay unproved because its effect is seen in the output's shape; it must be static.

        An operand that depends on data must instead be the same in both models.
        """
        if not input_name(self.node, index):
            return
        new, old = input_name(self.node, index), input_name(self.original, index)
        if new in self.new.static and (not old or old in self.old.static):
            return
        require(self.input(index).identity, f"input {index} depends on data and grew")

    def reader(self, index: int) -> Reader | None:
        """A reader of the result's input when it is constant."""
        name = input_name(self.node, index)
        return self.new.reader(name) if name else None

    def is_zero(self, index: int, axis: int, indices: IntArray, others: Mapping[int, IntArray] | None = None) -> bool:
        """Whether an input of the result is zero at these indices of an axis, judged from the constants behind it.

        Only at ``others``, indices of further axes, where these are given.
        """
        name = input_name(self.node, index)
        rank = len(self.new.shape(name) or ())
        chosen = {**(others or {}), axis: indices}
        return is_zero(self.new, name, tuple(chosen.get(k) for k in range(rank)), self.tally)

    def claim(self, index: int = 0) -> Claim:
        """The claim on an output that must be proved here. Raises ProofError where the output is not among them."""
        claim = self.claims.get(index)
        require(claim is not None, f"output {index} is not to be proved here")
        assert claim is not None
        return claim

    def shapes(self, claim: Claim) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Concrete (new, old) shape of a claim. Raises ProofError where unknown."""
        require(
            claim.shape is not None and claim.old_shape is not None,
            f"the shape of {claim.name!r} is not known",
        )
        assert claim.shape is not None
        assert claim.old_shape is not None
        return claim.shape, claim.old_shape

    def same_attributes(self, *except_for: str) -> None:
        """All attributes equal, but for those the checker judges itself."""
        difference = attributes_difference(self.original.attributes, self.node.attributes, except_for)
        require(not difference, difference)

    def int_attribute(self, name: str, default: int) -> tuple[int, int]:
        """An integer attribute (new, old) or its default."""
        new, old = self.node.attributes.get(name), self.original.attributes.get(name)
        return default if new is None else new.as_int(), default if old is None else old.as_int()

    def same_int_attribute(self, name: str, default: int) -> int:
        """An integer attribute that must have the same value in both."""
        new, old = self.int_attribute(name, default)
        require(new == old, f"attribute {name!r} is {new} instead of {old}")
        return new

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute of the result or its default."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.as_float()

    def ints_attribute(self, name: str) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """An integer-list attribute (new, old); None where absent."""
        new, old = self.node.attributes.get(name), self.original.attributes.get(name)
        return (
            None if new is None else tuple(new.as_ints()),
            None if old is None else tuple(old.as_ints()),
        )

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis as 0 … rank − 1. Raises ProofError when it is out of range."""
        require(-rank <= value < rank, f"axis {value} does not exist in rank {rank}")
        return value % rank

    def identity(self, indices: Iterable[int], state: Proved, what: str) -> None:
        """These axes of an input must not have grown."""
        for index in indices:
            require(state.axes[index].identity, f"axis {index} of {what} grew")
