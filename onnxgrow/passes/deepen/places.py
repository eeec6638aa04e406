"""Where something can be inserted: the values that a user names, or those behind hidden activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis import node_key
from onnxgrow.analysis.study import Study
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.passes.deepen.infinite import Infinities
from onnxgrow.passes.deepen.unary import Activations

__all__ = ["Illegal", "Place", "Places", "collect"]

FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16))
OLDEST = 7
"""Opset from which on arithmetic broadcasts without attributes."""
IMAGE = frozenset(
    "AveragePool BatchNormalization Conv ConvTranspose GlobalAveragePool GlobalMaxPool GroupNormalization "
    "InstanceNormalization LRN MaxPool".split()
)
LAST = frozenset("Gemm LayerNormalization LSTM MatMul RMSNormalization SimplifiedLayerNormalization".split())
FARTHEST = 24
"""Nodes that are looked back to tell a layout."""


class Illegal(Exception):
    """Nothing can be inserted there; the text says why."""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(reason)


@dataclass(frozen=True)
class Place:
    """A value, and who reads what is inserted behind it.

    Attributes:
        value: Its name.
        base: What names of inserted parts start with.
        readers: (key of a node, index of its input) that will read the inserted value.
        shape: Of the value, for the first set of input shapes.
        dtype: Of the value.
        axis: Axis of the channels.
    """

    value: str
    base: str
    readers: tuple[tuple[str, int], ...]
    shape: tuple[int, ...]
    dtype: ir.DataType
    axis: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis]


class Places:
    """Finds places in one network, between the nodes of its main graph.

    Args:
        found: The network; what was inlined to look into local functions is no place.
    """

    def __init__(self, found: Study) -> None:
        self.analysis = found.analysis
        self.network = found.analysis.network
        self.graph = found.given.graph
        self.activations = Activations(self.network)
        self._infinities = Infinities(self.network)
        self._nodes = list(self.graph)
        self._outputs = {v.name for v in self.graph.outputs}
        self._made = {o.name: n for n in self._nodes for o in n.outputs if o.name}
        self._inputs = {v.name for v in self.graph.inputs if v.name and v.name not in self.graph.initializers}
        leaves = self.analysis.dims.forest.leaves
        self._written: set[Term] = set()
        self._read: set[Term] = set()
        for weight in self.analysis.weights:
            terms = self.analysis.dims.at((weight.use.node, weight.use.index))
            if terms is None:
                continue
            self._written.update(leaf for a in weight.use.out_axes for leaf in leaves(terms[a]))
            self._read.update(leaf for a in weight.use.in_axes for leaf in leaves(terms[a]))

    def holds(self, value: str) -> bool:
        """Whether it is a value of the main graph."""
        return value in self._made or value in self._inputs

    # ---- what is meant

    def automatic(self) -> list[str]:
        """Values behind hidden activations, in network order; gates are none."""
        found = []
        for activation in self.activations.all():
            readers = [n for n, _ in self.network.uses(activation.output)]
            gate = activation.is_gate and any(n.op_type == "Mul" for n in readers)
            if readers and not gate and activation.output in self._made:
                found.append(activation.output)
        return found

    def values(self, selectors: Iterable[str]) -> list[tuple[str, bool]]:
        """Values that selectors name, by themselves or by the node that makes them, and whether literally so.

        Raises:
            UsageError: A selector matches nothing.
            UnsupportedError: It names a value inside a subgraph.
        """
        found: dict[str, bool] = {}
        for selector in selectors:
            handles = {name: {name} for name in sorted(self._inputs)}
            for node in self._nodes:
                for i, output in enumerate(o.name for o in node.outputs if o.name):
                    handles[output] = {output} if i else {output, *_handles(node)}
            matched = [v for v, names in handles.items() if selector in names]
            literal = bool(matched) and not selector.startswith("op:")
            matched = matched or [v for v, names in handles.items() if any(fnmatchcase(n, selector) for n in names)]
            if not matched:
                raise self._unknown(selector, {n for names in handles.values() for n in names})
            for value in matched:
                found[value] = found.get(value, False) or literal
        return [(v, found[v]) for v in (*sorted(self._inputs), *self._made) if v in found]

    def nodes(self, selectors: Iterable[str]) -> list[tuple[ir.Node, bool]]:
        """Nodes that selectors name. Raises as :meth:`values`."""
        found: dict[str, bool] = {}
        for selector in selectors:
            matched = [n for n in self._nodes if selector in (node_key(n), *_handles(n))]
            literal = bool(matched) and not selector.startswith("op:")
            matched = matched or [
                n for n in self._nodes if any(fnmatchcase(h, selector) for h in (node_key(n), *_handles(n)))
            ]
            if not matched:
                raise self._unknown(selector, {h for n in self._nodes for h in (node_key(n), *_handles(n))})
            for node in matched:
                found[node_key(node)] = found.get(node_key(node), False) or literal
        return [(n, found[node_key(n)]) for n in self._nodes if node_key(n) in found]

    def _unknown(self, selector: str, names: Iterable[str]) -> UsageError | UnsupportedError:
        inside = (n for n in ir.traversal.RecursiveGraphIterator(self.graph) if n.graph is not self.graph)
        if any(selector in (n.name, node_key(n)) for n in inside):
            return UnsupportedError(selector, "it is inside a subgraph", "name a place of the main graph")
        if selector in self.graph.initializers:
            return UsageError(selector, "it is a constant, not a computed value", "name what is computed from it")
        close = get_close_matches(selector, sorted(names), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else ""
        return UsageError(selector, "no node or value matches this selector", hint)

    # ---- what is legal

    def behind(self, value: str) -> Place:
        """The place behind a value, for all that read it. Raises Illegal."""
        readers = tuple((node_key(n), i) for n in self._nodes for i, v in enumerate(n.inputs) if v and v.name == value)
        producer = self._made.get(value)
        base = (producer.name or value) if producer is not None and node_key(producer) == value else value
        if not readers and value in self._outputs:
            name = (producer.name or node_key(producer)) if producer is not None else value
            raise Illegal("it is an output of the network, which keeps its name", f"insert before {name}")
        return self._place(value, base, readers)

    def before(self, node: ir.Node) -> Place:
        """The place in front of a node, on its first data input, for this node only. Raises Illegal."""
        for i, value in enumerate(node.inputs):
            if value is not None and value.name and value.name not in self.network.derived:
                return self._place(value.name, f"{node.name or node_key(node)}.before", ((node_key(node), i),))
        raise Illegal("it reads constants only")

    def _place(self, value: str, base: str, readers: tuple[tuple[str, int], ...]) -> Place:
        network = self.network
        version = network.opsets.get("", 1)
        if version < OLDEST:
            raise Illegal(f"the model's opset is {version}; inserted layers need {OLDEST}", "convert the model first")
        if value in network.derived:
            raise Illegal("it is computed from constants alone")
        dtype, shape = network.concrete.dtypes.get(value), network.shape(value)
        if dtype is not None and dtype not in FLOATS:
            raise Illegal(f"its type is {dtype.name}, which is no floating-point type of weights")
        if dtype is None or shape is None:
            raise Illegal("its type or shape is not known")
        if value in network.captured:
            raise Illegal("a subgraph reads it, too")
        if not readers:
            raise Illegal("nothing reads it")
        self.finite(value)
        return Place(value, base, readers, shape, dtype, self._axis(value, shape))

    def finite(self, value: str) -> None:
        """Raises Illegal where a value may be infinite."""
        infinite = self._infinities.why(value)
        if infinite:
            raise Illegal(f"{value} may be infinite, and 0 times infinity is no number: {infinite}")

    def _axis(self, value: str, shape: Sequence[int]) -> int:
        """The axis of the channels. Raises Illegal where there is none, or it cannot be told."""
        terms = self.analysis.dims.values.get(value)
        if terms is None:
            raise Illegal("its axes are not known")
        other = self.network.other.shapes.get(value)
        fixed = [a for a, n in enumerate(shape) if other is not None and other[a] == n]
        leaves = self.analysis.dims.forest.leaves
        for atoms in (self._written, self._read):
            found = [a for a in fixed if any(leaf in atoms for leaf in leaves(terms[a]))]
            found = [a for a in found if a == len(shape) - 1 or (a == 1 and 3 <= len(shape) <= 5)]
            if found:
                return found[0] if len(found) == 1 else self._told_apart(value, found)
        raise Illegal("no axis holds the channels of a layer, at a fixed size, where a layer would look for them")

    def _told_apart(self, value: str, axes: Sequence[int]) -> int:
        """Of the axes 1 and last, the one that the layers before it use; the last where they do not say."""
        for _ in range(FARTHEST):
            node = self._made.get(value)
            if node is None:
                break
            if node.op_type in IMAGE:
                return axes[0]
            data = [v.name for v in node.inputs if v is not None and v.name and v.name not in self.network.derived]
            if node.op_type in LAST or not data:
                break
            same = [d for d in data if self.network.shape(d) == self.network.shape(node_key(node))]
            if not same:
                break
            value = same[0]
        return axes[-1]


def _handles(node: ir.Node) -> set[str]:
    return {h for h in (node.name, node.op_type, f"op:{node.op_type}") if h}


def collect(
    chosen: Iterable[tuple[str, Callable[[], Place], bool]], subject: str, nothing: str
) -> tuple[list[Place], dict[str, str]]:
    """Places that are legal, and why the others are not.

    Args:
        chosen: (label, how to find the place, whether the user named it literally).
        subject: What the request was about.
        nothing: Reason where nothing was chosen at all.

    Raises:
        UnsupportedError: A place that was named literally is not legal, or none is.
    """
    places: dict[tuple[str, tuple[tuple[str, int], ...]], Place] = {}
    skipped: dict[str, str] = {}
    for label, find, literal in chosen:
        try:
            place = find()
        except Illegal as e:
            if literal:
                raise UnsupportedError(label, str(e), e.hint) from e
            skipped[label] = str(e)
            continue
        places.setdefault((place.value, place.readers), place)
    if not places:
        if not skipped:
            raise UnsupportedError(subject, nothing, "name places with --at, --after or --before")
        name, reason = next(iter(skipped.items()))
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UnsupportedError(subject, f"no place is legal: {name}: {reason}{more}")
    return list(places.values()), skipped
