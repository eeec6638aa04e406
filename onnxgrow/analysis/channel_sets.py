"""Channel sets: the growable units of a network, each with its writers, its readers and what a channel costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from onnxgrow.algebra import Forest, Kind, Term
from onnxgrow.analysis.cost import Cost, Weight
from onnxgrow.analysis.demand import grants
from onnxgrow.analysis.infer import Dimensions, infer_dimensions
from onnxgrow.analysis.naming import unique, weight_label
from onnxgrow.analysis.network import Network
from onnxgrow.analysis.patches import find_patches
from onnxgrow.analysis.silenced import freeze_silenced
from onnxgrow.rules import Reason

__all__ = ["Analysis", "ChannelSet", "Weight", "analyse"]


@dataclass(frozen=True)
class ChannelSet:
    """One growable unit.

    Attributes:
        name: Stable, unique name; that of its first writer, with the part of its axis where it has no axis of its own.
        atom: Its atom.
        size: Number of channels.
        writers, readers: Weights that produce it and that sum over it.
        reasons: Why it cannot grow; empty when it can.
        parameters: Weights and other parameters added per channel.
        flops: Floating-point operations (2 per multiply-add) added per channel, for the analysed input shapes.
    """

    name: str
    atom: Term
    size: int
    writers: tuple[Weight, ...]
    readers: tuple[Weight, ...]
    reasons: tuple[Reason | str, ...]
    parameters: int
    flops: int

    @property
    def growable(self) -> bool:
        return not self.reasons


@dataclass
class Analysis:
    """Everything known of a network before anything is decided.

    Attributes:
        dims: Terms of all axes.
        weights: All uses of weights.
        sets: All channel sets that a weight writes or reads, growable or not, in network order.
    """

    dims: Dimensions
    weights: list[Weight] = field(default_factory=list)
    sets: list[ChannelSet] = field(default_factory=list)

    @property
    def network(self) -> Network:
        return self.dims.network

    @property
    def growable(self) -> list[ChannelSet]:
        return [s for s in self.sets if s.growable]

    @cached_property
    def cost(self) -> Cost:
        """Parameters and floating-point operations as functions of a growth."""
        return Cost(self.dims, self.weights)

    @cached_property
    def makers(self) -> dict[Term, list[ir.Node]]:
        """Atom → nodes that compute a value with the atom on an axis, producers first."""
        found: dict[Term, list[ir.Node]] = {}
        for node in self.network.nodes:
            terms = [t for o in node.outputs if o.name for t in self.dims.values.get(o.name) or ()]
            for leaf in dict.fromkeys(leaf for t in terms for leaf in self.dims.forest.leaves(t)):
                found.setdefault(leaf, []).append(node)
        return found

    def channel_axes(self, weight: Weight) -> Iterator[tuple[int, Term]]:
        """(axis, term) of the channel axes of a weight."""
        terms = self.dims.at((weight.use.node, weight.use.index)) or []
        for axis in (*weight.use.out_axes, *weight.use.in_axes):
            yield axis, terms[axis]


def analyse(network: Network) -> Analysis:
    """Find all channel sets, and why those that cannot grow cannot."""
    dims = infer_dimensions(network)
    result = Analysis(dims, _weights(dims))
    _freeze_unfollowable(result)
    freeze_silenced(dims, *_roles(result))
    result.sets = _describe(result)
    return result


def _weights(dims: Dimensions) -> list[Weight]:
    """Uses of weights whose values can be grown; the axes of others are frozen."""
    found = []
    for use in dims.linears():
        roots = dims.network.roots((use.node, use.index))
        moved = any(n.op_type in ("Expand", "Tile") for _, _, way in roots for n in way)
        if roots and not moved:
            found += [Weight(use, root) for root, _, _ in roots]
            continue
        for axis, term in enumerate(dims.at((use.node, use.index)) or []):
            label = f"{use.node.op_type} {use.node.name or ''}".strip()
            dims.forest.freeze(term, Reason(label, axis, "its weight is computed from other constants"))
    return found


def _roles(result: Analysis) -> tuple[dict[Term, list[Weight]], dict[Term, list[Weight]]]:
    writers: dict[Term, list[Weight]] = {}
    readers: dict[Term, list[Weight]] = {}
    leaves = result.dims.forest.leaves
    for weight in result.weights:
        terms = result.dims.at((weight.use.node, weight.use.index)) or []
        through = not weight.use.in_axes and weight.use.data >= 0
        inner = {leaf for axis in weight.use.in_axes for leaf in leaves(terms[axis])}
        for leaf in dict.fromkeys(leaf for axis in weight.use.out_axes for leaf in leaves(terms[axis])):
            if through and leaf in _data_leaves(result, weight):
                continue
            if leaf not in inner:
                writers.setdefault(leaf, []).append(weight)
        for leaf in inner:
            readers.setdefault(leaf, []).append(weight)
    return writers, readers


def _data_leaves(result: Analysis, weight: Weight) -> set[Term]:
    """Atoms of the data a depthwise weight passes through: it does not write those."""
    data = result.dims.at((weight.use.node, weight.use.data)) or []
    return {leaf for t in data for leaf in result.dims.forest.leaves(t)}


def _freeze_unfollowable(result: Analysis) -> None:
    """Freeze sets whose growth would change a shape-derived value that cannot be patched; each round sees fewer."""
    dims = result.dims
    while True:
        writers, readers = _roles(result)
        multiplied = dims.contracted
        candidates = [a for a in writers if (a in readers or a in multiplied) and not a.frozen]
        growth = {atom: 1 + i % 7 for i, atom in enumerate(candidates)}
        patches = find_patches(dims, growth)
        frozen = _freeze_undemandable(dims, [a for a in candidates if a in multiplied])
        for unsolved in patches.unsolved:
            for atom in unsolved.atoms:
                if not atom.frozen:
                    dims.forest.freeze(atom, unsolved.reason)
                    frozen = True
        if not frozen:
            return


def _freeze_undemandable(dims: Dimensions, atoms: Iterable[Term]) -> bool:
    """Freeze sets whose growth needs zeros that no constant can grant; whether there were any."""
    frozen = False
    for atom in atoms:
        refused = grants(dims, {atom: 1})[1]
        if refused:
            dims.forest.freeze(atom, refused[0].reason)
            frozen = True
    return frozen


def _describe(result: Analysis) -> list[ChannelSet]:
    writers, readers = _roles(result)
    atoms = list(dict.fromkeys([*writers, *readers]))
    atoms = [a for a in atoms if a.size > 1 or a.frozen]
    cost = result.cost
    multiplied = result.dims.contracted
    names = unique(_name(result, a, writers.get(a, []), readers.get(a, [])) for a in atoms)
    sets = []
    for name, atom in zip(names, atoms, strict=True):
        reasons: list[Reason | str] = [r for r in atom.frozen if isinstance(r, Reason | str)]
        if not reasons and atom not in writers:
            reasons.append("no weight writes it")
        if not reasons and atom not in readers and atom not in multiplied:
            reasons.append("no weight reads it")
        sets.append(
            ChannelSet(
                name,
                atom,
                atom.size,
                tuple(writers.get(atom, ())),
                tuple(readers.get(atom, ())),
                tuple(reasons),
                cost.parameters(atom),
                cost.flops(atom),
            )
        )
    return sets


def _name(result: Analysis, atom: Term, writers: list[Weight], readers: list[Weight]) -> str:
    weight = (writers or readers)[0]
    label = weight_label(weight.root, weight.use.node)
    if not writers:
        label = f"input of {label}"
    terms = result.dims.at((weight.use.node, weight.use.index)) or []
    axes = weight.use.out_axes if writers else weight.use.in_axes
    for axis in axes:
        place = _place(result.dims.forest, terms[axis], atom)
        if place is not None:
            return label + place
    return label


def _place(forest: Forest, term: Term, atom: Term) -> str | None:
    """Where in an axis an atom sits: '' for all of it, ``[a:b]`` for a part, ``/outer``, ``/inner`` for a factor."""
    term = forest.find(term)
    if term is atom:
        return ""
    if term.kind is Kind.ATOM:
        return None
    offset = 0
    parts = forest.flat(term, term.kind)
    for i, part in enumerate(parts):
        inside = _place(forest, part, atom)
        if inside is not None:
            if term.kind is Kind.CONCAT:
                return f"[{offset}:{offset + part.size}]{inside}"
            position = "outer" if i == 0 else "inner" if i == len(parts) - 1 else f"factor{i}"
            return f"/{position}{inside}"
        offset += part.size
    return None
