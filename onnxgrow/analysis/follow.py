"""What each op does to the new channels of a residual stream: the facts and factors that it passes on.

A handler sees the states of what a node reads (:mod:`onnxgrow.analysis.follower`), asks for the changes of constants
that keep the original's numbers, and gives the state of the outputs; where nothing does, it raises ``Impossible``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis.follower import Follower, Handler
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.norms import NORMS, normalised, over_positions, unit_length, words
from onnxgrow.analysis.stream import (
    HALF,
    KEEPS_ZERO,
    MOVES,
    NONE,
    PASSES,
    SUMS,
    ZERO_EXPONENT,
    Impossible,
    Residual,
    State,
)
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO

__all__ = ["follow"]

PER_CHANNEL = frozenset(
    (
        "Abs Acos Acosh Asinh Atanh Ceil Clip Cos Cosh Exp Floor HardSigmoid Log Max Min PRelu Reciprocal Relu Round "
        "Sigmoid Sign Softplus Sqrt ThresholdedRelu "
        "AveragePool BatchNormalization DequantizeLinear GlobalAveragePool GlobalMaxPool MaxPool QuantizeLinear "
        "LogSoftmax Softmax"
    ).split()
) | (KEEPS_ZERO)
"""Ops that give equal channels for equal channels, their parameters being equal too."""
SUMMED = {
    # op → (exponent from x's, for zero and for copied channels; None where there is none), of a statistic
    "ReduceL1": (Fraction(0), Fraction(-1)),
    "ReduceL2": (Fraction(0), -HALF),
    "ReduceMax": (None, Fraction(0)),
    "ReduceMean": (Fraction(1), Fraction(0)),
    "ReduceMin": (None, Fraction(0)),
    "ReduceSum": (Fraction(0), Fraction(-1)),
    "ReduceSumSquare": (Fraction(0), Fraction(-1)),
}


def follow(dims: Dimensions, atom: Term, mode: str, atoms: Mapping[ir.Node, Collection[Term]]) -> Residual:
    """What the new channels of ``atom`` are everywhere when they are what ``mode`` says in the stream.

    Args:
        dims: Of the network.
        atom: The stream.
        mode: What its new channels hold.
        atoms: Node → atoms of the axes of what it reads and gives.

    Raises:
        Impossible: A statistic, or what follows it, would not stay the same.
    """
    return Follower(dims, atom, mode, _HANDLERS).run(atoms)


def _sums(f: Follower, node: ir.Node) -> State:
    states = f.computed(node)
    exponents = {e for _, e in states}
    if len(exponents) > 1:
        raise Impossible(node, "its operands have different factors")
    exponent = exponents.pop()
    if exponent:
        for i in range(len(node.inputs)):
            if f.constant(node, i):
                f.scale(node, i, exponent)
    facts = {fact for fact, _ in states if fact}
    scalars = any(not fact for fact, _ in states) or len(f.constants(node)) + len(states) < len(node.inputs)
    if f.centred(node) and facts == {MEAN}:
        return (ZERO, exponent)
    if facts == {ZERO}:
        return (ANY if scalars or node.op_type == "Mean" else ZERO, exponent)
    if facts <= {f.mode} and f.mode != ZERO:
        for i in f.constants(node):
            f.write(node, i)
        return (f.mode, exponent)
    return (ANY, exponent)


def _product(f: Follower, node: ir.Node) -> State:
    states = f.computed(node)
    exponent = sum((e for _, e in states), ZERO_EXPONENT)
    factors = [i for i in range(len(node.inputs)) if f.constant(node, i)]
    if exponent and factors:
        f.scale(node, factors[0], -exponent)
        exponent = ZERO_EXPONENT
    return (_weighted(f, node, [fact for fact, _ in states if fact]), exponent)


def _weighted(f: Follower, node: ir.Node, facts: list[str]) -> str:
    """The fact of a product (or quotient) of computed values of these facts, and of constants."""
    if ZERO in facts:
        return ZERO
    own = f.constants(node)
    if f.mode == COPY and set(facts) <= {COPY}:
        for i in own:
            f.write(node, i)
        return COPY
    if facts == [MEAN] and not own:
        return MEAN
    if facts == [MEAN] and len(own) == 1 and node.op_type == "Mul":
        name, other = f.name(node, own[0]), 1 - own[0]
        axes = [n for n in f.network.shape(name) or () if n != 1]
        if name in f.network.tensors and len(axes) == 1 and f.reweigh(node, other, name):
            # Times 1: a formula binds its new entries, too, which have to stay the 1 that the mean was made for.
            f.found.scaled[(node, own[0])] = ZERO_EXPONENT
            return MEAN
    return ANY


def _quotient(f: Follower, node: ir.Node) -> State:
    (above, e), (below, d) = f.read(node, 0), f.read(node, 1)
    exponent = e - d
    if exponent and f.constant(node, 1):
        f.scale(node, 1, exponent)
        exponent = ZERO_EXPONENT
    if below and above == ZERO and not f.constant(node, 0):
        return (ZERO, exponent)
    if (below and f.mode != COPY) or (f.constant(node, 0) and f.constants(node) and f.mode != COPY):
        return (ANY, exponent)
    return (_weighted(f, node, [fact for fact, _ in f.computed(node) if fact]), exponent)


def _power(f: Follower, node: ir.Node) -> State:
    fact, e = f.read(node, 0)
    power = f.network.concrete.values.get(f.name(node, 1)) if f.constant(node, 1) else None
    if power is None or f.constant(node, 0) or np.asarray(power).size != 1:
        return f.unknown(node)
    p = Fraction(float(np.asarray(power).reshape(-1)[0]))
    return (fact if fact == COPY or (fact == ZERO and p > 0) else ANY, e * p)


def _root(f: Follower, node: ir.Node) -> State:
    fact, e = f.read(node, 0)
    return (fact if fact in (COPY, ZERO) else ANY, e * HALF)


def _inverse(f: Follower, node: ir.Node) -> State:
    fact, e = f.read(node, 0)
    return (COPY if fact == COPY else ANY, -e)


def _same(f: Follower, node: ir.Node) -> State:
    return f.read(node, 0)


def _moved(f: Follower, node: ir.Node) -> State:
    if not f.constant(node, 0):
        return f.read(node, 0)
    f.write(node, 0)
    return (f.mode, ZERO_EXPONENT)


def _joined(f: Follower, node: ir.Node) -> State:
    """Operands side by side, or one of them chosen: all have to be alike."""
    f.plain(node)
    parts = range(1 if node.op_type == "Where" else 0, len(node.inputs))
    facts = {f.read(node, i)[0] for i in parts if not f.constant(node, i)}
    single = NONE in facts or any(f.constant(node, i) and i not in f.constants(node) for i in parts)
    facts -= {NONE}
    if facts != {f.mode} or (single and f.mode == ZERO) or (node.op_type == "Where" and f.read(node, 0)[0]):
        return (ANY, ZERO_EXPONENT)
    for i in f.constants(node):
        f.write(node, i)
    return (f.mode, ZERO_EXPONENT)


def _reduced(f: Follower, node: ir.Node) -> State:
    fact, e = f.read(node, 0)
    squares = node.op_type == "ReduceSumSquare"
    if not f.statistics(node):
        linear = node.op_type in ("ReduceMean", "ReduceSum")
        return (fact if linear or fact in (COPY, ZERO) else ANY, e * 2 if squares else e)
    if not f.has_fact(f.dims.at((node, 0))):
        raise Impossible(node, "its axis has other parts, too")
    shift: Fraction | None = None
    if fact == MEAN and node.op_type in ("ReduceMean", "ReduceSum"):
        shift = ZERO_EXPONENT if node.op_type == "ReduceMean" else Fraction(-1)
    elif fact in (ZERO, COPY):
        shift = SUMMED.get(node.op_type, (None, None))[fact == COPY]
    if shift is None:
        raise Impossible(node, f"it would change when new channels are {words(fact, f.mode)}")
    times = f.repeats(node) if fact == COPY else 1
    return (COPY if fact == COPY else NONE, (e * 2 if squares else e) + shift * times)


def _per_channel(f: Follower, node: ir.Node) -> State:
    f.plain(node)
    facts = {fact for fact, _ in f.computed(node) if fact}
    if facts == {COPY}:
        for i in f.constants(node):
            f.write(node, i)
        return (COPY, ZERO_EXPONENT)
    if facts == {ZERO} and node.op_type in KEEPS_ZERO | {"AveragePool", "BatchNormalization", "GlobalAveragePool"}:
        return (ZERO, ZERO_EXPONENT)
    if facts == {MEAN} and node.op_type in ("AveragePool", "GlobalAveragePool"):
        return (MEAN, ZERO_EXPONENT)
    return (ANY, ZERO_EXPONENT)


def _bounded(f: Follower, node: ir.Node) -> State:
    """A factor passes where the bounds have it, too: that which keeps a length away from zero."""
    states = f.computed(node)
    exponents = {e for _, e in states}
    if exponents == {ZERO_EXPONENT}:
        return _per_channel(f, node)
    if len(exponents) > 1 or any(name in node.attributes for name in ("min", "max")):
        f.plain(node)
    (exponent,) = exponents
    for i in range(len(node.inputs)):
        if f.name(node, i) and f.constant(node, i):
            f.scale(node, i, exponent)
    for i in f.constants(node):
        f.write(node, i)
    return (COPY if {fact for fact, _ in states if fact} == {COPY} else ANY, exponent)


def _normalised_each(f: Follower, node: ir.Node) -> State:
    return over_positions(f, node) if f.statistics(node) else _per_channel(f, node)


def _resampled(f: Follower, node: ir.Node) -> State:
    """Along other axes, every channel for itself and linear."""
    if not f.resampled(node):
        return _per_channel(f, node)
    f.plain(node)
    if f.constant(node, 0):
        f.write(node, 0)
        return (f.mode, ZERO_EXPONENT)
    return (f.read(node, 0)[0], ZERO_EXPONENT)


def _contracted(f: Follower, node: ir.Node) -> State:
    """A product of computed values in which one of them has the atom on an axis that is not summed over."""
    f.plain(node)
    if not any(f.carries(f.dims.values.get(o.name or "")) for o in node.outputs):
        return (NONE, ZERO_EXPONENT)
    facts = [fact for fact, _ in f.computed(node) if fact]
    return (facts[0] if len(facts) == 1 or set(facts) == {COPY} else ANY, ZERO_EXPONENT)


_HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(PER_CHANNEL, _per_channel),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "MeanVarianceNormalization"), _normalised_each),
    **dict.fromkeys(("Clip", "Max", "Min"), _bounded),
    **dict.fromkeys(PASSES, _same),
    **dict.fromkeys(("Resize", "Upsample"), _resampled),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(SUMS, _sums),
    **dict.fromkeys(SUMMED, _reduced),
    **dict.fromkeys(NORMS, normalised),
    **dict.fromkeys(("Concat", "Where"), _joined),
    "Div": _quotient,
    "LpNormalization": unit_length,
    **dict.fromkeys(("Einsum", "Gemm", "MatMul"), _contracted),
    "Mul": _product,
    "Pow": _power,
    "Reciprocal": _inverse,
    "Sqrt": _root,
}
