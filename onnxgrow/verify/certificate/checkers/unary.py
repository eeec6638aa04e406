"""Elementwise ops with one data input: the output's map is the input's; zeros pass where f(0) = 0 exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.factors import power
from onnxgrow.verify.certificate.facts import KEEP_ZERO
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Proved

_OTHERS = (
    *("Acos", "Acosh", "BitwiseNot", "Cos", "Cosh", "Exp", "HardSigmoid", "IsInf", "IsNaN", "Log", "Not"),
    *("Sigmoid", "Softplus"),
)


def _pass_on(pair: Pair, index: int = 0, *, factors: bool = False) -> Proved:
    x, claim = pair.scaled(0) if factors else pair.input(0), pair.claim(index)
    require(len(x.axes) == len(claim.axes), "the rank of the output differs from the input's")
    for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
        agree(a, b, f"axis {number}")
    return x


@register(*(op_type for op_type in KEEP_ZERO if op_type != "Sqrt"), *_OTHERS)
def check_unary(pair: Pair) -> None:
    pair.same_attributes()
    x = _pass_on(pair)
    if pair.node.op_type in KEEP_ZERO:
        pair.zeros[0] = lambda: x.zeros


@register("Sqrt")
def check_root(pair: Pair) -> None:
    pair.same_attributes()
    x = _pass_on(pair, factors=True)
    pair.squares[0] = power(x.square, 0.5)
    pair.zeros[0] = lambda: x.zeros


@register("Reciprocal")
def check_reciprocal(pair: Pair) -> None:
    pair.same_attributes()
    pair.squares[0] = 1 / _pass_on(pair, factors=True).square


@register("Gelu", "QuickGelu", domain="com.microsoft")
def check_contributed_gelu(pair: Pair) -> None:
    """ONNX Runtime's activations of one input."""
    require(len(pair.node.inputs) == len(pair.original.inputs) == 1, "only the form with one input is known")
    pair.same_attributes()
    x = _pass_on(pair)
    pair.zeros[0] = lambda: x.zeros


@register("Identity")
def check_identity(pair: Pair) -> None:
    pair.same_attributes()
    x = _pass_on(pair)
    pair.zeros[0] = lambda: x.zeros


@register("Shrink")
def check_shrink(pair: Pair) -> None:
    pair.same_attributes()
    x = _pass_on(pair)
    # With a negative lambd, 0 lies in a shifted branch.
    if pair.float_attribute("lambd", 0.5) >= 0:
        pair.zeros[0] = lambda: x.zeros


@register("Cast")
def check_cast(pair: Pair) -> None:
    pair.same_attributes()
    x = _pass_on(pair)
    if pair.int_attribute("to", 0)[0] not in (int(ir.DataType.STRING), int(ir.DataType.FLOAT8E8M0)):
        pair.zeros[0] = lambda: x.zeros


@register("CastLike")
def check_cast_like(pair: Pair) -> None:
    # Of the second input only the dtype matters.
    pair.same_attributes()
    names = input_name(pair.node, 1), input_name(pair.original, 1)
    dtypes = pair.new.concrete.dtypes.get(names[0]), pair.old.concrete.dtypes.get(names[1])
    require(dtypes[0] is not None and dtypes[0] == dtypes[1], "the dtype to cast to is not known to be the same")
    _pass_on(pair)


@register("Clip")
def check_clip(pair: Pair) -> None:
    """A factor passes where both bounds have it, too."""
    pair.same_attributes()
    x = _pass_on(pair, factors=True)
    given = [(pair.has(index), name in pair.node.attributes) for index, name in ((1, "min"), (2, "max"))]
    bounds = [pair.scaled(index) for index, (is_input, _) in enumerate(given, start=1) if is_input]
    require(all(bound.square == x.square for bound in bounds), "its bounds are multiplied differently")
    require(x.square == 1 or not any(attribute for _, attribute in given), "its input is multiplied")
    pair.squares[0] = x.square
    # Both bounds must be proved equal, whatever the first says of zero.
    if all([_bound_keeps_zero(pair, 1, "min", 1), _bound_keeps_zero(pair, 2, "max", -1)]):
        pair.zeros[0] = lambda: x.zeros


def _bound_keeps_zero(pair: Pair, index: int, name: str, sign: int) -> bool:
    """Whether 0 is inside one bound of Clip; the bound itself must be proved equal."""
    if name in pair.node.attributes:
        return sign * pair.float_attribute(name, 0.0) <= 0
    if not pair.has(index):
        return True
    require(all(axis.size == 1 for axis in pair.scaled(index).axes), f"{name} is no scalar")
    value = pair.new.value(input_name(pair.node, index))
    return value is not None and bool(np.all(sign * value.astype(np.float64) <= 0))


@register("Dropout")
def check_dropout(pair: Pair) -> None:
    """Inference only: while training the mask is random, and only an unchanged node may stay."""
    pair.same_attributes()
    if pair.opset < 7:
        require(pair.same_int_attribute("is_test", 0) == 1, "it drops at random")
    if pair.has(2):
        require(not np.any(pair.known(2)[0]) and not np.any(pair.known(2)[1]), "it drops at random")
    for index in pair.claims:
        _pass_on(pair, index)
    pair.zeros[0] = lambda: pair.input(0).zeros
