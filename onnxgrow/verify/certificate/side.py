"""One of the two models as the certificate sees it: producers, order, constants, and what is known of its values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete
from onnxgrow.concrete.values import LIMIT, constants, dims_of
from onnxgrow.verify.certificate.blocks import Array
from onnxgrow.verify.certificate.chains import chain
from onnxgrow.verify.certificate.readers import ArrayReader, Reader

__all__ = ["Side", "attribute_graphs", "captures", "input_name", "input_names", "output_names"]

# Draws from a random stream: never a function of its inputs.
_RANDOM = frozenset(
    [
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)


def input_names(node: ir.Node) -> list[str]:
    """Names of a node's inputs; empty where an optional input is absent."""
    return [value.name or "" if value is not None else "" for value in node.inputs]


def input_name(node: ir.Node, index: int) -> str:
    """Name of one input; empty where it is absent."""
    if index >= len(node.inputs):
        return ""
    value = node.inputs[index]
    return value.name or "" if value is not None else ""


def output_names(node: ir.Node) -> list[str]:
    """Names of a node's outputs; empty where an optional output is absent."""
    return [value.name or "" for value in node.outputs]


def attribute_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies that a control-flow node holds."""
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()


def captures(graph: ir.Graph) -> set[str]:
    """Names that a body reads from the graphs around it, at any depth."""
    free: set[str] = set()
    defined = {value.name or "" for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        defined.update(output_names(node))
    for node in graph:
        free.update(input_names(node))
        for body in attribute_graphs(node):
            free |= captures(body)
    free.update(value.name or "" for value in graph.outputs)
    return free - defined - {""}


class Side:
    """The main graph of one model, with its concrete shapes.

    A value is *static* when it follows from constants and shapes alone. This is decided here, from the graph:
    a concrete value may also come from a run on sample inputs, and then proves nothing.
    """

    def __init__(self, model: ir.Model, concrete: Concrete) -> None:
        self.model = model
        self.graph = model.graph
        self.concrete = concrete
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in model.opset_imports.items()}
        self.functions = {(f.domain, f.name, f.overload) for f in model.functions.values()}
        self.nodes = list(self.graph)
        self.inputs = {value.name or "" for value in self.graph.inputs}
        self.outputs = [value.name or "" for value in self.graph.outputs]
        self.producer: dict[str, tuple[ir.Node, int]] = {}
        for node in self.nodes:
            for index, name in enumerate(output_names(node)):
                if name:
                    self.producer[name] = (node, index)
        self.tensors: Mapping[str, ir.TensorProtocol] = constants(model)
        self._readers: dict[str, Reader | None] = {}
        self._values: dict[str, Array] = {}

    def exists(self, name: str) -> bool:
        return name in self.producer or name in self.tensors or name in self.inputs

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self.tensors.get(name)
        return dims_of(tensor) if tensor is not None else self.concrete.shapes.get(name)

    def domain(self, node: ir.Node) -> str:
        return "" if node.domain == "ai.onnx" else node.domain

    def is_function(self, node: ir.Node) -> bool:
        """Whether the node calls a function that the model itself defines (it may even redefine a standard op)."""
        return (node.domain, node.op_type, node.overload) in self.functions

    def dependencies(self, node: ir.Node) -> set[str]:
        """Everything the node reads: its inputs and what its bodies capture."""
        names = {name for name in input_names(node) if name}
        for body in attribute_graphs(node):
            names |= captures(body)
        return names

    @cached_property
    def order(self) -> list[ir.Node]:
        """Nodes with producers before consumers. Raises ValueError when the graph has a cycle."""
        waiting: dict[ir.Node, int] = {}
        readers: dict[ir.Node, list[ir.Node]] = {}
        for node in self.nodes:
            sources = {self.producer[name][0] for name in self.dependencies(node) if name in self.producer}
            waiting[node] = len(sources)
            for source in sources:
                readers.setdefault(source, []).append(node)
        ready = [node for node in self.nodes if waiting[node] == 0]
        done: list[ir.Node] = []
        while ready:
            node = ready.pop()
            done.append(node)
            for reader in readers.get(node, ()):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    ready.append(reader)
        if len(done) != len(self.nodes):
            raise ValueError("the graph has a cycle")
        return done

    @cached_property
    def static(self) -> set[str]:
        """Names of the values that follow from constants and from shapes alone."""
        found = set(self.tensors)
        for node in self.order:
            if self.domain(node) or self.is_function(node) or node.op_type in _RANDOM:
                continue
            if any(True for _ in attribute_graphs(node)):
                continue
            names = [name for name in input_names(node) if name]
            by_shape = node.op_type in ("Shape", "Size")
            if names and (by_shape or all(name in found for name in names)):
                found.update(name for name in output_names(node) if name)
        return found

    def value(self, name: str) -> Array | None:
        """The value when it is static, known and small (at most 65,536 elements)."""
        if name in self._values:
            return self._values[name]
        value: Array | None = None
        tensor = self.tensors.get(name)
        if tensor is not None:
            if math.prod(dims_of(tensor)) <= LIMIT:
                value = np.asarray(tensor.numpy())
        elif name in self.static and name in self.concrete.values:
            value = np.asarray(self.concrete.values[name])
        if value is not None:
            self._values[name] = value
        return value

    def reader(self, name: str) -> Reader | None:
        """A reader of a constant, or of what a chain of ops computes from constants; None for other values."""
        if name not in self._readers:
            pending = [name]
            while pending:
                current = pending[-1]
                node = self.producer[current][0] if current in self.producer else None
                if current in self.tensors or current not in self.static or node is None:
                    self._readers[current] = self._direct(current)
                    pending.pop()
                    continue
                missing = [n for n in input_names(node) if n and n not in self._readers]
                if missing:
                    pending.extend(missing)
                    continue
                inputs = [self._readers[n] if n else None for n in input_names(node)]
                self._readers[current] = chain(node, inputs, self, self.producer[current][1]) or self._direct(current)
                pending.pop()
        return self._readers[name]

    def _direct(self, name: str) -> Reader | None:
        tensor = self.tensors.get(name)
        if tensor is not None:
            return ArrayReader(np.asarray(tensor.numpy()))
        value = self.value(name)
        return None if value is None else ArrayReader(value)
