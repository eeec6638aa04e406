"""What a constant is used for, and so how its new entries are made."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxgrow.algebra import Growth
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.demand import Masks, grants
from onnxgrow.analysis.network import Site
from onnxgrow.analysis.ways import Step, Way, carries, is_scale
from onnxgrow.passes.residual import Mark, Streams
from onnxgrow.rules import LinearUse, Terms

__all__ = ["Piece", "Role", "grown_pieces"]


@dataclass(frozen=True)
class Role:
    """One use of a constant, seen through the ops between it and the op that gives it a meaning.

    Attributes:
        site: The use at that op.
        way: Ops from the constant to there.
        linear: The linear use; None for a parameter that is no weight.
        fill: Value of new entries of a parameter; None to repeat its own.
        computed: Whether the op reads a weight that is computed from this constant and others: what is zero in it is
            granted, not seen from here.
    """

    site: Site
    way: Way
    linear: LinearUse | None
    fill: float | None
    computed: bool = False


@dataclass
class Piece:
    """A constant, or the share of it that some of its uses have, in the result.

    Attributes:
        name: The constant of the original.
        terms: Terms of its axes, all uses having the same layout.
        sites: Where it is read; None for a tied constant: everywhere.
        roles: What it is used for.
        layouts: Axis → old index or −1 per new index; empty where it did not grow.
        zeros: Further entries that have to be zero, as masks over its grown axes.
        marks: What else becomes of it in a residual stream that grows.
    """

    name: str
    terms: Terms
    sites: list[Site] | None
    layouts: dict[int, npt.NDArray[np.int64]]
    roles: list[Role] = field(default_factory=list)
    zeros: list[Masks] = field(default_factory=list)
    marks: frozenset[Mark] = frozenset()

    @property
    def changes(self) -> bool:
        """Whether it becomes another tensor."""
        return bool(self.layouts or self.marks)


def grown_pieces(analysis: Analysis, growth: Growth, streams: Streams) -> dict[str, list[Piece]]:
    """Pieces of every constant that grows, or is scaled, somewhere, by name.

    A constant whose uses all grow alike is one piece. One that an exporter merged from equal tensors may fall into
    several; the first that did not grow, or the first of all, keeps the constant.
    """
    dims, network = analysis.dims, analysis.network
    linear = {(u.node, u.index): u for u in dims.linears()}
    pieces: dict[str, list[Piece]] = {}
    grown: set[str] = set()
    for node in network.nodes:
        operands = dims.declared[node].operands
        for i, value in enumerate(node.inputs):
            name = (value.name if value is not None else None) or ""
            if name not in network.tensors:
                continue
            site = (node, i)
            terms = dims.at(site)
            layouts = dims.layouts(terms, growth) if terms is not None and i not in operands else {}
            marks = streams.marks(site)
            if layouts or marks:
                grown.add(name)
            roles = _roles(analysis, site, linear) if layouts else []
            mine = pieces.setdefault(name, [])
            same = next((p for p in mine if _fits(p, layouts, roles, marks, network.is_tied(name))), None)
            if same is None:
                same = Piece(name, terms or [], None if network.is_tied(name) else [], layouts, marks=marks)
                mine.append(same)
            if same.sites is not None:
                same.sites.append(site)
            same.roles += roles
            same.marks |= marks
    for grant in grants(dims, growth)[0]:
        node, index = grant.site
        value = node.inputs[index]
        for piece in pieces.get((value.name if value is not None else None) or "", ()):
            if piece.sites is None or grant.site in piece.sites:
                piece.zeros.append(grant.masks)
    return {name: pieces[name] for name in pieces if name in grown}


def _fits(
    piece: Piece, layouts: dict[int, npt.NDArray[np.int64]], roles: list[Role], marks: frozenset[Mark], tied: bool
) -> bool:
    """Whether a use can share a piece: same layout, and the same kind of new entries."""
    if tied:
        return True
    if piece.layouts.keys() != layouts.keys() or piece.marks != marks:
        return False
    if not all(np.array_equal(piece.layouts[a], layouts[a]) for a in layouts):
        return False
    kinds = {(r.linear is None, r.fill) for r in piece.roles} | {(r.linear is None, r.fill) for r in roles}
    return len(kinds) <= 1


def _roles(analysis: Analysis, site: Site, linear: dict[Site, LinearUse]) -> list[Role]:
    """Follow a constant through ops that pass its entries on to the ops that use it."""
    found = []
    network, computed = analysis.network, analysis.dims.computed
    source = computed.sources.get(site)
    if source is not None:
        found.append(Role(site, (), source.use if source.drawn else None, 1.0 if source.mask else None, computed=True))
    stack: list[tuple[Site, Way]] = [(site, ())]
    while stack:
        (node, index), way = stack.pop()
        if (node, index) in linear:
            found.append(Role((node, index), way, linear[node, index], None))
            continue
        outputs = [(k, o.name) for k, o in enumerate(node.outputs) if o.name]
        if all(name in network.derived for _, name in outputs) and carries(network, node, index):
            for output, name in outputs:
                step = Step(node, index, output)
                stack += [(use, (*way, step)) for use in network.uses(name)]
            continue
        if source is not None and node in computed.nodes:
            continue
        # A new channel's scale is of the size of the others: the values that are drawn fit it.
        fill = None if is_scale(network, node, index) else analysis.dims.declared[node].fills.get(index)
        found.append(Role((node, index), way, None, fill))
    return found
