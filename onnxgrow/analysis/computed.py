"""Weights that are computed from several constants: normalised, masked, summed up, products of low rank.

Such a weight is a value like any other. Old outputs may not read new channels, so it has to be zero where an old output
meets a new channel, and that is demanded of it as of an activation (:mod:`onnxgrow.analysis.demand`): back to constants
that can hold zeros there. What is summed up on the way over an axis that grows needs zeros of its own:

* the norm of each output's weights (https://arxiv.org/abs/1602.07868) stays where its new terms are zero;
* a product of two constants (of low rank, https://arxiv.org/abs/2106.09685; the singular value of spectral
  normalisation, https://arxiv.org/abs/1802.05957) stays where one of the two is zero in each new term.

New outputs may read everything: zeros are only needed where the other axes are old, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis.network import Network, Site
from onnxgrow.analysis.origins import KEPT_BY_ZEROS, PRODUCTS, Path, behind
from onnxgrow.analysis.standardised import Standard, standardise
from onnxgrow.rules import LinearUse, Reason, Terms

if TYPE_CHECKING:
    from onnxgrow.analysis.demand_steps import Masks
    from onnxgrow.analysis.infer import Dimensions

__all__ = ["Computed", "Need", "Source", "add_computed"]

LINEAR = frozenset("Conv ConvTranspose Gather Gemm MatMul".split())
"""Ops whose weight may be computed."""
SAMPLE = 65_536
"""Entries of a constant that are looked at before all of them are."""
PLAIN = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16))


@dataclass(frozen=True)
class Need:
    """Zeros at the new indices of an axis, wherever some other axes are old.

    Attributes:
        node: The op that needs them.
        ways: The operands of which one has to hold them: each a site, its axis, and its axes that count when old.
    """

    node: ir.Node
    ways: tuple[tuple[Site, int, tuple[int, ...]], ...]

    def masks(self, dims: Dimensions, growth: Growth) -> Iterator[tuple[Site, Masks]]:
        """(site, entries that have to be zero) of each way; nothing where the axis does not grow."""
        for site, over, others in self.ways:
            terms = dims.at(site) or []
            new = layout(dims.forest, terms[over], growth) < 0
            if not new.any():
                continue
            old = {a: layout(dims.forest, terms[a], growth) >= 0 for a in others}
            yield (
                site,
                tuple(
                    new if a == over else old[a] if a in old and not old[a].all() else None for a in range(len(terms))
                ),
            )


@dataclass(frozen=True)
class Source:
    """A constant that a computed weight is made of, where it is read first.

    Attributes:
        use: The use of the weight.
        drawn: Whether new entries are drawn, as those of weights are; the others are parameters of the computation.
        mask: Whether it only lets entries of another constant through.
    """

    use: LinearUse
    drawn: bool
    mask: bool


@dataclass
class Computed:
    """The computed weights of a network.

    Attributes:
        nodes: Ops on constants that take part in computing a weight.
        sources: What the weights are made of, by the site where it is read.
        needs: The zeros that they need.
        standards: Those that are standardised over their fan-in, which need means in place of zeros.
        lengths: Constants → sets of axes that lengths are taken over: they may not become zero all along such axes,
            since what they are divided by would be.
    """

    nodes: set[ir.Node] = field(default_factory=set)
    sources: dict[Site, Source] = field(default_factory=dict)
    needs: list[Need] = field(default_factory=list)
    standards: list[Standard] = field(default_factory=list)
    lengths: dict[str, set[frozenset[int]]] = field(default_factory=dict)
    _over: dict[Term, list[Need]] | None = None

    def needs_of(self, dims: Dimensions, growth: Growth) -> list[Need]:
        """Those over an axis that grows, in network order. To be read once the terms are final."""
        if self._over is None:
            self._over = {}
            for need in self.needs:
                axes = [(dims.at(site) or [])[over] for site, over, _ in need.ways]
                for leaf in dict.fromkeys(leaf for term in axes for leaf in dims.forest.leaves(term)):
                    self._over.setdefault(leaf, []).append(need)
        return list({id(need): need for atom in growth for need in self._over.get(atom, ())}.values())


def add_computed(dims: Dimensions, use: LinearUse) -> dict[str, list[Site]]:
    """Take in a use of a computed weight; afterwards its statistics and inner products are needs.

    Returns:
        Constants that write or read its channels → where they are read; empty when there are none, or when the weight
        is computed in a way that is not followed: its axes are to be frozen then.
    """
    found, nodes, layers = behind(dims.network, (use.node, use.index))
    known = use.node.op_type in LINEAR and use.node.domain in ("", "ai.onnx")
    if (
        not known
        or not (found or layers)
        or any(dims.network.tensors[_name(site)].dtype not in PLAIN for site in found)
    ):
        return {}
    terms = dims.at((use.node, use.index)) or []
    standard = None if layers else standardise(dims, use, nodes)
    channels = [terms[a] for a in (*use.in_axes, *use.out_axes)]
    if not all(_is_followed(dims, node, channels, standard) for node in nodes):
        return {}
    sources, weights = _sources(dims, use, found)
    if not all(_add_layer(dims, layer, channels, weights) for layer in layers):
        return {}
    if not layers and not any(source.drawn for source in sources.values()):
        return {}
    for site, source in sources.items():
        dims.computed.sources.setdefault(site, source)
    if standard is not None:
        dims.computed.standards.append(standard)
    else:
        for axis in use.in_axes:
            dims.computed.needs.append(Need(use.node, (((use.node, use.index), axis, use.out_axes),)))
    for node in nodes:
        if node not in dims.computed.nodes:
            dims.computed.nodes.add(node)
            _take_over(dims, node, standard)
    return weights


def _add_layer(dims: Dimensions, node: ir.Node, channels: Terms, weights: dict[str, list[Site]]) -> bool:
    """Add the constants behind the weight of a layer on constants; whether its data has no channel that may grow."""
    own = {leaf for term in channels for leaf in dims.forest.leaves(term) if not leaf.frozen}
    uses = dims.declared[node].linears
    for linear in uses:
        data = {leaf for term in dims.at((node, linear.data)) or [] for leaf in dims.forest.leaves(term)}
        roots = dims.network.roots((node, linear.index))
        if not roots or own & data:
            return False
        for name, site, _ in roots:
            weights.setdefault(name, []).append(site)
    return bool(uses)


def _sources(
    dims: Dimensions, use: LinearUse, found: Mapping[Site, Sequence[Path]]
) -> tuple[dict[Site, Source], dict[str, list[Site]]]:
    """What a weight is made of; and the constants among it that write or read its channels, by name."""
    sources: dict[Site, Source] = {}
    weights: dict[str, list[Site]] = {}
    leaves, terms = dims.forest.leaves, dims.at((use.node, use.index)) or []
    outer, inner = ({leaf for a in axes for leaf in leaves(terms[a])} for axes in (use.out_axes, use.in_axes))
    for site, paths in found.items():
        mine = dims.at(site) or []
        mask, entries = _is_mask(dims.network.tensors[_name(site)]), math.prod(t.size for t in mine)
        # One entry for each output is a scale or a gain; one for each index of a vector in a product is no weight.
        several = 1 < math.prod(t.size for t in mine if outer.intersection(leaves(t))) < entries
        multiplied = any(p.layer in PRODUCTS for p in paths)
        factor = multiplied and sum(t.size > 1 for t in mine) > 1
        value = not mask and not all(p.statistic for p in paths)
        sources[site] = Source(use, value and (several or factor), mask)
        # A gain of inputs can hold the zeros that a weight cannot, whose length is taken for each of them.
        gain = value and not multiplied and any(inner.intersection(leaves(t)) - outer for t in mine)
        if sources[site].drawn or gain:
            weights.setdefault(_name(site), []).append(site)
    return sources, weights


def _is_followed(dims: Dimensions, node: ir.Node, channels: Terms, standard: Standard | None) -> bool:
    """Whether what an op sums up is known to stay the same, or has nothing to do with the channels of the weight."""
    if node.op_type in KEPT_BY_ZEROS or (standard is not None and node in standard.nodes):
        return True
    own = {leaf for term in channels for leaf in dims.forest.leaves(term)}
    over = [(dims.at((node, taken.index)) or [])[taken.axis] for taken in dims.declared[node].statistics]
    return not any(own.intersection(dims.forest.leaves(term)) for term in over)


def _name(site: Site) -> str:
    value = site[0].inputs[site[1]]
    return (value.name if value is not None else None) or ""


def _is_mask(tensor: ir.TensorProtocol) -> bool:
    """Whether a constant of several entries holds nothing but 0 and 1, both of them."""
    values = np.asarray(tensor.numpy())
    first = values.reshape(-1)[:SAMPLE]
    if not bool(np.all((first == 0) | (first == 1))):
        return False
    ones = int(np.count_nonzero(values == 1))
    return 0 < ones < values.size and ones + int(np.count_nonzero(values == 0)) == values.size


def _take_over(dims: Dimensions, node: ir.Node, standard: Standard | None) -> None:
    """Make needs of what an op on constants sums up, in place of what its rule declared."""
    said = dims.declared[node]
    label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"
    over = [taken.axis for taken in said.statistics]
    for taken in said.statistics if standard is None or node not in standard.nodes else ():
        terms = dims.at((node, taken.index)) or []
        if node.op_type in KEPT_BY_ZEROS:
            others = tuple(a for a in range(len(terms)) if a not in over)
            dims.computed.needs.append(Need(node, (((node, 0), taken.axis, others),)))
        else:
            dims.forest.freeze(terms[taken.axis], Reason(label, taken.axis, f"inside a weight, {taken.why}"))
    if over and node.op_type in KEPT_BY_ZEROS:
        dims.computed.lengths.setdefault(_squared(dims.network, node), set()).add(frozenset(over))
    said.statistics.clear()
    if node.op_type in PRODUCTS and said.linears:
        said.linears.clear()
        dims.computed.needs.append(Need(node, _operands(dims, node)))


def _squared(network: Network, node: ir.Node) -> str:
    """The constant whose entries, or squares of them, an op sums up; empty where it is none."""
    name = ""
    reader: ir.Node | None = node
    while reader is not None and all(v is reader.inputs[0] for v in reader.inputs[1:] if reader.op_type == "Mul"):
        value = reader.inputs[0]
        name = (value.name if value is not None else None) or ""
        reader = network.producer(name)
        if reader is not None and reader.op_type not in ("Abs", "Cast", "Identity", "Mul", "Pow"):
            return ""
    return name if name in network.tensors else ""


def _operands(dims: Dimensions, node: ir.Node) -> tuple[tuple[Site, int, tuple[int, ...]], ...]:
    """The operands of a product, each with its axis that is summed over and its axis that is kept."""
    ways = []
    for index in (0, 1):
        rank = len(dims.at((node, index)) or [])
        summed = rank - 1 if index == 0 or rank == 1 else rank - 2
        if node.attributes.get_int("transB" if index else "transA", 0):
            summed = 1 - summed
        kept = () if rank == 1 else (2 * rank - 3 - summed,)
        ways.append(((node, index), summed, kept))
    return tuple(ways)
