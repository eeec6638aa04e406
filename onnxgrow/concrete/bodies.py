"""Bodies of control flow: which graph defines a name, who reads it, and a body as a model of its own.

A body (a branch of an If, the body of a Loop or Scan, https://onnx.ai/onnx/operators/onnx__If.html) computes its
outputs from its own inputs and from values that it captures from the graphs around it. Lifted out, captured values
are inputs and captured constants are constants: two bodies that are equal as functions of those make the node that
runs them the same, whichever branch is taken and however often it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxgrow.concrete.values import constant_of
from onnxgrow.io.copy import copy_body

__all__ = ["LIFTABLE", "Body", "Path", "Scopes", "Type", "lift", "node_key"]

Path = tuple[tuple[str, str], ...]
"""A body by its way in: (first output of the node, attribute), the outermost first; () is the main graph."""

Type = tuple[ir.DataType, tuple[int | str | None, ...]]
"""Element type and sizes of a value."""

LIFTABLE = frozenset(("If", "Loop", "Scan"))


def node_key(node: ir.Node) -> str:
    """Name of a node's first named output: unique in a graph, unlike its own name."""
    return next((o.name for o in node.outputs if o.name), "") or ""


@dataclass(frozen=True)
class Body:
    """One graph that is an attribute of a node.

    Attributes:
        path: Where it is.
        label: The same for people: ``If_0.then_branch/If_3.else_branch``.
        node: The node that runs it.
        graph: Its graph.
    """

    path: Path
    label: str
    node: ir.Node
    graph: ir.Graph

    @property
    def liftable(self) -> bool:
        """Whether it is the body of an operator whose way of running bodies is known."""
        return self.node.op_type in LIFTABLE and self.node.domain in ("", "ai.onnx") and "[" not in self.path[-1][1]


class Scopes:
    """The graphs of a model by path, and what each of them defines and reads.

    Args:
        model: The model; not modified.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.bodies: dict[Path, Body] = {}
        self.graphs: dict[Path, ir.Graph] = {(): model.graph}
        self._enter((), model.graph, "")
        self.defined = {path: _defined(graph) for path, graph in self.graphs.items()}
        self.constants = {path: _constants(graph) for path, graph in self.graphs.items()}
        self._reads = {path: _reads(graph) for path, graph in self.graphs.items()}

    def _enter(self, path: Path, graph: ir.Graph, prefix: str) -> None:
        names = Counter(node.name for node in graph)
        for node in graph:
            for attribute, inner in _graphs(node):
                label = node.name if node.name and names[node.name] == 1 else node_key(node)
                body = Body((*path, (node_key(node), attribute)), f"{prefix}{label}.{attribute}", node, inner)
                self.bodies[body.path] = body
                self.graphs[body.path] = inner
                self._enter(body.path, inner, f"{body.label}/")

    def children(self, path: Path) -> list[Body]:
        """The bodies of one graph's own nodes, in order."""
        return [b for p, b in self.bodies.items() if p[:-1] == path]

    def find(self, path: Path, name: str) -> Path | None:
        """The graph that defines what a graph reads by a name: itself, or the nearest one around it."""
        for depth in range(len(path), -1, -1):
            if name in self.defined[path[:depth]]:
                return path[:depth]
        return None

    def captured(self, path: Path) -> list[str]:
        """Names that a body, with all bodies inside it, reads from the graphs around it, in order."""
        found: dict[str, None] = {}
        for inner in self.graphs:
            if inner[: len(path)] == path:
                for name in self._reads[inner]:
                    where = self.find(inner, name)
                    if where is not None and len(where) < len(path):
                        found[name] = None
        return list(found)

    @cached_property
    def homes(self) -> Mapping[tuple[Path, str], Path]:
        """(graph, constant) → the innermost graph that all its readers are in.

        A constant that only one body reads belongs to that body, wherever it is stored. What callers may override,
        or get as an output, belongs to the main graph.
        """
        readers: dict[tuple[Path, str], list[Path]] = {}
        for path, names in self._reads.items():
            for name in names:
                where = self.find(path, name)
                if where is not None and name in self.constants[where]:
                    readers.setdefault((where, name), []).append(path)
        homes = {}
        for where, names_here in self.constants.items():
            for name in names_here:
                home = _common(readers.get((where, name), [where]))
                stops = [i for i in range(len(where), len(home)) if not self.bodies[home[: i + 1]].liftable]
                homes[where, name] = home[: stops[0]] if stops else home
        for name in self._overridable():
            homes[(), name] = ()
        return homes

    def _overridable(self) -> list[str]:
        graph = self.model.graph
        listed = [v.name for v in graph.inputs if v.name and v.name in graph.initializers]
        whole = self.model.ir_version < 4 or len(listed) == len(graph.initializers)
        return [] if whole else listed

    def home(self, path: Path, name: str) -> Path:
        """The graph that a name of a graph belongs to: for most names the one that defines it."""
        return self.homes.get((path, name), path)

    @cached_property
    def _count(self) -> Counter[str]:
        return Counter(name for names in self.defined.values() for name in names)

    def key(self, path: Path, name: str) -> str:
        """What the growth map calls a name of a graph: the name; after the body's label where others have it, too."""
        ambiguous = bool(path) and self._count[name] > 1
        return f"{self.bodies[path].label}/{name}" if ambiguous else name

    def listed(self, path: Path, name: str) -> str:
        """What the growth map calls what a graph reads or makes under a name."""
        where = self.find(path, name)
        return name if where is None else self.key(where, name)

    @cached_property
    def places(self) -> Mapping[str, tuple[Path, str]]:
        """Growth-map name → (the graph that defines it, its name there). Plain names win over labelled ones."""
        found: dict[str, tuple[Path, str]] = {}
        for path, names in self.defined.items():
            for name in names:
                found.setdefault(self.key(path, name), (path, name))
        return found

    def named_constants(self) -> dict[str, ir.TensorProtocol]:
        """Constants of all graphs by growth-map name."""
        return {self.key(p, name): tensor for p, held in self.constants.items() for name, tensor in held.items()}


