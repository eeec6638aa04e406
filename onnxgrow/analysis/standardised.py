"""Weights that are standardised: less the mean of each output's entries, over the root of their variance.

Weight standardisation (https://arxiv.org/abs/1903.10520) and its scaled form (https://arxiv.org/abs/2101.08692) take
both over the whole fan-in, the taps of a kernel included. With ``η = old entries / new entries``, new entries that are
the mean of the old ones leave the mean as it is and become zero when it is taken away; the variance is multiplied by η.
With ``ε' = η·ε`` and a gain multiplied by √η the old entries are what they were. (A gain that is computed from the
fan-in, as ``γ/√N`` is, changes by that factor itself when the network is built anew.) Without a gain the weight is
multiplied by √η where it is used.

One walk over the ops on constants gives every value a state: what its new entries along the fan-in are, and a power of
η by which its old entries are multiplied. What is not known to work has no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra.reshape import blocks
from onnxgrow.analysis.standardiser import NOTHING, Handler, Standard, State, Unknown, Walk
from onnxgrow.rules import LinearUse

if TYPE_CHECKING:
    from onnxgrow.analysis.infer import Dimensions

__all__ = ["Standard", "standardise"]

HALF = Fraction(1, 2)
MOVES = frozenset("Cast CastLike Expand Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())
MEANS = frozenset(("ReduceMean", "ReduceSum"))


def standardise(dims: Dimensions, use: LinearUse, nodes: Iterable[ir.Node]) -> Standard | None:
    """How a weight is standardised over its fan-in; None where it is not, or not in a way that is known.

    Args:
        dims: Of the network.
        use: The use of the weight.
        nodes: Ops on constants that compute it, producers first.
    """
    order = list(nodes)
    walk = Walk(dims, _HANDLERS)
    found = walk.run(order, use)
    if found is None or not found.exponent:
        return walk.standard if found is not None else None
    for gain in walk.scalable(found.gains):
        again = Walk(dims, _HANDLERS, {gain: -found.exponent})
        balanced = again.run(order, use)
        if balanced is not None and not balanced.exponent:
            return again.standard
    assert walk.standard is not None
    walk.standard.factors[use.node, use.index] = -found.exponent
    return walk.standard


def _moved(w: Walk, node: ir.Node) -> list[State]:
    """Axes that are statistics' and axes that are not may not be mixed."""
    x, shape = w.read(node, 0), w.shape(node)
    if 0 in shape:
        raise Unknown
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", ()) or tuple(range(len(shape)))[::-1]
        groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((a,), (k,)) for k, a in enumerate(order)]
    elif node.op_type == "Expand":
        lead = len(shape) - len(x.shape)
        stretched = any(n not in (1, shape[lead + a]) for a, n in enumerate(x.shape))
        if stretched or (x.raw is not None and prod(x.shape) != 1 and x.shape != shape):
            raise Unknown
        groups = [((a,), (lead + a,)) for a in range(len(x.shape))]
    else:
        groups = [(tuple(range(*ins)), tuple(range(*outs))) for ins, outs in blocks(x.shape, shape)]
    zero: set[int] = set()
    parts: list[tuple[int, ...]] = [() for _ in shape]
    for ins, outs in groups:
        real = {a for a in ins if x.shape[a] != 1}
        if real & x.zero:
            if not real <= x.zero:
                raise Unknown
            zero.update(outs)
        if x.raw is not None and ins:
            mine = tuple(b for a in ins for b in x.raw[1][a])
            if len(outs) == 1:
                parts[outs[0]] = mine
            elif mine:  # cut into axes: each is said to be all of them, so only all together are known
                for k in outs:
                    parts[k] = mine
    raw = None if x.raw is None else (x.raw[0], tuple(parts))
    return [replace(x, shape=shape, raw=raw, zero=frozenset(zero))]


def _reduced(w: Walk, node: ir.Node) -> list[State]:
    x, shape = w.read(node, 0), w.shape(node)
    axes = frozenset(a for a in w.reduced(node, len(x.shape)) if x.shape[a] != 1)
    squares = node.op_type == "ReduceSumSquare"
    power = x.exponent * (2 if squares else 1)
    if x.raw is not None:
        if node.op_type not in MEANS or x.exponent or not axes or not _whole(x, axes):
            raise Unknown
        if not w.grows(node, axes):
            raise Unknown
        w.take_mean(node, x, axes)
        name, over = w.name(*x.raw[0]), frozenset(b for a in axes for b in x.raw[1][a])
        summed = node.op_type == "ReduceSum"
        return [State(shape, mean=(name, over), summed=summed, exponent=Fraction(-1) if summed else NOTHING)]
    if not x.zero or not x.zero <= axes | {a for a, n in enumerate(x.shape) if n == 1}:
        raise Unknown
    mean = node.op_type == "ReduceMean"
    return [State(shape, exponent=power + 1 if mean else power * HALF if node.op_type == "ReduceL2" else power)]


def _whole(x: State, axes: frozenset[int]) -> bool:
    """Whether axes of a constant that was cut or joined are taken as a whole."""
    assert x.raw is not None
    inside = {b for a in axes for b in x.raw[1][a]}
    outside = {b for a in range(len(x.shape)) if a not in axes and x.shape[a] != 1 for b in x.raw[1][a]}
    return not inside & outside


