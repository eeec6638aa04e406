"""Axes that statistics are taken over: the residual stream of transformers, and how it can still grow.

A normalisation over the channels sees every new one. Three choices of new channels keep what it computes for the old
ones (``η = old size / new size``):

* ``mean``: new channels carry the mean of the old ones. The mean stays, the variance is multiplied by η; with
  ``ε' = η·ε`` and ``γ' = √η·γ`` LayerNorm gives the same (https://arxiv.org/abs/1607.06450).
* ``zero``: new channels are 0. The mean square is multiplied by η, and RMSNorm gives the same with the same factors
  (https://arxiv.org/abs/1910.07467).
* ``copy``: every old channel is repeated equally often (Net2Net, https://arxiv.org/abs/1511.05641). All statistics
  stay, nothing has to be compensated, and any function of single channels may stand in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from onnxgrow.algebra import Forest, Kind, Term, factor
from onnxgrow.analysis.follow import follow
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.stream import Impossible, Residual
from onnxgrow.axis_map import COPY, MEAN, ZERO
from onnxgrow.rules import Reason

__all__ = ["MODES", "settle_statistics"]

MODES = (MEAN, ZERO, COPY)
"""In the order of preference: the first two grow by any number, copies by whole multiples."""


def settle_statistics(dims: Dimensions, candidates: Iterable[Term]) -> dict[Term, tuple[Residual, ...]]:
    """Find how axes that statistics are taken over can grow; freeze those that cannot, with the reason.

    Args:
        dims: Of the network.
        candidates: Atoms that a weight writes and a weight reads.

    Returns:
        Atom → the ways it can grow, the preferred one first.
    """
    taken: dict[Term, list[Reason]] = {}
    for node in dims.network.nodes:
        for said in dims.declared[node].statistics:
            over = dims.over(node, said)
            if over is None:
                continue
            _tie_parts(dims.forest, over)
            label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"
            for leaf in dict.fromkeys(dims.forest.leaves(over)):
                taken.setdefault(leaf, []).append(Reason(label, said.axis, said.why))
    found: dict[Term, tuple[Residual, ...]] = {}
    able = {leaf for t in candidates for leaf in dims.forest.leaves(t)}
    current = _current(dims.forest, taken)
    atoms = {node: _atoms(dims, node) for node in dims.network.nodes} if current else {}
    for atom, reasons in current.items():
        if atom.frozen:
            continue
        if atom not in able:
            dims.forest.freeze(atom, *reasons)
            continue
        ways, problems = [], []
        for mode in MODES:
            try:
                ways.append(follow(dims, atom, mode, atoms))
            except Impossible as e:
                problems.append(e)
        if ways:
            dims.settled.add(atom)
            found[atom] = tuple(replace(way, statistics=tuple(reasons)) for way in ways)
        else:
            worst = problems[-1]
            dims.forest.freeze(atom, *reasons[:1], Reason(worst.label, None, f"as a residual stream: {worst}"))
    return found


def _atoms(dims: Dimensions, node: ir.Node) -> frozenset[Term]:
    """The atoms of the axes of what a node reads and gives."""
    given = (dims.at((node, i)) for i in range(len(node.inputs)))
    made = (dims.values.get(o.name or "") for o in node.outputs)
    return frozenset(leaf for terms in (*given, *made) for t in terms or () for leaf in dims.forest.leaves(t))


def _tie_parts(forest: Forest, term: Term) -> None:
    """Let the parts of an axis, side by side, grow alike where they can: in units of their largest common divisor.

    Copies of one part alone would weigh more in the statistics than the others.
    """
    term = forest.find(term)
    parts = forest.flat(term, term.kind) if term.kind is not Kind.ATOM else []
    for part in parts:
        _tie_parts(forest, part)
    if term.kind is not Kind.CONCAT or forest.reasons(term):
        return
    common = math.gcd(*(part.size for part in parts))
    for unit in (d for d in range(common, 1, -1) if common % d == 0):
        if factor(forest, term, unit) is not None:
            return


def _current(forest: Forest, taken: Mapping[Term, list[Reason]]) -> dict[Term, list[Reason]]:
    """The same by the atoms that there are after all ties."""
    found: dict[Term, list[Reason]] = {}
    for term, reasons in taken.items():
        for leaf in dict.fromkeys(forest.leaves(term)):
            found.setdefault(leaf, []).extend(r for r in reasons if r not in found.get(leaf, []))
    return found
