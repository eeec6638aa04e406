"""Channel sets: the growable units of a network, each with its writers, its readers and what a channel costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from onnxgrow.algebra import Forest, Kind, Term
from onnxgrow.analysis.computed import add_computed
from onnxgrow.analysis.cost import Cost, Weight
from onnxgrow.analysis.demand import grants
from onnxgrow.analysis.infer import Dimensions, infer_dimensions
from onnxgrow.analysis.naming import unique, weight_label
from onnxgrow.analysis.network import Network, Site
from onnxgrow.analysis.patches import find_patches
from onnxgrow.analysis.residual import settle_statistics
from onnxgrow.analysis.silenced import freeze_silenced
from onnxgrow.analysis.stream import Residual
from onnxgrow.analysis.undefined import freeze_undefined
from onnxgrow.analysis.ways import REPEATS, Root
from onnxgrow.collector import without_collection
from onnxgrow.concrete.body_runs import BodyRuns
from onnxgrow.rules import LinearUse, Reason

__all__ = ["Analysis", "BodyAnalysis", "ChannelSet", "Weight", "analyse"]


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
        ways: How it can grow although statistics are taken over it, the preferred way first: then it is the width of
            a residual stream, which grows on request only. Empty for other sets.
        outputs: Graph outputs that grow with it; only such as were named to the analysis.
    """

    name: str
    atom: Term
    size: int
    writers: tuple[Weight, ...]
    readers: tuple[Weight, ...]
    reasons: tuple[Reason | str, ...]
    parameters: int
    flops: int
    ways: tuple[Residual, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def growable(self) -> bool:
        return not self.reasons

    @property
    def residual(self) -> bool:
        """Whether it is the width of a residual stream."""
        return bool(self.ways)


@dataclass(frozen=True)
class BodyAnalysis:
    """A body of control flow, analysed as a network of its own: what it captures and gives out is frozen.

    Attributes:
        runs: The lifted body and inputs it runs with.
        analysis: Its channel sets, named after the body.
    """

    runs: BodyRuns
    analysis: Analysis


@dataclass
class Analysis:
    """Everything known of a network before anything is decided.

    Attributes:
        dims: Terms of all axes.
        weights: All uses of weights.
        sets: All channel sets that a weight writes or reads, growable or not, in network order; after those of the
            graph itself those of its bodies.
        bodies: The bodies of control flow in it that hold weights.
        notes: Bodies that are not analysed, with the reason.
        ways: Atom → how it can grow, where statistics are taken over it.
    """

    dims: Dimensions
    weights: list[Weight] = field(default_factory=list)
    sets: list[ChannelSet] = field(default_factory=list)
    bodies: list[BodyAnalysis] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ways: dict[Term, tuple[Residual, ...]] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        return self.dims.network

    @property
    def growable(self) -> list[ChannelSet]:
        return [s for s in self.sets if s.growable]

    @property
    def parts(self) -> list[Analysis]:
        """This graph and all bodies inside it, outer ones first: each with weights and sets of its own."""
        return [self, *(part for body in self.bodies for part in body.analysis.parts)]

    @property
    def own_sets(self) -> list[ChannelSet]:
        """The sets of the graph itself."""
        inner = {s.atom for body in self.bodies for s in body.analysis.sets}
        return [s for s in self.sets if s.atom not in inner]

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


@without_collection
def analyse(network: Network) -> Analysis:
    """Find all channel sets, and why those that cannot grow cannot."""
    dims = infer_dimensions(network)
    result = Analysis(dims, _weights(dims))
    writers, readers = _roles(result)
    result.ways = settle_statistics(dims, [a for a in writers if a in readers])
    freeze_undefined(dims)
    _freeze_unfollowable(result)
    writers, readers = _roles(result)
    freeze_silenced(dims, {a: w for a, w in writers.items() if a not in result.ways}, readers)
    result.sets = _describe(result)
    return result


def _weights(dims: Dimensions) -> list[Weight]:
    """Uses of weights whose values can be grown; the axes of others are frozen."""
    found = []
    uses = dims.linears()
    roots_of = {use: dims.network.roots((use.node, use.index)) for use in uses}
    computed: dict[LinearUse, dict[str, list[Site]]] = {}
    # From the end: what only helps to compute a weight is known then, and is no use of a weight itself.
    for use in reversed(uses):
        if not roots_of[use] and use.node not in dims.computed.nodes:
            computed[use] = add_computed(dims, use)
    for use in uses:
        if use.node in dims.computed.nodes:
            continue
        roots, sites = roots_of[use], dict(computed.get(use, {}))
        why = "" if sites else _unusable(dims, roots)
        if not why:
            for root, site, _ in roots:
                sites.setdefault(root, []).append(site)
            found += [Weight(use, root, tuple(mine) if len(sites) > 1 else ()) for root, mine in sites.items()]
            continue
        for axis, term in enumerate(dims.at((use.node, use.index)) or []):
            label = f"{use.node.op_type} {use.node.name or ''}".strip()
            dims.forest.freeze(term, Reason(label, axis, why))
    return found


def _unusable(dims: Dimensions, roots: Sequence[Root]) -> str:
    """Why no new values can be stored for a weight; empty when they can."""
    if not roots or any(step.node.op_type in REPEATS for _, _, way in roots for step in way):
        return "its weight is computed from other constants"
    for root, _, way in roots:
        dtype = dims.network.tensors[root].dtype
        counted = dtype.is_integer() and not any(s.node.op_type in ("Cast", "DequantizeLinear") for s in way)
        if counted or not (dtype.is_integer() or dtype.is_floating_point()):
            return f"its weight is of type {dtype.name}"
    return ""


def _roles(result: Analysis) -> tuple[dict[Term, list[Weight]], dict[Term, list[Weight]]]:
    writers: dict[Term, list[Weight]] = {}
    readers: dict[Term, list[Weight]] = {}
    leaves = result.dims.forest.leaves
    for weight in result.weights:
        terms = result.dims.at((weight.use.node, weight.use.index)) or []
        through = not weight.use.in_axes and weight.use.data >= 0
        # In order, which a set would not keep: names of sets depend on it.
        inner = dict.fromkeys(leaf for axis in weight.use.in_axes for leaf in leaves(terms[axis]))
        outer = dict.fromkeys(leaf for axis in weight.use.out_axes for leaf in leaves(terms[axis]))
        if weight.sites:
            own = {leaf for site in weight.sites for t in result.dims.at(site) or () for leaf in leaves(t)}
            inner, outer = ({leaf: None for leaf in found if leaf in own} for found in (inner, outer))
        for leaf in outer:
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
        leaving = _leaving(dims)
        candidates = [a for a in writers if (a in readers or a in multiplied or a in leaving) and not a.frozen]
        growth = {atom: 1 + i % 7 for i, atom in enumerate(candidates)}
        patches = find_patches(dims, growth)
        frozen = _freeze_undemandable(
            dims, [a for a in candidates if a in multiplied or dims.computed.needs_of(dims, {a: 1})]
        )
        for unsolved in patches.unsolved:
            for atom in unsolved.atoms:
                if not atom.frozen:
                    dims.forest.freeze(atom, unsolved.reason)
                    frozen = True
        if not frozen:
            return


def _leaving(dims: Dimensions) -> dict[Term, tuple[str, ...]]:
    """Atom → the open graph outputs it lies on."""
    found: dict[Term, tuple[str, ...]] = {}
    for name in (v.name or "" for v in dims.network.model.graph.outputs):
        terms = dims.values.get(name) or () if name in dims.network.open_outputs else ()
        for leaf in dict.fromkeys(leaf for t in terms for leaf in dims.forest.leaves(t)):
            found[leaf] = (*found.get(leaf, ()), name)
    return found


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
    leaving = _leaving(result.dims)
    names = unique(_name(result, a, writers.get(a, []), readers.get(a, [])) for a in atoms)
    sets = []
    for name, atom in zip(names, atoms, strict=True):
        reasons: list[Reason | str] = [r for r in atom.frozen if isinstance(r, Reason | str)]
        if not reasons and atom not in writers:
            reasons.append("no weight writes it")
        if not reasons and atom not in readers and atom not in multiplied and atom not in leaving:
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
                () if reasons else result.ways.get(atom, ()),
                leaving.get(atom, ()),
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
    read = [terms[axis] for axis in axes]
    # Of a weight joined from several constants, the place is that in the constant.
    read = [t for site in weight.sites for t in result.dims.at(site) or ()] or read
    for term in read:
        place = _place(result.dims.forest, term, atom)
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
