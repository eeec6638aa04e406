"""Follow the new channels of one residual stream through a network: what they hold at every value, if it can work.

For one atom and one mode (see :mod:`onnxgrow.analysis.residual`) every value gets a *fact* of its new entries along
the atom, and an *exponent* e: its old entries are η**e times the original's. Statistics give such factors; the first
constant that multiplies takes them back. Whatever is not known to work raises :class:`Impossible`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.stream import (
    LINEAR,
    MOVES,
    NONE,
    NORMALISING,
    PASSES,
    PRODUCTS,
    SILENT,
    SUMS,
    UNSAID,
    ZERO_EXPONENT,
    Impossible,
    Residual,
    State,
)
from onnxgrow.analysis.writing import Writing
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO

__all__ = ["Follower", "Handler"]

Handler = Callable[["Follower", ir.Node], State]


class Follower(Writing):
    """One walk over the network, producers first.

    Args:
        dims: Of the network.
        atom: The stream.
        mode: What its new channels hold.
        handlers: Operator, as :meth:`operator` calls it → what it makes of the states it reads.
    """

    def __init__(self, dims: Dimensions, atom: Term, mode: str, handlers: Mapping[str, Handler]) -> None:
        super().__init__(dims, atom, mode)
        self.handlers = handlers
        self.silent: set[str] = set()
        self.reads = False

    def run(self, atoms: Mapping[ir.Node, Collection[Term]]) -> Residual:
        """Follow the stream.

        Args:
            atoms: Node → atoms of the axes of what it reads and gives: others are left out, so that many short streams
                take no longer than one that is as long as all of them.

        Raises:
            Impossible: A statistic, or what follows it, would not stay the same.
        """
        for node in self.network.nodes:
            if self.atom in atoms[node] or any(v is not None and self._is_noted(v) for v in node.inputs):
                self._visit(node)
        self._check_constants()
        if not (self.found.free or self.reads):
            node = self.network.nodes[-1]
            twins = "copies that everything reads as it reads the old ones, so that they would stay copies"
            zeros = "zero, and nothing that reads them could learn"
            raise Impossible(node, f"its new channels would be {twins if self.mode == COPY else zeros}")
        for name, (fact, exponent) in self.states.items():
            if fact in (MEAN, ZERO, COPY):
                self.found.facts[name] = fact
            if exponent:
                self.found.exponents[name] = exponent
        return self.found

    def _is_noted(self, value: ir.Value) -> bool:
        return value.name in self.states or value.name in self.followed

    def _visit(self, node: ir.Node) -> None:
        names = [v.name for v in node.inputs if v is not None and v.name]
        if not names:
            return
        if all(n in self.network.derived for n in names):
            # Constants that are normalised (tables of relative positions) are followed like what is computed.
            if not self.statistics(node) and not self.followed.intersection(names):
                return
            self.followed.update(o.name for o in node.outputs if o.name)
        states = self.computed(node)
        if not any(f or e for f, e in states) and not self.constants(node):
            return
        self._check_products(node)
        handler = self.handlers.get(self.operator(node))
        if node in self.uses and not self.statistics(node):
            state = self._linear(node)
        elif handler is not None:
            state = handler(self, node)
        else:
            state = self.unknown(node)
        self._note(node, state)
        ends = {v.name for v in self.network.model.graph.outputs} | self.network.captured
        if state[1] and any(o.name in ends for o in node.outputs):
            raise Impossible(node, "a factor would be seen outside")

    def _check_products(self, node: ir.Node) -> None:
        """Refuse products of computed values that are summed over the atom, but for those with zeros on one side."""
        for said in self.dims.declared[node].contractions:
            places = [side[0] for side in said.operands]
            axes = [(self.dims.at((node, p.index)) or [])[p.axis] for p in places]
            over = said.over or axes[0]
            if not self.carries([over]):
                continue
            whole = said.over is None and all(self.dims.forest.find(axis) is self.atom for axis in axes)
            alone = all(len(side) == 1 and side[0].part is None for side in said.operands)
            zero = whole and alone and any(self.read(node, p.index)[0] == ZERO for p in places)
            if not zero or node.op_type not in PRODUCTS:
                raise Impossible(node, "it sums up products of new channels that are zero on neither side")

    def _is_factor(self, name: str) -> bool:
        """Whether a weight that is looked up is multiplied and summed over the atom: it reads the stream then."""
        uses = list(self.network.uses(name))
        return bool(uses) and all(
            (node.op_type in MOVES | PASSES and index == 0 and self._is_factor(node.outputs[0].name or ""))
            or any(
                place.index == index and self.carries([said.over or (self.dims.at((node, index)) or [])[place.axis]])
                for said in self.dims.declared[node].contractions
                for side in said.operands
                for place in side
            )
            for node, index in uses
        )

    def _note(self, node: ir.Node, state: State) -> None:
        for output in node.outputs:
            if not output.name or output.name in self.states:
                continue
            terms = self.dims.values.get(output.name)
            fact = NONE if not self.carries(terms) else state[0] or ANY if self.has_fact(terms) else ANY
            self.states[output.name] = (fact, state[1])
            if self.mode == ZERO and fact == ANY and self._is_silent(node):
                self.silent.add(output.name)

    def _is_silent(self, node: ir.Node) -> bool:
        """Whether new channels that are zero come out as zeros that no fact speaks of: |x| at 0.

        What reads them has to be zero for the new channels then, so neither side ever gets a gradient.
        """
        if node.op_type not in SILENT or not self._leaves_zero(node):
            return False
        places = range(1 if node.op_type in NORMALISING else len(node.inputs))
        names = [self.name(node, i) for i in places if self.carries(self.dims.at((node, i)))]
        silent = [n in self.silent for n in names]
        if node.op_type == "Mul":
            return any(silent)
        zero = all(n in self.silent or self.states.get(n, ("",))[0] == ZERO for n in names)
        # Where the others have zeros only, a fact would say so of what they give, too.
        return bool(names) and zero and (node.op_type in UNSAID or any(silent))

    def _leaves_zero(self, node: ir.Node) -> bool:
        """Whether a sum, Max or Min of zeros and of what does not carry the atom is zero; so with other ops."""
        if node.op_type not in SUMS | {"Max", "Min"}:
            return True
        names = [self.name(node, i) for i in range(len(node.inputs)) if not self.carries(self.dims.at((node, i)))]
        others = [self.network.concrete.values.get(name) for name in names]
        if node.op_type in SUMS:
            return all(v is not None and not np.any(v) for v in others)
        sign = 1 if node.op_type == "Max" else -1
        return all(v is not None and bool((np.asarray(v, np.float64) * sign <= 0).all()) for v in others)

    def unknown(self, node: ir.Node) -> State:
        self.plain(node)
        if self.statistics(node):
            raise Impossible(node, "it has no form for new channels")
        return (ANY, ZERO_EXPONENT)

    def _take_back(self, node: ir.Node) -> None:
        """Let the weight take back a factor on what it multiplies: that of a norm without a scale of its own."""
        factors = {i: e for i, (_, e) in ((i, self.read(node, i)) for i in range(len(node.inputs))) if e}
        if not factors:
            return
        uses = self.uses[node]
        if node.op_type not in PRODUCTS or len(uses) != 1 or factors.keys() != {uses[0].data}:
            self.plain(node)
        self.scale(node, uses[0].index, -factors[uses[0].data])

    def _linear(self, node: ir.Node) -> State:
        self._take_back(node)
        made = False
        for use in self.uses[node]:
            if self.sums_over(use):
                if self.read(node, use.data)[0] == ZERO:
                    # What writes zeros into the stream reads by zeros: it neither learns nor lets its writers learn.
                    if self.mode != ZERO or not self._is_written(node, use):
                        self.found.free.add((node, use.index))
                elif self.mode == COPY and self._is_written(node, use):
                    self._read_copies(node, use)
                else:
                    self.reads = self.reads or self.name(node, use.data) not in self.silent
                    for name, site, way in self.network.roots((node, use.index)):
                        written = self._written_axis(node, use.index, way)
                        axes = self.carries(self.dims.at(site))
                        self.zeroed.update((name, axis) for axis in axes if axis != written)
            made = made or bool(self._made_axes(use))
        if not made:
            states = [s for s in self.computed(node) if s[0]]
            kept = node.op_type in LINEAR and len(states) == 1 and not self._one_for_all(node, 2)
            return (states[0][0] if kept else ANY, ZERO_EXPONENT)
        looked_up = all(use.data < 0 for use in self.uses[node])
        if node.op_type not in LINEAR or (looked_up and self._is_factor(node.outputs[0].name or "")):
            return (ANY, ZERO_EXPONENT)
        if self._passes_through(node):
            if self.mode != COPY or any(f != COPY for f, _ in self.computed(node) if f):
                return (ANY, ZERO_EXPONENT)
        elif self.mode == ZERO and self._one_for_all(node, 2):
            return (ANY, ZERO_EXPONENT)
        for i in self.constants(node):
            self.write(node, i)
        return (self.mode, ZERO_EXPONENT)
