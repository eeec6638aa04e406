"""Carry out residual-stream growth: what constants, attributes and facts become, from the ways that a plan chose.

With ``η = old size / new size`` of the stream, a constant that a factor is taken back with is multiplied by η**e
(1/2 for the scale of a norm, 1 for its ε), and what writes the stream gets the combinations of its old channels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Forest, Growth, Term, layout, repeated
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.network import Site
from onnxgrow.analysis.stream import Residual
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO, AxisMap
from onnxgrow.init import cast
from onnxgrow.init.summation import fold
from onnxgrow.passes.averages import Averaged
from onnxgrow.passes.grown_tensor import Entries
from onnxgrow.passes.regions import Region
from onnxgrow.plan import WidenPlan

__all__ = ["Combined", "Mark", "Scaled", "Streams", "axis_map", "combined"]

Array = npt.NDArray[Any]
CHUNK = 1 << 20
"""Entries that are summed up at once."""


@dataclass(frozen=True)
class Combined:
    """New entries of a constant along one axis combine its old ones.

    Attributes:
        axis: The axis.
        mode: ``mean``, ``zero`` or ``copy``.
        atom: The stream; for copies perhaps one of several parts of the axis, otherwise all of it.
        weights: For ``mean``: name of the constant that weighs the old entries; empty when they count alike.
    """

    axis: int
    mode: str
    atom: Term
    weights: str = ""


@dataclass(frozen=True)
class Scaled:
    """Old entries of a constant are multiplied by ``factor``."""

    factor: float


Mark = Averaged | Combined | Scaled


class Streams:
    """The residual streams that grow, and the weights that are standardised over a fan-in that grows.

    Args:
        analysis: Of the original.
        plan: What grows, and in which way.
    """

    def __init__(self, analysis: Analysis, plan: WidenPlan) -> None:
        self.network = analysis.network
        self.ways: dict[Term, tuple[Residual, Fraction]] = {
            p.channel_set.atom: (p.way, Fraction(p.channel_set.size, p.new)) for p in plan.sets if p.way is not None
        }
        shares = ((s, s.share(analysis.dims, plan.growth)) for s in analysis.dims.computed.standards)
        self.standards = [(standard, eta) for standard, eta in shares if eta != 1]

    def marks(self, site: Site) -> frozenset[Mark]:
        """What becomes of the constant that is read at a site, beside growing."""
        found: list[Mark] = []
        for atom, (way, eta) in self.ways.items():
            if site in way.written:
                written = way.written[site]
                found.append(Combined(written.axis, way.mode, atom, written.weights))
            if site in way.scaled:
                found.append(Scaled(_power(eta, way.scaled[site])))
        for standard, eta in self.standards:
            if site in standard.means:
                found.append(Averaged(standard.means[site]))
            if site in standard.scaled:
                found.append(Scaled(_power(eta, standard.scaled[site])))
        return frozenset(found)

    def free(self, site: Site) -> set[Term]:
        """Streams whose new channels are zero where a weight reads them, so that it may hold anything there."""
        return {atom for atom, (way, _) in self.ways.items() if site in way.free}

    def nearly_zero(self, site: Site) -> set[Term]:
        """Those of :meth:`free` whose zeros are a mean less itself, and so zero but for roundings."""
        return {atom for atom in self.free(site) if self.ways[atom][0].mode == MEAN}

    def fact(self, name: str, atoms: Collection[Term]) -> tuple[str, list[Term]]:
        """Fact of new entries of a computed value along an axis on which these atoms grow, and the atoms it is of.

        Where several grow, one may hold copies of entries of another: that is said of those only.
        """
        facts = {a: self.ways[a][0].facts.get(name, ANY) if a in self.ways else ANY for a in atoms}
        copying = [a for a, fact in facts.items() if fact == COPY]
        if copying:
            return COPY, copying
        return next(iter(facts.values())) if len(facts) == 1 else ANY, list(atoms)

    def factor(self, name: str) -> float:
        """Factor on the old entries of a computed value."""
        factor = 1.0
        for way, eta in self.ways.values():
            factor *= _power(eta, way.exponents.get(name, Fraction(0)))
        # Uses of one weight say the same of the values behind it.
        of_weights = (_power(eta, s.exponents[name]) for s, eta in self.standards if name in s.exponents)
        return factor * next(of_weights, 1.0)

    def taken_back(self) -> dict[Site, float]:
        """Uses of standardised weights without a gain → number that the weight has to be multiplied by there."""
        return {site: _power(eta, e) for standard, eta in self.standards for site, e in standard.factors.items()}

    def epsilons(self) -> dict[ir.Node, float]:
        """Nodes whose ``epsilon`` changes, with its new value, rounded to float32 as attributes are stored."""
        found = {}
        streams = [(way.epsilons, eta) for way, eta in self.ways.values()]
        for epsilons, eta in (*streams, *((standard.epsilons, eta) for standard, eta in self.standards)):
            for node, default in epsilons.items():
                old = node.attributes.get_float("epsilon", default)
                found[node] = float(np.float32(np.float64(np.float32(old)) * float(eta)))
        return found


def axis_map(forest: Forest, term: Term, growth: Growth, fact: str, atoms: Collection[Term]) -> AxisMap:
    """The map of an axis whose new entries are what ``fact`` says; copies repeat the old entries of ``atoms``."""
    source = layout(forest, term, growth)
    if fact != COPY:
        return AxisMap.from_source(source, fact)
    return AxisMap.copying(source, source[repeated(forest, term, growth, atoms)])


def _power(eta: Fraction, exponent: Fraction) -> float:
    """η**exponent for multiples of a half: the root of one exact fraction, rounded once."""
    twice = 2 * exponent
    if twice % 2 == 0:
        return float(eta ** int(exponent))
    square = eta ** int(twice)
    return math.sqrt(square.numerator / square.denominator)


def combined(
    entries: Entries,
    shape: tuple[int, ...],
    marks: Sequence[Combined],
    sources: Mapping[Combined, Array],
    weights: Mapping[str, Array],
) -> Entries:
    """Entries with combinations laid over them. The tensor is made whole: its new entries need all of the old ones.

    Args:
        entries: Of the grown tensor without its combinations.
        shape: Of the grown tensor.
        marks: The combinations.
        sources: For each of them the index that each new index along its axis repeats, as
            :func:`onnxgrow.algebra.repeated` gives it.
        weights: Constants that weigh old entries.
    """
    whole = entries(Region(0, tuple(slice(0, n) for n in shape), shape))
    for mark in marks:
        _combine(np.moveaxis(whole, mark.axis, 0), mark, sources[mark], weights.get(mark.weights))
    return lambda region: whole[region.slices]


def _combine(lines: Array, mark: Combined, source: Array, weights: Array | None) -> None:
    """Overwrite the new entries along the first axis."""
    new = np.flatnonzero(source != np.arange(source.size))
    if mark.mode == ZERO:
        lines[new] = np.zeros((), lines.dtype)
    elif mark.mode == COPY:
        step = max(1, CHUNK // max(1, math.prod(lines.shape[1:])))
        for start in range(0, new.size, step):
            at = new[start : start + step]
            lines[at] = lines[source[at]]
    elif mark.mode == MEAN:
        old = lines[: mark.atom.size]
        flat = old.reshape(mark.atom.size, -1)
        means = np.empty(flat.shape[1], lines.dtype)
        step = max(1, CHUNK // mark.atom.size)
        for start in range(0, flat.shape[1], step):
            part = np.ascontiguousarray(flat[:, start : start + step], np.float64)
            if weights is not None:
                part *= weights.astype(np.float64).reshape(-1, 1)
            means[start : start + step] = cast(fold(part) / mark.atom.size, lines.dtype)
        lines[new] = means.reshape(old.shape[1:])
