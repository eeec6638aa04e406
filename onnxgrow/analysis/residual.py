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

from collections.abc import Iterable
from dataclasses import replace

from onnxgrow.algebra import Kind, Term
from onnxgrow.analysis.follow import follow
from onnxgrow.analysis.follower import Impossible, Residual
from onnxgrow.analysis.infer import Dimensions
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
        for index, axis, why in dims.declared[node].statistics:
            terms = dims.at((node, index))
            if terms is None:
                continue
            label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"
            reason = Reason(label, axis, why)
            if dims.forest.find(terms[axis]).kind is not Kind.ATOM:
                dims.forest.freeze(terms[axis], reason)
            for leaf in dims.forest.leaves(terms[axis]):
                taken.setdefault(leaf, []).append(reason)
    found: dict[Term, tuple[Residual, ...]] = {}
    able = {dims.forest.find(t) for t in candidates}
    for atom, reasons in taken.items():
        if atom.frozen:
            continue
        if atom not in able or atom in dims.contracted:
            dims.forest.freeze(atom, *reasons)
            continue
        ways, problems = [], []
        for mode in MODES:
            try:
                ways.append(follow(dims, atom, mode))
            except Impossible as e:
                problems.append(e)
        if ways:
            found[atom] = tuple(replace(way, statistics=tuple(reasons)) for way in ways)
        else:
            worst = problems[-1]
            dims.forest.freeze(atom, *reasons[:1], Reason(worst.label, None, f"as a residual stream: {worst}"))
    return found
