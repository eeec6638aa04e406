"""Follow the new channels of one residual stream through a network: what they hold at every value, if it can work.

For one atom and one mode (see :mod:`onnxgrow.analysis.residual`) every value gets a *fact* of its new entries along
the atom, and an *exponent* e: its old entries are η**e times the original's. Statistics give such factors; the first
constant that multiplies takes them back. Whatever is not known to work raises :class:`Impossible`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.network import Site
from onnxgrow.analysis.ways import Way
from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO
from onnxgrow.rules import LinearUse, Reason, Terms

__all__ = ["FLAT", "Follower", "Handler", "Impossible", "Residual", "State", "Written"]

HALF = Fraction(1, 2)
NONE = ""
"""The fact of a value that does not carry the atom."""

PASSES = frozenset("Cast Dropout Identity Neg".split())
MOVES = frozenset("Expand Flatten Gather Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split())
SUMS = frozenset("Add Mean Sub Sum".split())
PRODUCTS = frozenset("Gemm MatMul".split())
"""Linear ops whose weight can take back a factor on what it multiplies."""
LINEAR = frozenset("Conv Gather Gemm MatMul".split())
"""Ops whose constant can make new outputs that combine the old ones."""
FLAT = frozenset("Abs Ceil Clip Floor Relu Round Shrink Sign Sqrt ThresholdedRelu".split())
"""Ops with f(0) = 0 whose derivative at 0 is 0, infinite or undefined: frameworks return no useful gradient."""
KEEPS_ZERO = frozenset(
    "Asin Asinh Atan Celu Elu Erf Gelu HardSwish LeakyRelu Mish Selu Sin Sinh Softsign Swish Tan Tanh".split()
)
"""Functions with f(0) = 0 that pass a gradient there."""
NORMALISING = frozenset("BatchNormalization InstanceNormalization".split())
"""Ops that turn new channels of zeros into zeros: new entries of their shift are 0."""
UNSAID = FLAT | frozenset("GlobalMaxPool InstanceNormalization Max MaxPool Min".split())
"""Ops that may give zeros for zeros, though no fact of their output says so."""
SILENT = UNSAID | KEEPS_ZERO | NORMALISING | PASSES | MOVES | frozenset("AveragePool GlobalAveragePool Mul".split())
"""Ops that may pass on zeros of which no fact says that they are any."""


class Impossible(Exception):
    """The mode does not work; the text says why, ``label`` where."""

    def __init__(self, node: ir.Node, why: str) -> None:
        super().__init__(why)
        self.label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"


@dataclass(frozen=True)
class Written:
    """A constant whose new entries along ``axis`` combine its old ones there; ``weights`` names the constant (or
    nothing) that weighs them: the scale of a layer, which lies between the writer and the stream.
    """

    axis: int
    weights: str = ""


@dataclass
class Residual:
    """One way in which an atom can grow although statistics are taken over it.

    Attributes:
        mode: ``mean``, ``zero`` or ``copy``.
        facts: Value → fact of its new entries along the atom, where it is the atom alone on one axis.
        exponents: Value → e, where its old entries become η**e times the original's (e ≠ 0).
        written: Constants, where they are first read, whose new entries along an axis combine the old ones as the
            mode says.
        scaled: Constants, where they are first read, all of whose old entries are multiplied by η**e.
        epsilons: Nodes whose ``epsilon`` is multiplied by η, with what it is where they do not state it.
        free: Weights, at the op that uses them, that read new channels which are all zero, so that they may hold
            anything there.
        statistics: Where statistics are taken over it: why it grows in such ways only.
    """

    mode: str
    facts: dict[str, str] = field(default_factory=dict)
    exponents: dict[str, Fraction] = field(default_factory=dict)
    written: dict[Site, Written] = field(default_factory=dict)
    scaled: dict[Site, Fraction] = field(default_factory=dict)
    epsilons: dict[ir.Node, float] = field(default_factory=dict)
    free: set[Site] = field(default_factory=set)
    statistics: tuple[Reason, ...] = ()


State = tuple[str, Fraction]
ZERO_EXPONENT = Fraction(0)


Handler = Callable[["Follower", ir.Node], State]


class Follower:
    """One walk over the network, producers first.

    Args:
        dims: Of the network.
        atom: The stream.
        mode: What its new channels hold.
        handlers: Operator, as :meth:`operator` calls it → what it makes of the states it reads.
    """

    def __init__(self, dims: Dimensions, atom: Term, mode: str, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self.dims, self.network = dims, dims.network
        self.atom, self.mode = atom, mode
        self.found = Residual(mode)
        self.states: dict[str, State] = {}
        self.uses: dict[ir.Node, list[LinearUse]] = {}
        self.zeroed: set[tuple[str, int]] = set()
        self.silent: set[str] = set()
        self.followed: set[str] = set()
        self.reads = False
        for use in dims.linears():
            self.uses.setdefault(use.node, []).append(use)

    def run(self) -> Residual:
        for node in self.network.nodes:
            self._visit(node)
        self._check_constants()
        if not (self.found.free or self.reads):
            node = self.network.nodes[-1]
            raise Impossible(node, "its new channels would be zero, and nothing that reads them could learn")
        for name, (fact, exponent) in self.states.items():
            if fact in (MEAN, ZERO, COPY):
                self.found.facts[name] = fact
            if exponent:
                self.found.exponents[name] = exponent
        return self.found

    # ---- what is read

    def carries(self, terms: Terms | None) -> list[int]:
        """Axes that have the atom, alone or among others."""
        return [i for i, t in enumerate(terms or []) if self.atom in self.dims.forest.leaves(t)]

    def pure(self, terms: Terms | None) -> int | None:
        """The axis that is the atom, where no other axis has it."""
        axes = self.carries(terms)
        alone = len(axes) == 1 and self.dims.forest.find((terms or [])[axes[0]]) is self.atom
        return axes[0] if alone else None

    def name(self, node: ir.Node, index: int) -> str:
        value = node.inputs[index] if index < len(node.inputs) else None
        return (value.name if value is not None else None) or ""

    @staticmethod
    def operator(node: ir.Node) -> str:
        """The operator, with its domain where that is not ONNX's."""
        return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"

    def constant(self, node: ir.Node, index: int) -> bool:
        """Whether an input is computed from constants alone, with no statistic over the atom on the way."""
        name = self.name(node, index)
        return name in self.network.derived and name not in self.followed

    def read(self, node: ir.Node, index: int) -> State:
        """Fact and exponent of an input; a constant has none yet."""
        name = self.name(node, index)
        if name in self.states:
            return self.states[name]
        return (ANY if self.carries(self.dims.at((node, index))) else NONE, ZERO_EXPONENT)

    def computed(self, node: ir.Node) -> list[State]:
        given = [i for i in range(len(node.inputs)) if self.name(node, i) and not self.constant(node, i)]
        return [self.read(node, i) for i in given]

    def constants(self, node: ir.Node) -> list[int]:
        """Inputs that are constants with the atom."""
        return [i for i in range(len(node.inputs)) if self.constant(node, i) and self.carries(self.dims.at((node, i)))]

    # ---- walking

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

    def _note(self, node: ir.Node, state: State) -> None:
        for output in node.outputs:
            if not output.name or output.name in self.states:
                continue
            terms = self.dims.values.get(output.name)
            fact = NONE if not self.carries(terms) else state[0] or ANY if self.pure(terms) is not None else ANY
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
        quiet = [n in self.silent or (node.op_type in UNSAID and self.states.get(n, ("",))[0] == ZERO) for n in names]
        return any(quiet) if node.op_type == "Mul" else bool(quiet) and all(quiet)

    def _leaves_zero(self, node: ir.Node) -> bool:
        """Whether a Max or Min of zeros and of what does not carry the atom is zero; so with other ops."""
        if node.op_type not in ("Max", "Min"):
            return True
        names = [self.name(node, i) for i in range(len(node.inputs)) if not self.carries(self.dims.at((node, i)))]
        others = [self.network.concrete.values.get(name) for name in names]
        sign = 1 if node.op_type == "Max" else -1
        return all(v is not None and bool((np.asarray(v, np.float64) * sign <= 0).all()) for v in others)

    def unknown(self, node: ir.Node) -> State:
        self.plain(node)
        if self.statistics(node):
            raise Impossible(node, "it has no form for new channels")
        return (ANY, ZERO_EXPONENT)

    def resampled(self, node: ir.Node) -> bool:
        """Whether a node interpolates along other axes, and means stay means: older forms run in single precision only,
        in which they stay so but for roundings.
        """
        region = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return node.op_type == "Resize" and self.network.version(node) >= 11 and not region

    def plain(self, node: ir.Node) -> None:
        """Refuse factors on any input."""
        if any(e for _, e in self.computed(node)):
            raise Impossible(node, "it does not pass on a factor on its input")

    def statistics(self, node: ir.Node) -> list[int]:
        """Axes with the atom that the node takes statistics over."""
        found = self.dims.declared[node].statistics
        return [axis for index, axis, _ in found if axis in self.carries(self.dims.at((node, index)))]

    # ---- constants

    def write(self, node: ir.Node, index: int, weights: str = "") -> None:
        """Let new entries of a constant combine its old ones."""
        roots = self.network.roots((node, index))
        if not roots:
            self._write_behind(node, index, weights)
            return
        for name, site, way in roots:
            terms = self.dims.at(site)
            axes = self.carries(terms)
            axis = self.pure(terms)
            if axis is None and len(axes) > 1 and node in self.uses:
                axis = self._written_axis(node, index, way)
            if not axes:
                continue
            if axis is None or not self.network.tensors[name].dtype.is_floating_point():
                raise Impossible(node, f"{name} cannot hold combinations of its channels")
            if any(step.node.op_type in ("Mul", "Div", "DequantizeLinear", "QuantizeLinear") for step in way):
                raise Impossible(node, f"{name} is scaled on its way")
            mine = Written(axis, weights)
            if self.found.written.setdefault(site, mine) != mine:
                raise Impossible(node, f"two uses of {name} need different new channels")

    def _written_axis(self, node: ir.Node, index: int, way: Way) -> int | None:
        """The axis of a constant along which a linear op makes channels, seen through transposes."""
        terms = self.dims.at((node, index)) or []
        made = [a for u in self.uses[node] if u.index == index for a in u.out_axes]
        axes = [a for a in made if self.dims.forest.find(terms[a]) is self.atom]
        if len(axes) != 1 or any(step.node.op_type not in ("Transpose", "Identity", "Cast") for step in way):
            return None
        axis = axes[0]
        for step in reversed(way):
            if step.node.op_type == "Transpose":
                axis = (step.node.attributes.get_ints("perm", ()) or tuple(range(len(terms)))[::-1])[axis]
        return axis

    def _write_behind(self, node: ir.Node, index: int, weights: str) -> None:
        """The same of a constant that is computed from others in a way that keeps channels apart."""
        name = self.name(node, index)
        producer = self.network.producer(name)
        moved = producer is not None and (producer.op_type in MOVES | SUMS | {"Concat"} or self.resampled(producer))
        if producer is None or not moved:
            raise Impossible(node, f"{name} cannot hold combinations of its channels")
        for i in range(len(producer.inputs)):
            if self.carries(self.dims.at((producer, i))):
                self.write(producer, i, weights)

    def scale(self, node: ir.Node, index: int, exponent: Fraction) -> None:
        """Multiply a constant by η**exponent."""
        name, site = self.name(node, index), (node, index)
        if (2 * exponent).denominator != 1 or abs(exponent) > 1:
            raise Impossible(node, f"a factor to the power {exponent} is not taken back")
        if name in self.network.tensors:
            if not self.network.tensors[name].dtype.is_floating_point() or site in self.found.scaled:
                raise Impossible(node, f"{name} cannot be scaled")
            self.found.scaled[site] = exponent
            return
        producer = self.network.producer(name)
        alone = producer is not None and len(list(self.network.uses(name))) == 1 and name not in self.network.captured
        if producer is None or not alone or not self.constant(node, index):
            raise Impossible(node, f"{name or 'an input'} is no constant of its own, so it cannot take a factor back")
        if producer.op_type in MOVES | PASSES:
            self.scale(producer, 0, exponent)
        elif producer.op_type in SUMS:
            for i in range(len(producer.inputs)):
                self.scale(producer, i, exponent)
        else:
            raise Impossible(node, f"{name} is computed by {producer.op_type}, so it cannot take a factor back")
        self.states[name] = (NONE, exponent)

    def reweigh(self, node: ir.Node, index: int, weights: str) -> bool:
        """Let what a node reads combine its channels with other weights, back to its writers; whether that works."""
        name = self.name(node, index)
        producer = self.network.producer(name)
        if producer is None or len(list(self.network.uses(name))) != 1:
            return False
        if producer.op_type in MOVES | PASSES and not self.constant(producer, 0) and producer not in self.uses:
            done = self.reweigh(producer, 0, weights)
        elif producer in self.uses and producer.op_type in LINEAR and not self._passes_through(producer):
            for i in self.constants(producer):
                self._rewrite(producer, i, weights)
            done = not any(self._one_for_all(producer, i) for i in range(len(producer.inputs)))
        elif producer.op_type in ("Add", "Sub"):
            done = True
            for i in range(len(producer.inputs)):
                if not self.carries(self.dims.at((producer, i))):
                    return False
                if self.constant(producer, i):
                    self._rewrite(producer, i, weights)
                else:
                    done = done and self.reweigh(producer, i, weights)
        else:
            return False
        self.states[name] = (ANY, ZERO_EXPONENT)
        return done

    def _rewrite(self, node: ir.Node, index: int, weights: str) -> None:
        for _, site, _ in self.network.roots((node, index)):
            self.found.written.pop(site, None)
        self.write(node, index, weights)

    def _check_constants(self) -> None:
        """A constant of several uses has to be right for all of them."""
        tied = self.network.is_tied
        weights = {
            site for uses in self.uses.values() for u in uses for _, site, _ in self.network.roots((u.node, u.index))
        }
        for site, exponent in self.found.scaled.items():
            name = self.name(*site)
            if tied(name) and any(self.found.scaled.get(s) != exponent for s in self.network.uses(name)):
                raise Impossible(site[0], f"{name} is used elsewhere, too, where it may not change")
        for site, written in self.found.written.items():
            name = self.name(*site)
            if self.mode != ZERO and (name, written.axis) in self.zeroed and tied(name):
                raise Impossible(site[0], f"{name} writes and reads the stream: its new entries would have to be zero")
            others = [s for s in self.network.uses(name) if s not in weights or s in self.found.written]
            if tied(name) and any(self.found.written.get(s) != written for s in others):
                raise Impossible(site[0], f"two uses of {name} need different new channels")

    # ---- linear ops

    def _passes_through(self, node: ir.Node) -> bool:
        """Whether a weight multiplies the channels one by one (depthwise)."""
        return any(
            not u.in_axes and u.data >= 0 and bool(self.carries(self.dims.at((node, u.data)))) for u in self.uses[node]
        )

    def _one_for_all(self, node: ir.Node, index: int) -> bool:
        """Whether a constant is the same for all channels: the bias of a Gemm may be."""
        return node.op_type == "Gemm" and index == 2 and bool(self.name(node, 2)) and index not in self.constants(node)

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
        made, leaves = False, self.dims.forest.leaves
        for use in self.uses[node]:
            terms = self.dims.at((node, use.index)) or []
            if any(self.atom in leaves(terms[a]) for a in use.in_axes):
                if self.read(node, use.data)[0] == ZERO:
                    self.found.free.add((node, use.index))
                else:
                    self.reads = self.reads or self.name(node, use.data) not in self.silent
                    for name, site, _ in self.network.roots((node, use.index)):
                        self.zeroed.update((name, axis) for axis in self.carries(self.dims.at(site)))
            made = made or any(self.atom in leaves(terms[a]) for a in use.out_axes)
        if not made:
            states = [s for s in self.computed(node) if s[0]]
            kept = node.op_type in LINEAR and len(states) == 1 and not self._one_for_all(node, 2)
            return (states[0][0] if kept else ANY, ZERO_EXPONENT)
        if node.op_type not in LINEAR:
            return (ANY, ZERO_EXPONENT)
        if self._passes_through(node):
            if self.mode != COPY or any(f != COPY for f, _ in self.computed(node) if f):
                return (ANY, ZERO_EXPONENT)
        elif self.mode == ZERO and self._one_for_all(node, 2):
            return (ANY, ZERO_EXPONENT)
        for i in self.constants(node):
            self.write(node, i)
        return (self.mode, ZERO_EXPONENT)

    def centred(self, node: ir.Node) -> bool:
        """Whether a Sub takes from a value its own mean over the atom alone."""
        mean = self.network.producer(self.name(node, 1))
        if node.op_type != "Sub" or mean is None or mean.op_type != "ReduceMean":
            return False
        return self.name(mean, 0) == self.name(node, 0) and self.alone(mean)

    def alone(self, node: ir.Node) -> bool:
        """Whether the atom is all that the node takes its statistics over."""
        over = [((self.dims.at((node, i)) or []), axis) for i, axis, _ in self.dims.declared[node].statistics]
        return all(axis == self.pure(terms) for terms, axis in over if terms[axis].size > 1)
