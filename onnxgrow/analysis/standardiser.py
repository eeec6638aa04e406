"""Follow one weight from constants to the op that uses it: what standardisation makes of its entries.

See :mod:`onnxgrow.analysis.standardised` for what the ops do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, grown_size
from onnxgrow.analysis.network import Site
from onnxgrow.rules import LinearUse

if TYPE_CHECKING:
    from onnxgrow.analysis.infer import Dimensions

__all__ = ["NOTHING", "Handler", "Standard", "State", "Unknown", "Walk"]

NOTHING = Fraction(0)


@dataclass
class Standard:
    """How one weight keeps its standardised entries when its fan-in grows.

    Attributes:
        over: Where statistics are taken: a site and the axes that they are taken over.
        means: Constants, where they are first read → axes over which their new entries are the mean of the old ones.
        scaled: Constants, where they are first read → power of η that their old entries are multiplied by.
        epsilons: Nodes whose ``epsilon`` is multiplied by η, with what it is where they do not state it.
        exponents: Values whose old entries are multiplied by a power of η.
        nodes: Ops whose statistics stay, or are taken back.
        factors: Uses of a weight that has no gain → power of η that it has to be multiplied by there.
    """

    over: tuple[Site, tuple[int, ...]]
    means: dict[Site, tuple[int, ...]] = field(default_factory=dict)
    scaled: dict[Site, Fraction] = field(default_factory=dict)
    epsilons: dict[ir.Node, float] = field(default_factory=dict)
    exponents: dict[str, Fraction] = field(default_factory=dict)
    nodes: set[ir.Node] = field(default_factory=set)
    factors: dict[Site, Fraction] = field(default_factory=dict)

    def share(self, dims: Dimensions, growth: Growth) -> Fraction:
        """η: the old entries' share in what the statistics are taken over."""
        site, axes = self.over
        terms = [(dims.at(site) or [])[a] for a in axes]
        return Fraction(prod(t.size for t in terms), prod(grown_size(dims.forest, t, growth) for t in terms))


@dataclass(frozen=True)
class State:
    """A value of the computation.

    Attributes:
        shape: Its shape.
        raw: The constant whose entries it holds, moved: where that is first read, and for each axis of the value the
            axes of the constant that it consists of.
        zero: Axes along which new entries are zero; of a value that neither has nor is raw, nothing grows.
        mean: The constant and the axes of it of which it is the mean.
        summed: Whether it is the sum, in place of the mean.
        exponent: Old entries are multiplied by this power of η.
        gains: Constants, where they are first read, that multiply all of it.
    """

    shape: tuple[int, ...]
    raw: tuple[Site, tuple[tuple[int, ...], ...]] | None = None
    zero: frozenset[int] = frozenset()
    mean: tuple[str, frozenset[int]] | None = None
    summed: bool = False
    exponent: Fraction = NOTHING
    gains: tuple[Site, ...] = ()


class Unknown(Exception):
    """A value without a state."""


Handler = Callable[["Walk", ir.Node], "Sequence[State]"]
"""Gives the states of the outputs; raises :class:`Unknown`."""