def lift(scopes: Scopes, path: Path, types: Mapping[str, Type] | None = None, also: Sequence[str] = ()) -> ir.Model:
    """A body as a model of its own; what it shares with the model are tensor data.

    Its inputs are those of the body and, after them, the computed values it captures. Captured constants come along,
    initializers as initializers and Constant nodes as such, before its own nodes.

    Args:
        scopes: Of the model.
        path: The body.
        types: Types of captured values, and of the body's inputs where they declare none.
        also: Values of the graphs around it to be treated as captured, before others, as those named in ``types``
            are: what another version of the body reads.
    """
    types = types or {}
    given: dict[str, ir.Value] = {}
    stored: list[ir.Value] = []
    for name in dict.fromkeys([*also, *types, *scopes.captured(path)]):
        where = scopes.find(path, name)
        if where is None or len(where) == len(path):
            continue
        if name in scopes.constants[where]:
            stored.append(scopes.defined[where][name])
        else:
            given[name] = ir.Value(name=name)
            _declare(given[name], types)
    graph = copy_body(scopes.graphs[path], given, stored)
    for value in graph.inputs:
        if value.name not in given:
            _declare(value, types)
    model = scopes.model
    graph.opset_imports.update(model.opset_imports)
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        functions=[f.clone() for f in model.functions.values()],
    )


def _declare(value: ir.Value, types: Mapping[str, Type]) -> None:
    found = types.get(value.name or "")
    if found is not None and value.dtype is None:
        value.type = ir.TensorType(found[0])
    if found is not None and value.shape is None:
        value.shape = ir.Shape(found[1])


def _graphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((f"{name}[{i}]", graph) for i, graph in enumerate(attribute.as_graphs()))


def _defined(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {v.name: v for v in graph.inputs if v.name}
    found.update((name, value) for name, value in graph.initializers.items())
    found.update((o.name, o) for node in graph for o in node.outputs if o.name)
    return found


def _constants(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    found = {n: v.const_value for n, v in graph.initializers.items() if v.const_value is not None}
    for node in graph:
        tensor = constant_of(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if tensor is not None and node.outputs[0].name:
            found[node.outputs[0].name] = tensor
    return found


def _reads(graph: ir.Graph) -> list[str]:
    names = [v.name for node in graph for v in node.inputs if v is not None and v.name]
    return list(dict.fromkeys([*names, *(v.name for v in graph.outputs if v.name)]))


def _common(paths: list[Path]) -> Path:
    shortest = min(paths, key=len)
    for depth in range(len(shortest), 0, -1):
        if all(p[:depth] == shortest[:depth] for p in paths):
            return shortest[:depth]
    return ()
