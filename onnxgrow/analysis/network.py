"""The network as analysis sees it: nodes in order, what is constant, and which constants are tied.

Nothing is changed: constants are looked up where they are (initializers, Constant nodes), not folded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis.ways import Root, find_roots
from onnxgrow.concrete.bodies import node_key
from onnxgrow.concrete.infer import Concrete, sorted_nodes
from onnxgrow.concrete.values import constants, dims_of
from onnxgrow.io.carry import model_carried

__all__ = ["Network", "Site", "has_graph", "node_key"]

Site = tuple[ir.Node, int]
"""One use of a value: the node that reads it, and which of its inputs it is."""

SAMPLE = 65_536
"""Entries looked at to tell whether a constant holds one value only."""


@dataclass
class Network:
    """A model with the facts about it that the rules and passes need.

    Attributes:
        model: The model; not modified.
        concrete: Shapes and known values for the first set of input shapes.
        other: The same for other sizes of the dynamic axes; equal to ``concrete`` where there are none.
        nodes: Nodes of the main graph, producers first; Constant nodes left out.
        tensors: Constants by name.
        derived: Names of values computed from constants alone, constants included.
        captured: Names of values that a subgraph reads, or a node that only makes a constant.
        opsets: Domain → version.
        foreign: In a lifted body: constants that the graphs around it read, too.
        place: What the graph is, for reasons: the network, or a body by its label.
        open_outputs: Graph outputs that may grow, because the user named them.
    """

    model: ir.Model
    concrete: Concrete
    other: Concrete
    nodes: list[ir.Node] = field(init=False)
    tensors: dict[str, ir.TensorProtocol] = field(init=False)
    derived: set[str] = field(init=False)
    captured: set[str] = field(init=False)
    opsets: dict[str, int] = field(init=False)
    foreign: frozenset[str] = frozenset()
    place: str = "the network"
    open_outputs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in self.model.opset_imports.items()}
        self.tensors = constants(self.model)
        self.nodes = [n for n in sorted_nodes(graph) if node_key(n) not in self.tensors]
        self.captured = {name for node in self.nodes for name in _captures(node)}
        self.captured |= self.foreign
        makers = set(graph) - set(self.nodes)
        self.captured.update(v.name for n in makers for v in n.inputs if v is not None and v.name)
        self.derived = set(self.tensors)
        self._uniform: dict[str, bool] = {}
        for node in self.nodes:
            names = [v.name for v in node.inputs if v is not None and v.name]
            if names and all(n in self.derived for n in names) and not has_graph(node):
                self.derived.update(o.name for o in node.outputs if o.name)

    @cached_property
    def overridable(self) -> list[str]:
        """Initializers that callers may replace, being graph inputs too.

        Before IR version 4 every initializer had to be one, and exporters went on listing all of them: that says
        nothing. A list of some is meant.
        """
        listed = [v.name for v in self.model.graph.inputs if v.name and v.name in self.model.graph.initializers]
        if self.model.ir_version < 4 or len(listed) == len(self.model.graph.initializers):
            return []
        return listed

    @cached_property
    def trained(self) -> list[str]:
        """Values that the training information of the model reads or updates; it is kept as it came."""
        infos = model_carried(self.model).training_info
        nodes = [n for info in infos for graph in (info.initialization, info.algorithm) for n in graph.node]
        read = [name for node in nodes for name in node.input]
        return list(dict.fromkeys(read + [b.key for info in infos for b in info.update_binding]))

    def producer(self, name: str) -> ir.Node | None:
        """The node of the main graph that computes a value."""
        return self._producers.get(name)

    @cached_property
    def _producers(self) -> dict[str, ir.Node]:
        return {o.name: n for n in self.nodes for o in n.outputs if o.name}

    def version(self, node: ir.Node) -> int:
        """Opset version that gives the node its meaning; 1 where the model does not import its domain."""
        return self.opsets.get("" if node.domain == "ai.onnx" else node.domain, 1)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Concrete shape of a value."""
        return self.concrete.shapes.get(name)

    def uses(self, name: str) -> Iterator[Site]:
        """Every place of the main graph where a value is read."""
        for node in self._readers.get(name, ()):
            for i, value in enumerate(node.inputs):
                if value is not None and value.name == name:
                    yield node, i

    @cached_property
    def _readers(self) -> dict[str, list[ir.Node]]:
        readers: dict[str, list[ir.Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(v.name for v in node.inputs if v is not None and v.name):
                readers.setdefault(name, []).append(node)
        return readers

    def is_tied(self, name: str) -> bool:
        """Whether all uses of a constant are one and the same parameter.

        Exporters merge constants that happen to be equal: all-ones scales, zero biases, shapes, scalars. Those are
        analysed once for every use, and are only made separate in the result where their uses grow differently. A
        tensor of several different floating-point values was shared by its author.
        """
        if name not in self._uniform:
            self._uniform[name] = _is_uniform(self.tensors[name])
        return not self._uniform[name]

    def roots(self, site: Site) -> list[Root]:
        """Constants behind a constant-derived input: see :func:`onnxgrow.analysis.ways.find_roots`."""
        return find_roots(self, site)


def _is_uniform(tensor: ir.TensorProtocol) -> bool:
    """One value only, a scalar, or a small integer tensor (shapes, axes, indices)."""
    size = math.prod(dims_of(tensor))
    if size <= 1 or tensor.dtype in (ir.DataType.STRING, ir.DataType.BOOL):
        return True
    if tensor.dtype.is_integer() and size <= 64:
        return True
    flat = np.asarray(tensor.numpy()).reshape(-1)
    if (flat[:SAMPLE] != flat[0]).any():
        return False
    return bool((flat == flat[0]).all())


def has_graph(node: ir.Node) -> bool:
    """Whether a node holds subgraphs, as If, Loop and Scan do."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _captures(node: ir.Node) -> set[str]:
    """Names that the subgraphs of a node read from outside; too many names do no harm, too few would."""
    found: set[str] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        for attribute in current.attributes.values():
            graphs: list[ir.Graph] = []
            if attribute.type == ir.AttributeType.GRAPH:
                graphs = [attribute.as_graph()]
            elif attribute.type == ir.AttributeType.GRAPHS:
                graphs = list(attribute.as_graphs())
            for graph in graphs:
                found.update(v.name for v in graph.outputs if v.name)
                for inner in graph:
                    found.update(v.name for v in inner.inputs if v is not None and v.name)
                    stack.append(inner)
    return found