class Walk:
    """One walk, with factors on some constants given."""

    def __init__(
        self, dims: Dimensions, handlers: Mapping[str, Handler], given: Mapping[Site, Fraction] | None = None
    ) -> None:
        self.handlers = handlers
        self.dims, self.network = dims, dims.network
        self.given = given or {}
        self.fan: set[Term] = set()
        self.nodes: set[ir.Node] = set()
        self.states: dict[str, State] = {}
        self.standard: Standard | None = None

    def run(self, order: Iterable[ir.Node], use: LinearUse) -> State | None:
        """The state of the weight, where all that grows in it becomes zero for new inputs."""
        terms = self.dims.at((use.node, use.index)) or []
        self.fan = {leaf for a in use.in_axes for leaf in self.dims.forest.leaves(terms[a])}
        for node in order:
            handler = self.handlers.get(node.op_type)
            if handler is None:
                continue
            try:
                results = handler(self, node)
            except Unknown:
                continue
            self.nodes.add(node)
            for output, state in zip(node.outputs, results, strict=False):
                if output.name:
                    self.states[output.name] = state
        try:
            found = self.read(use.node, use.index)
        except Unknown:
            return None
        if self.standard is None or not set(use.in_axes) <= found.zero or found.zero & set(use.out_axes):
            return None
        for site, exponent in self.given.items():
            self.scale(site, exponent)
        self.standard.nodes = self.nodes
        self.standard.exponents = {n: s.exponent for n, s in self.states.items() if s.exponent}
        return found

    # ---- reading

    def name(self, node: ir.Node, index: int) -> str:
        value = node.inputs[index] if index < len(node.inputs) else None
        return (value.name if value is not None else None) or ""

    def read(self, node: ir.Node, index: int) -> State:
        """State of an input."""
        name = self.name(node, index)
        if name in self.states:
            return self.states[name]
        shape = self.network.shape(name)
        if shape is None or name not in self.network.derived:
            raise Unknown
        if name in self.network.tensors:
            site = (node, index)
            exponent = self.given.get(site, NOTHING)
            return State(shape, (site, tuple((a,) for a in range(len(shape)))), exponent=exponent, gains=(site,))
        if prod(shape) == 1:  # made of shapes, which are kept as they are
            return State(shape)
        raise Unknown

    def shape(self, node: ir.Node, output: int = 0) -> tuple[int, ...]:
        found = self.network.shape(node.outputs[output].name or "")
        if found is None:
            raise Unknown
        return found

    def reduced(self, node: ir.Node, rank: int) -> frozenset[int]:
        """Axes that a reduction runs over."""
        given = node.attributes.get("axes")
        if given is not None:
            return frozenset(a % rank for a in given.as_ints())
        name = self.name(node, 1)
        known = self.network.concrete.values.get(name) if name else None
        if name and known is None:
            raise Unknown
        if known is None or not known.size:
            none = node.attributes.get_int("noop_with_empty_axes", 0)
            return frozenset() if none else frozenset(range(rank))
        return frozenset(int(a) % rank for a in np.asarray(known).reshape(-1))

    def grows(self, node: ir.Node, axes: Iterable[int]) -> bool:
        """Whether axes of the first input have anything of the weight's fan-in."""
        terms = self.dims.at((node, 0)) or []
        return any(self.fan.intersection(self.dims.forest.leaves(terms[a])) for a in axes)

    # ---- what is asked of constants

    def take_mean(self, node: ir.Node, x: State, axes: frozenset[int]) -> None:
        """Let the new entries of a constant be the mean of its old ones over these axes of a value of it."""
        assert x.raw is not None
        site, parts = x.raw
        over = tuple(sorted(a for axis in axes for a in parts[axis]))
        if self.standard is None:
            self.standard = Standard(((node, 0), tuple(sorted(axes))))
        if self.standard.means.setdefault(site, over) != over:
            raise Unknown

    def scale(self, site: Site, exponent: Fraction) -> None:
        """Multiply a constant by a power of η."""
        assert self.standard is not None
        if self.standard.scaled.setdefault(site, exponent) != exponent:
            raise Unknown

    def gain(self, node: ir.Node, index: int, exponent: Fraction) -> None:
        """Multiply an operand by a power of η, at one of the constants that it is a product of."""
        for site in self.scalable(self.read(node, index).gains):
            if site not in self.given:
                self.scale(site, exponent)
                self._pass_on(site, node, exponent)
                return
        raise Unknown

    def scalable(self, sites: Iterable[Site]) -> list[Site]:
        """Constants that nothing else reads, in the order in which they should be multiplied.

        One number first: where it is computed from the fan-in, it is what changes when the network is built anew. But
        no 1, which is only there to be divided.
        """

        def rank(site: Site) -> tuple[bool, int]:
            values = np.asarray(self.network.tensors[self.name(*site)].numpy())
            return values.size == 1 and bool(values.reshape(-1)[0] == 1), values.size

        names = {site: self.name(*site) for site in sites}
        alone = {s: len(list(self.network.uses(n))) == 1 or not self.network.is_tied(n) for s, n in names.items()}
        return sorted((s for s, ok in alone.items() if ok), key=rank)

    def _pass_on(self, site: Site, end: ir.Node, exponent: Fraction) -> None:
        """What a constant makes on its way to an op is multiplied, too."""
        first = site[0]
        if first is end:
            return
        for name, state in self.states.items():
            if site in state.gains:
                self.states[name] = replace(state, exponent=state.exponent + exponent)
