"""Carry out residual-stream growth: what constants, attributes and facts become, from the ways that a plan chose.

With ``η = old size / new size`` of the stream, a constant that a factor is taken back with is multiplied by η**e
(1/2 for the scale of a norm, 1 for its ε), and what writes the stream gets the combinations of its old channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.follower import Residual
from onnxgrow.analysis.network import Site
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO, AxisMap, Segment
from onnxgrow.init import cast
from onnxgrow.init.summation import fold
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
        old: Number of old entries; the new ones follow them.
        weights: For ``mean``: name of the constant that weighs the old entries; empty when they count alike.
    """

    axis: int
    mode: str
    old: int
    weights: str = ""


@dataclass(frozen=True)
class Scaled:
    """Old entries of a constant are multiplied by ``factor``."""

    factor: float


Mark = Combined | Scaled


class Streams:
    """The residual streams that grow.

    Args:
        analysis: Of the original.
        plan: What grows, and in which way.
    """

    def __init__(self, analysis: Analysis, plan: WidenPlan) -> None:
        self.network = analysis.network
        self.ways: dict[Term, tuple[Residual, Fraction]] = {
            p.channel_set.atom: (p.way, Fraction(p.channel_set.size, p.new)) for p in plan.sets if p.way is not None
        }

    def marks(self, site: Site) -> frozenset[Mark]:
        """What becomes of the constant that is read at a site, beside growing."""
        found: list[Mark] = []
        for atom, (way, eta) in self.ways.items():
            if site in way.written:
                written = way.written[site]
                found.append(Combined(written.axis, way.mode, atom.size, written.weights))
            if site in way.scaled:
                found.append(Scaled(_power(eta, way.scaled[site])))
        return frozenset(found)

    def free(self, site: Site) -> set[Term]:
        """Streams whose new channels are zero where a weight reads them, so that it may hold anything there."""
        return {atom for atom, (way, _) in self.ways.items() if site in way.free}

    def nearly_zero(self, site: Site) -> set[Term]:
        """Those of :meth:`free` whose zeros are a mean less itself, and so zero but for roundings."""
        return {atom for atom in self.free(site) if self.ways[atom][0].mode == MEAN}

    def fact(self, name: str, atoms: Sequence[Term]) -> str:
        """Fact of the new entries of a computed value along an axis of these atoms."""
        if len(atoms) != 1 or atoms[0] not in self.ways:
            return ANY
        return self.ways[atoms[0]][0].facts.get(name, ANY)

    def factor(self, name: str) -> float:
        """Factor on the old entries of a computed value."""
        factor = 1.0
        for way, eta in self.ways.values():
            factor *= _power(eta, way.exponents.get(name, Fraction(0)))
        return factor

    def epsilons(self) -> dict[ir.Node, float]:
        """Nodes whose ``epsilon`` changes, with its new value, rounded to float32 as attributes are stored."""
        found = {}
        for way, eta in self.ways.values():
            for node, default in way.epsilons.items():
                old = node.attributes.get_float("epsilon", default)
                found[node] = float(np.float32(np.float64(np.float32(old)) * float(eta)))
        return found


def axis_map(source: Array, fact: str) -> AxisMap:
    """The map of an axis; copies repeat the old indices in order, again and again."""
    if fact != COPY:
        return AxisMap.from_source(source, fact)
    old = int((source >= 0).sum())
    copies = [Segment(1, fact=COPY, source=i % old, share=0.0) for i in range(source.size - old)]
    return AxisMap((Segment(old, 0), *copies))


def _power(eta: Fraction, exponent: Fraction) -> float:
    """η**exponent for multiples of a half: the root of one exact fraction, rounded once."""
    twice = 2 * exponent
    if twice % 2 == 0:
        return float(eta ** int(exponent))
    square = eta ** int(twice)
    return math.sqrt(square.numerator / square.denominator)


def combined(
    entries: Entries, shape: tuple[int, ...], marks: Sequence[Combined], weights: Mapping[str, Array]
) -> Entries:
    """Entries with combinations laid over them. The tensor is made whole: its new entries need all of the old ones.

    Args:
        entries: Of the grown tensor without its combinations.
        shape: Of the grown tensor.
        marks: The combinations.
        weights: Constants that weigh old entries.
    """
    whole = entries(Region(0, tuple(slice(0, n) for n in shape), shape))
    for mark in marks:
        _combine(np.moveaxis(whole, mark.axis, 0), mark, weights.get(mark.weights))
    return lambda region: whole[region.slices]


def _combine(lines: Array, mark: Combined, weights: Array | None) -> None:
    """Overwrite the new entries along the first axis."""
    old, new = lines[: mark.old], lines[mark.old :]
    if mark.mode == ZERO:
        new[...] = np.zeros((), lines.dtype)
    elif mark.mode == COPY:
        for start in range(0, len(new), mark.old):
            new[start : start + mark.old] = old[: len(new) - start]
    elif mark.mode == MEAN:
        flat = old.reshape(mark.old, -1)
        means = np.empty(flat.shape[1], lines.dtype)
        step = max(1, CHUNK // mark.old)
        for start in range(0, flat.shape[1], step):
            part = np.ascontiguousarray(flat[:, start : start + step], np.float64)
            if weights is not None:
                part *= weights.astype(np.float64).reshape(-1, 1)
            means[start : start + step] = cast(fold(part) / mark.old, lines.dtype)
        new[...] = means.reshape(old.shape[1:])
