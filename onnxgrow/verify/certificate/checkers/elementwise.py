"""Elementwise ops with several inputs and NumPy broadcasting: every input's map agrees with the output's."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from onnxgrow.verify.certificate.axis import Mask
from onnxgrow.verify.certificate.checkers.centring import holds_means, own_mean
from onnxgrow.verify.certificate.checkers.common import broadcast_axes, operand_zero
from onnxgrow.verify.certificate.factors import power
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Claim, Proved, Zeros

# How a zero of the result follows, along one axis, from those of the inputs (all inputs finite):
# every input zero; any input zero; the first input zero.
_ALL = ("Add", "Sub", "Sum", "Max", "Min", "Mean", "BitwiseOr", "BitwiseXor", "Or", "Xor")
_ANY = ("Mul", "And", "BitwiseAnd")
_FIRST = ("Div", "PRelu", "Mod", "BitShift")
_NONE = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def _inputs(pair: Pair, claim: Claim) -> list[Proved]:
    """All inputs, proved and in agreement with the output."""
    states = [pair.scaled(index) for index in range(pair.count())]
    for index, state in enumerate(states):
        broadcast_axes(state, claim.axes, f"input {index}", offset=_offset(pair, index, state))
    return states


def _offset(pair: Pair, index: int, state: Proved) -> int | None:
    """Up to opset 6 an attribute says where the second input's axes start."""
    if pair.opset >= 7 or index == 0 or "broadcast" not in pair.node.attributes or not state.axes:
        return None
    if "axis" not in pair.node.attributes:
        return None
    rank = len(pair.claim().axes)
    return pair.axis(pair.same_int_attribute("axis", 0), rank)


def _factor(op: str, states: list[Proved]) -> Fraction:
    """Square of the result's factor. Raises ProofError where the operands' factors make none."""
    squares = [state.square for state in states]
    if op == "Mul":
        return math.prod(squares, start=Fraction(1))
    if op == "Div":
        return squares[0] / squares[1]
    if op in ("Add", "Max", "Mean", "Min", "Sub", "Sum"):
        require(all(square == squares[0] for square in squares), "its operands are multiplied differently")
        return squares[0]
    require(all(square == 1 for square in squares), "an operand is multiplied")
    return Fraction(1)


def _centres(pair: Pair, states: list[Proved], axis: int) -> bool:
    """Whether it takes from a value its mean over this axis alone, where new entries hold the mean of the old ones."""
    x = states[0]
    over = own_mean(pair.new, input_name(pair.node, 0), input_name(pair.node, 1))
    if over is None or len(x.axes) != len(pair.claim().axes):
        return False
    if axis in over and holds_means(pair, x, axis, over):
        return True
    mean = None if x.claim.weights else x.claim.mean.get(axis)
    return over == {axis} and mean is not None and np.array_equal(mean, x.axes[axis].new)


def _register_zero_rule(op_types: tuple[str, ...], which: str) -> None:
    @register(*op_types)
    def check(pair: Pair) -> None:
        pair.same_attributes()
        require(pair.node.op_type != "PRelu" or pair.opset >= 7, "the broadcasting before opset 7 is not known")
        claim = pair.claim()
        states = _inputs(pair, claim)
        pair.squares[0] = _factor(pair.node.op_type, states)
        # The alignment at an attribute's axis is left out of the zeros.
        if which == "none" or (pair.opset < 7 and "broadcast" in pair.node.attributes):
            return

        def zeros() -> Zeros:
            found: dict[int, Mask] = {}
            for axis in range(len(claim.axes)):
                masks = np.stack([operand_zero(state, claim.axes, axis) for state in states])
                kept = masks[:1] if which == "first" else masks
                found[axis] = np.any(kept, axis=0) if which == "any" else np.all(kept, axis=0)
                if pair.node.op_type == "Sub" and _centres(pair, states, axis):
                    found[axis] |= claim.axes[axis].new
            return found

        pair.zeros[0] = zeros


for _op_types, _which in ((_ALL, "all"), (_ANY, "any"), (_FIRST, "first"), (_NONE, "none")):
    _register_zero_rule(_op_types, _which)


@register("Pow")
def check_pow(pair: Pair) -> None:
    pair.same_attributes()
    claim = pair.claim()
    base, raised = _inputs(pair, claim)
    exponent = pair.new.value(input_name(pair.node, 1))
    require(raised.square == 1, "its exponent is multiplied")
    if base.square != 1:
        require(exponent is not None and exponent.size == 1, "its input is multiplied, its exponent not known")
        assert exponent is not None
        pair.squares[0] = power(base.square, float(exponent.reshape(-1)[0]))
    if pair.opset >= 7 and exponent is not None and bool(np.all(exponent.astype(np.float64) > 0)):
        pair.zeros[0] = lambda: {axis: operand_zero(base, claim.axes, axis) for axis in range(len(claim.axes))}


@register("Where")
def check_where(pair: Pair) -> None:
    pair.same_attributes()
    claim = pair.claim()
    states = _inputs(pair, claim)
    require(all(state.square == 1 for state in states), "an operand is multiplied")
    _, x, y = states
    pair.zeros[0] = lambda: {
        axis: operand_zero(x, claim.axes, axis) & operand_zero(y, claim.axes, axis) for axis in range(len(claim.axes))
    }


@register("BiasGelu", "FastGelu", domain="com.microsoft")
def check_bias_gelu(pair: Pair) -> None:
    """ONNX Runtime's Gelu(x + bias) and its approximation, whose bias may be left out."""
    pair.same_attributes()
    claim = pair.claim()
    states = _inputs(pair, claim)
    require(len(states) in (1, 2), "it has one or two inputs")
    require(all(state.square == 1 for state in states), "an operand is multiplied")
    pair.zeros[0] = lambda: {
        axis: np.logical_and.reduce([operand_zero(state, claim.axes, axis) for state in states])
        for axis in range(len(claim.axes))
    }
