"""Run the rules over a network: a term for every axis of every value."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Forest, Growth, Term, grows, layout
from onnxgrow.analysis.computed import Computed
from onnxgrow.analysis.network import Network, Site
from onnxgrow.analysis.shape_flow import ShapeFlow
from onnxgrow.rules import (
    Contraction,
    Declarations,
    LinearUse,
    NodeContext,
    Reason,
    Statistic,
    Terms,
    Unsuitable,
    find_rule,
)
from onnxgrow.rules.refusals import REFUSALS

__all__ = ["Dimensions", "infer_dimensions"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.generic]


@dataclass
class Dimensions:
    """Terms of every value, and what the rules declared.

    Attributes:
        network: The network they belong to.
        forest: The forest of the terms.
        values: Terms of graph inputs, computed values and tied constants, by name.
        sites: Terms of constants that are analysed for each use of their own.
        declared: What the rule of each node declared.
        computed: Weights that are computed from several constants.
        settled: Atoms that grow so that products of computed values summed over them need no zeros of constants.
        flow: The values computed from shapes.
    """

    network: Network
    forest: Forest = field(default_factory=Forest)
    values: dict[str, Terms] = field(default_factory=dict)
    sites: dict[Site, Terms] = field(default_factory=dict)
    declared: dict[ir.Node, Declarations] = field(default_factory=dict)
    computed: Computed = field(default_factory=Computed)
    settled: set[Term] = field(default_factory=set)
    flow: ShapeFlow = field(init=False)

    def at(self, site: Site) -> Terms | None:
        """Terms of what a node reads at one of its inputs; None where that is absent or of unknown shape."""
        node, index = site
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or not value.name:
            return None
        return self.sites.get(site) or self.values.get(value.name)

    @cached_property
    def contracted(self) -> dict[Term, list[int]]:
        """Atom → positions in :attr:`contractions` of those over it. To be read once the terms are final."""
        found: dict[Term, list[int]] = {}
        for position, (node, said) in enumerate(self.contractions):
            place = said.operands[0][0]
            terms = self.at((node, place.index))
            over = said.over or (terms[place.axis] if terms else None)
            for leaf in dict.fromkeys(self.forest.leaves(over) if over is not None else ()):
                found.setdefault(leaf, []).append(position)
        return found

    @cached_property
    def contractions(self) -> list[tuple[ir.Node, Contraction]]:
        """Products of computed values that are summed over, in network order."""
        return [(node, said) for node in self.network.nodes for said in self.declared[node].contractions]

    def linears(self) -> list[LinearUse]:
        """All uses of weights, in the order of the nodes."""
        return [use for node in self.network.nodes for use in self.declared[node].linears]

    def over(self, node: ir.Node, said: Statistic) -> Term | None:
        """What a node takes a statistic over; None where its shape is not known."""
        terms = self.at((node, said.index))
        return said.over if terms is None or said.over is not None else terms[said.axis]

    def grows(self, terms: Terms | None, growth: Growth) -> bool:
        """Whether any of the axes grows."""
        return terms is not None and any(grows(self.forest, t, growth) for t in terms)

    def layouts(self, terms: Terms, growth: Growth) -> dict[int, npt.NDArray[np.int64]]:
        """Axis → old index or −1 per new index, for the axes that grow."""
        return {i: layout(self.forest, t, growth) for i, t in enumerate(terms) if grows(self.forest, t, growth)}


def infer_dimensions(network: Network) -> Dimensions:
    """Give every axis its term. Never raises for what it does not know: that is frozen, with the reason."""
    dims = Dimensions(network)
    for value in network.model.graph.inputs:
        if value.name and value.name not in network.tensors:
            _new_value(dims, value.name, Reason(f"input {value.name}", None, f"it is an input of {network.place}"))
    dims.flow = ShapeFlow(network)
    for node in network.nodes:
        _visit(dims, node)
    for name in network.overridable:
        _freeze_value(dims, name, f"input {name}", "it is an input of the network, with a default")
    for name in network.trained:
        _freeze_value(dims, name, "training_info", "the training information of the model reads or updates it")
    for value in network.model.graph.outputs:
        if value.name in network.open_outputs and value.name not in network.tensors:
            continue
        _freeze_value(dims, value.name or "", f"output {value.name}", f"it is an output of {network.place}")
    for name in network.captured - network.foreign:
        _freeze_value(dims, name, f"value {name}", "a subgraph reads it")
    for name in sorted(network.foreign):
        _freeze_value(dims, name, f"value {name}", "the graph around this body, or another body, reads it, too")
    return dims


def _new_value(dims: Dimensions, name: str, *reasons: Reason) -> None:
    shape = dims.network.shape(name)
    if shape is not None:
        dims.values[name] = [
            dims.forest.atom(n, *(Reason(r.node, i, r.why) for r in reasons)) for i, n in enumerate(shape)
        ]


def _freeze_value(dims: Dimensions, name: str, node: str, why: str) -> None:
    for axis, term in enumerate(dims.values.get(name) or []):
        dims.forest.freeze(term, Reason(node, axis, why))
    if name in dims.network.tensors:
        for site in dims.network.uses(name):
            for axis, term in enumerate(dims.at(site) or []):
                dims.forest.freeze(term, Reason(node, axis, why))


def _constant_terms(dims: Dimensions, site: Site, name: str) -> Terms | None:
    network = dims.network
    shape = network.shape(name)
    if shape is None:
        return None
    if network.is_tied(name):
        if name not in dims.values:
            _new_value(dims, name)
        return dims.values[name]
    dims.sites[site] = [dims.forest.atom(n) for n in shape]
    return dims.sites[site]


def _visit(dims: Dimensions, node: ir.Node) -> None:
    network = dims.network
    inputs: list[Terms | None] = []
    shapes: list[tuple[int, ...] | None] = []
    blind = ""
    for i, value in enumerate(node.inputs):
        name = value.name if value is not None else None
        if not name:
            inputs.append(None)
            shapes.append(None)
            continue
        terms = _constant_terms(dims, (node, i), name) if name in network.tensors else dims.values.get(name)
        if terms is None:
            blind = f"the shape of {name} is not known"
        inputs.append(terms)
        shapes.append(network.shape(name))
    out_shapes = [network.shape(o.name) if o.name else None for o in node.outputs]
    if any(o.name and s is None for o, s in zip(node.outputs, out_shapes, strict=True)):
        blind = blind or "the shape of an output is not known"
    op = NodeContext(
        node,
        network.version(node),
        dims.forest,
        inputs,
        shapes,
        out_shapes,
        lambda i: _known(network, node, i),
        lambda i: _is_derived(network, node, i),
    )
    outputs = _apply(op, blind)
    dims.declared[node] = op.said
    for i, output in enumerate(node.outputs):
        if not output.name:
            continue
        terms = outputs[i] if i < len(outputs) else None
        shape = out_shapes[i]
        if shape is None:
            continue
        if terms is not None and [t.size for t in terms] != list(shape):
            logger.warning("%s: rule gives %s for %s", op.label, [t.size for t in terms], shape)
            op.freeze(terms, "its rule and its shape disagree")
            terms = None
        dims.values[output.name] = terms if terms is not None else op.fresh_all(shape, _opaque(op))


def _apply(op: NodeContext, blind: str) -> Sequence[Terms | None]:
    """The rule's result; where there is none, every axis at the node is frozen."""
    rule = find_rule(op.node.domain, op.node.op_type, op.version)
    why = blind or _opaque(op)
    if rule is not None and not blind:
        try:
            return rule(op)
        except Unsuitable as e:
            why = f"{op.node.op_type}: {e}"
    op.said = Declarations()
    for terms in op.inputs:
        op.freeze(terms or [], why)
    return [None if shape is None else op.fresh_all(shape, why) for shape in op.out_shapes]


def _opaque(op: NodeContext) -> str:
    domain = f"{op.node.domain}::" if op.node.domain not in ("", "ai.onnx") else ""
    why = REFUSALS.get(("" if not domain else op.node.domain, op.node.op_type))
    return f"no rule for {domain}{op.node.op_type}" + (f": {why}" if why else "")


def _known(network: Network, node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index]
    name = value.name if value is not None else None
    if not name or name not in network.concrete.values:
        return None
    known = network.concrete.values[name]
    if name in network.derived:
        return known
    elsewhere = network.other.values.get(name)
    same = elsewhere is not None and elsewhere.shape == known.shape and bool((elsewhere == known).all())
    return known if same else None


def _is_derived(network: Network, node: ir.Node, index: int) -> bool:
    value = node.inputs[index]
    return value is not None and value.name in network.derived