def _centred(w: Walk, node: ir.Node) -> list[State]:
    """x − its own mean; differences of statistics."""
    x, y = w.read(node, 0), w.read(node, 1)
    if x.raw is not None and y.mean is not None and not y.summed and not x.exponent and not y.exponent:
        name, over = y.mean
        along = frozenset(a for a, parts in enumerate(x.raw[1]) if set(parts) & over and x.shape[a] != 1)
        laid = (*[1] * (len(x.shape) - len(y.shape)), *y.shape)
        if laid != tuple(1 if a in along else n for a, n in enumerate(x.shape)):
            raise Unknown
        if name == w.name(*x.raw[0]) and _whole(x, along) and over <= {b for a in along for b in x.raw[1][a]}:
            return [State(w.shape(node), zero=along)]
    return _summed(w, node)


def _summed(w: Walk, node: ir.Node) -> list[State]:
    """Statistics and constants beside them, which take their factor."""
    states = [w.read(node, i) for i in range(len(node.inputs))]
    known = [s for s in states if s.raw is None]
    if not known or any(s.zero for s in known) or len({s.exponent for s in known}) > 1:
        raise Unknown
    exponent = known[0].exponent
    for i, s in enumerate(states):
        if s.raw is not None and prod(s.shape) != 1:
            raise Unknown
        if s.raw is not None and exponent:
            w.gain(node, i, exponent)
    return [State(w.shape(node), exponent=exponent)]


def _product(w: Walk, node: ir.Node) -> list[State]:
    x, y = w.read(node, 0), w.read(node, 1)
    shape = w.shape(node)
    sign = -1 if node.op_type == "Div" else 1
    for a, b, index in ((x, y, 1), (y, x, 0)):
        if a.mean is not None and a.summed and b.raw is not None and prod(b.shape) == 1 and (sign > 0 or index == 1):
            # A sum over the number of its terms: that number grows.
            w.gain(node, index, -a.exponent if sign > 0 else a.exponent)
            return [replace(a, shape=shape, summed=False, exponent=NOTHING)]
    if sign < 0 and y.zero:
        raise Unknown
    exponent = x.exponent + sign * y.exponent
    zero = {a + len(shape) - len(s.shape) for s in (x, y) for a in s.zero}
    if not zero and x.raw is not None and y.raw is not None and prod(x.shape) > 1 < prod(y.shape):
        raise Unknown
    # What multiplies the result once: constants below a quotient would have to be divided.
    gains = x.gains + (y.gains if sign > 0 else ())
    once = node.inputs[0] is not node.inputs[1]
    return [State(shape, zero=frozenset(zero), exponent=exponent, gains=gains if once else ())]


def _power(w: Walk, node: ir.Node) -> list[State]:
    x = w.read(node, 0)
    known = w.network.concrete.values.get(w.name(node, 1))
    if x.raw is not None or known is None or known.size != 1 or (x.zero and float(known.reshape(-1)[0]) <= 0):
        raise Unknown
    return [replace(x, exponent=x.exponent * Fraction(float(known.reshape(-1)[0])), mean=None, gains=())]


def _root(w: Walk, node: ir.Node) -> list[State]:
    x = w.read(node, 0)
    if x.raw is not None:
        raise Unknown
    return [replace(x, exponent=x.exponent * HALF, mean=None, gains=())]


def _inverse(w: Walk, node: ir.Node) -> list[State]:
    x = w.read(node, 0)
    if x.raw is not None or x.zero:
        raise Unknown
    return [replace(x, exponent=-x.exponent, mean=None, gains=())]


def _batch_norm(w: Walk, node: ir.Node) -> list[State]:
    """Each output is a channel: of its own statistics in training form, else of those that are computed beside it."""
    x = w.read(node, 0)
    rank = len(x.shape)
    axes = frozenset(a for a in range(rank) if a != 1 and x.shape[a] != 1)
    shift = w.network.concrete.values.get(w.name(node, 2))
    if x.raw is None or x.exponent or not axes or not _whole(x, axes) or shift is None or np.any(shift != 0):
        raise Unknown
    training = bool(node.attributes.get_int("training_mode", 0))
    if not training:
        mean, variance = w.read(node, 3), w.read(node, 4)
        own = (w.name(*x.raw[0]), frozenset(b for a in axes for b in x.raw[1][a]))
        if mean.mean != own or mean.exponent or variance.exponent != 1 or len(node.outputs) > 1:
            raise Unknown
    if not w.grows(node, axes):
        raise Unknown
    w.take_mean(node, x, axes)
    assert w.standard is not None
    w.standard.epsilons[node] = 1e-5
    w.gain(node, 1, HALF)
    done = State(x.shape, zero=axes)
    if not training or len(node.outputs) < 3:
        return [done]
    # Running statistics: those given, perhaps mixed with its own.
    given = w.states.get(w.name(node, 4))
    exponent = given.exponent if given is not None else NOTHING
    if node.attributes.get_float("momentum", 0.9) != 1 and exponent != 1:
        raise Unknown
    return [done, State(x.shape[1:2]), State(x.shape[1:2], exponent=exponent)]


_HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), _reduced),
    **dict.fromkeys(("Add", "Sum"), _summed),
    **dict.fromkeys(("Div", "Mul"), _product),
    "BatchNormalization": _batch_norm,
    "Pow": _power,
    "Reciprocal": _inverse,
    "Sqrt": _root,
    "Sub": _centred,
}
