"""What a constant is used for, and so how its new entries are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.demand import Masks, grants
from onnxgrow.analysis.network import MOVES, Site
from onnxgrow.errors import UnsupportedError
from onnxgrow.rules import LinearUse, Terms

__all__ = ["Piece", "Role", "grown_pieces", "pull_back"]

Way = tuple[ir.Node, ...]


@dataclass(frozen=True)
class Role:
    """One use of a constant, seen through the ops between it and the op that gives it a meaning.

    Attributes:
        site: The use at that op.
        way: Ops from the constant to there.
        linear: The linear use; None for a parameter that is no weight.
        fill: Value of new entries of a parameter; None to repeat its own.
    """

    site: Site
    way: Way
    linear: LinearUse | None
    fill: float | None


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
    """

    name: str
    terms: Terms
    sites: list[Site] | None
    layouts: dict[int, npt.NDArray[np.int64]]
    roles: list[Role] = field(default_factory=list)
    zeros: list[Masks] = field(default_factory=list)


def grown_pieces(analysis: Analysis, growth: Growth) -> dict[str, list[Piece]]:
    """Pieces of every constant that grows somewhere, by name.

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
            if layouts:
                grown.add(name)
            roles = _roles(analysis, site, linear) if layouts else []
            mine = pieces.setdefault(name, [])
            same = next((p for p in mine if _fits(p, layouts, roles, network.is_tied(name))), None)
            if same is None:
                same = Piece(name, terms or [], None if network.is_tied(name) else [], layouts)
                mine.append(same)
            if same.sites is not None:
                same.sites.append(site)
            same.roles += roles
    for grant in grants(dims, growth)[0]:
        node, index = grant.site
        value = node.inputs[index]
        for piece in pieces.get((value.name if value is not None else None) or "", ()):
            if piece.sites is None or grant.site in piece.sites:
                piece.zeros.append(grant.masks)
    return {name: pieces[name] for name in pieces if name in grown}


def _fits(piece: Piece, layouts: dict[int, npt.NDArray[np.int64]], roles: list[Role], tied: bool) -> bool:
    """Whether a use can share a piece: same layout, and the same kind of new entries."""
    if tied:
        return True
    if piece.layouts.keys() != layouts.keys():
        return False
    if not all(np.array_equal(piece.layouts[a], layouts[a]) for a in layouts):
        return False
    kinds = {(r.linear is None, r.fill) for r in piece.roles} | {(r.linear is None, r.fill) for r in roles}
    return len(kinds) <= 1


def _roles(analysis: Analysis, site: Site, linear: dict[Site, LinearUse]) -> list[Role]:
    """Follow a constant through ops that only move entries to the ops that use it."""
    found = []
    stack: list[tuple[Site, Way]] = [(site, ())]
    while stack:
        (node, index), way = stack.pop()
        if (node, index) in linear:
            found.append(Role((node, index), way, linear[node, index], None))
            continue
        output = node.outputs[0].name or ""
        if index == 0 and output in analysis.network.derived and node.op_type in MOVES:
            stack += [(use, (*way, node)) for use in analysis.network.uses(output)]
            continue
        fill = analysis.dims.declared[node].fills.get(index)
        found.append(Role((node, index), way, None, fill))
    return found


def pull_back(
    mask: npt.NDArray[Any], way: Sequence[ir.Node], shapes: Sequence[tuple[int, ...]], subject: str
) -> npt.NDArray[Any]:
    """Where a mask (or other values) over what an op reads lies in the constant behind ``way``.

    Args:
        mask: Over the grown value at the end of ``way``.
        way: Ops from the constant on.
        shapes: Grown shape of the first input of each op of ``way``.
        subject: Name of the constant, for errors.
    """
    for node, shape in zip(reversed(way), reversed(shapes), strict=True):
        if node.op_type in ("Identity", "Cast", "CastLike"):
            continue
        if node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", ()) or tuple(range(mask.ndim))[::-1]
            mask = mask.transpose(np.argsort(order))
        elif node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            mask = mask.reshape(shape)
        else:
            raise UnsupportedError(subject, f"a weight behind {node.op_type} cannot be widened")
    return mask
