"""What norms that are one operator do to the new channels of a residual stream.

A norm may add values up before it normalises them, as ONNX Runtime's fusions do: what it takes its statistics of is
the sum. Specs: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from onnxgrow.analysis.follower import Follower
from onnxgrow.analysis.stream import HALF, NONE, ZERO_EXPONENT, Impossible, State
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO

__all__ = ["NORMS", "Norm", "normalised", "over_positions", "unit_length", "words"]


@dataclass(frozen=True)
class Norm:
    """One operator.

    Attributes:
        centred: Whether it takes the mean away; else it divides by the root of the mean square only.
        summed: Inputs that it adds up first; the first one is what it normalises where there are no others.
        scale, shift: Inputs that it multiplies by and adds afterwards; −1 where it has no shift.
        epsilon: Default of the attribute.
        statistics: Output → exponent of η in the statistic that it gives out.
        total: Output that is the sum; −1 where it has none.
    """

    centred: bool
    summed: tuple[int, ...]
    scale: int
    shift: int
    epsilon: float
    statistics: Mapping[int, Fraction]
    total: int = -1


_LAYER = {1: ZERO_EXPONENT, 2: -HALF}
_RMS = Norm(False, (0,), 1, -1, 1e-5, {1: -HALF})

NORMS: Mapping[str, Norm] = {
    "LayerNormalization": Norm(True, (0,), 1, 2, 1e-5, _LAYER),
    "RMSNormalization": _RMS,
    "SimplifiedLayerNormalization": _RMS,
    "com.microsoft:SkipLayerNormalization": Norm(True, (0, 1, 4), 2, 3, 1e-12, _LAYER, 3),
    "com.microsoft:SkipSimplifiedLayerNormalization": Norm(False, (0, 1, 3), 2, -1, 1e-12, _LAYER, 3),
    "com.microsoft:EmbedLayerNormalization": Norm(True, (2, 3, 4), 5, 6, 1e-12, {}, 2),
}
"""Operator, with its domain where that is not ONNX's → what it computes."""


def normalised(f: Follower, node: ir.Node) -> State:
    """The state of a norm's output; its statistics and its sum get states of their own."""
    norm = NORMS[f.operator(node)]
    f.plain(node)
    fact = _total(f, node, norm)
    if norm.total > 0 and len(node.outputs) > norm.total and node.outputs[norm.total].name:
        name = node.outputs[norm.total].name or ""
        f.states[name] = (fact if f.has_fact(f.dims.values.get(name)) else ANY, ZERO_EXPONENT)
    if not f.statistics(node):
        return (fact if fact == COPY and not f.constants(node) else ANY, ZERO_EXPONENT)
    if not f.has_fact(f.dims.at((node, norm.summed[0]))):
        raise Impossible(node, "its axis has other parts, too")
    parameters = [i for i in (norm.scale, norm.shift) if i > 0 and f.name(node, i)]
    if fact == COPY:
        return _repeated(f, node, parameters)
    if fact != (MEAN if norm.centred else ZERO) or (norm.centred and not f.alone(node)):
        raise Impossible(node, f"it would change when new channels are {words(fact, f.mode)}")
    if not all(f.constant(node, i) for i in parameters[1:]):
        raise Impossible(node, "its shift is computed")
    f.scale(node, norm.scale, HALF)
    f.found.epsilons[node] = norm.epsilon
    for index, e in norm.statistics.items():
        if index < len(node.outputs) and node.outputs[index].name:
            f.states[node.outputs[index].name or ""] = (NONE, e)
    return (ZERO, ZERO_EXPONENT)


def _repeated(f: Follower, node: ir.Node, parameters: list[int]) -> State:
    """Copies of all entries alike leave every statistic as it is; parameters are copied with them."""
    f.repeats(node)
    for i in parameters:
        if f.constant(node, i):
            f.write(node, i)
        elif f.read(node, i)[0] not in (NONE, COPY):
            raise Impossible(node, "its scale is computed")
    return (COPY, ZERO_EXPONENT)


def over_positions(f: Follower, node: ir.Node) -> State:
    """Instance, group and mean-variance normalisation take statistics over positions, too: only copies keep those."""
    f.plain(node)
    fact = f.read(node, 0)[0]
    if fact != COPY:
        raise Impossible(node, f"it would change when new channels are {words(fact, f.mode)}")
    return _repeated(f, node, [i for i in range(1, len(node.inputs)) if f.name(node, i)])


def _total(f: Follower, node: ir.Node, norm: Norm) -> str:
    """The fact of what is normalised: of one value, or of a sum in which constants can hold what the others do."""
    given = [i for i in norm.summed if f.name(node, i)]
    facts = {f.read(node, i)[0] for i in given if not f.constant(node, i)}
    if facts <= {f.mode}:
        for i in given:
            if f.constant(node, i):
                f.write(node, i)
        return f.mode
    # Zeros stay zeros in any mode, with nothing added to them.
    return ZERO if facts == {ZERO} and not any(f.constant(node, i) for i in given) else ANY


def unit_length(f: Follower, node: ir.Node) -> State:
    """LpNormalization: zeros add nothing to a length, copies make all entries shorter alike."""
    fact, e = f.read(node, 0)
    if not f.statistics(node):
        return (fact if fact in (COPY, ZERO) else ANY, e)
    p = node.attributes.get_int("p", 2)
    if not f.has_fact(f.dims.at((node, 0))) or fact not in (ZERO, COPY):
        raise Impossible(node, f"it would change when new channels are {words(fact, f.mode)}")
    return (fact, Fraction(f.repeats(node), p) if fact == COPY else ZERO_EXPONENT)


def words(fact: str, mode: str) -> str:
    """What new channels hold, for a reason."""
    if fact == ANY:
        return f"no {mode} of the old ones" if mode != ZERO else "not zero"
    return {MEAN: "the mean of the old ones", ZERO: "zero", COPY: "copies"}[fact]
