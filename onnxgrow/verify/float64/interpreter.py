"""Evaluates one graph in float64, node by node, and drops every value after its last use.

Float tensors of every width become float64 where they are first used; integers, booleans and strings keep their dtype.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.float64.kernels import (
    CONTRACTIONS,
    KERNELS,
    PIECEWISE,
    Call,
    EvaluationError,
    NoFloat64Error,
    RandomError,
)
from onnxgrow.verify.float64.kernels.pieces import is_large, to_float64, whole
from onnxgrow.verify.float64.reference import reference_operator

if TYPE_CHECKING:
    from onnxgrow.verify.float64.native import NativeOperators

__all__ = ["Compiled", "Constants", "Interpreter", "captured", "compile_node", "topological", "values_read"]

Compiled = Callable[[Sequence[Any]], tuple[Any, ...]]


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Values that a subgraph (or a graph nested in it) reads from outside, each once."""
    inner: set[ir.Value] = set(graph.inputs) | set(graph.initializers.values())
    found: dict[ir.Value, None] = {}
    for node in graph:
        inner.update(node.outputs)
    for value in graph.outputs:
        if value not in inner:
            found[value] = None
    for node in graph:
        for value in values_read(node):
            if value not in inner:
                found[value] = None
    return list(found)


def values_read(node: ir.Node) -> list[ir.Value]:
    """Inputs of a node and what its subgraphs capture."""
    values = [v for v in node.inputs if v is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            values += captured(attribute.value)
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.value:
                values += captured(graph)
    return values


def topological(graph: ir.Graph) -> list[ir.Node]:
    """Nodes in an order that can be evaluated, as near to the stored order as possible.

    Raises:
        NoFloat64Error: The graph has a cycle.
    """
    nodes = list(graph)
    place = {node: i for i, node in enumerate(nodes)}
    waiting: list[int] = []
    followers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        before = {place[p] for v in values_read(node) if (p := v.producer()) is not None and p in place}
        waiting.append(len(before))
        for b in before:
            followers[b].append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[ir.Node] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for follower in followers[i]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(ready, follower)
    if len(order) != len(nodes):
        raise NoFloat64Error("graph", "its nodes form a cycle")
    return order


class Constants:
    """Initializers as float64 arrays; large ones as what kernels read in pieces.

    Args:
        overrides: What to use instead of stored initializers and Constant nodes, by name (formulas before they are
            rounded, weights that a probe changes): arrays or :class:`onnxgrow.verify.float64.kernels.pieces.Derived`.
        keep: Whether converted arrays are kept; without it each use converts anew and memory stays small.
    """

    def __init__(self, overrides: Mapping[str, Any] | None = None, keep: bool = True) -> None:
        self._overrides = dict(overrides or {})
        self._keep = keep
        self._arrays: dict[ir.Value, Any] = {}

    def override(self, name: str | None) -> Any:
        """The value to use instead of the stored one, or None."""
        return self._overrides.get(name or "")

    def get(self, value: ir.Value) -> Any:
        """The array of an initializer. Raises NoFloat64Error for one without data."""
        if value in self._arrays:
            return self._arrays[value]
        found = self._overrides.get(value.name or "")
        if found is None:
            if value.const_value is None:
                raise NoFloat64Error(str(value.name), "a value that nothing computes")
            found = value.const_value.numpy()
        if is_large(found):
            return found
        array = whole(found)
        if self._keep:
            self._arrays[value] = array
        return array


def _key(node: ir.Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _opset(node: ir.Node, opsets: Mapping[str, int]) -> int:
    domain = _key(node)[0]
    return opsets.get(domain, opsets.get("ai.onnx", 1) if domain == "" else 1)


def compile_node(node: ir.Node, opsets: Mapping[str, int], constants: Constants) -> Compiled:
    """The callable that evaluates ``node``; its inputs are followed by what its subgraphs capture.

    Raises:
        NoFloat64Error: The operator cannot be evaluated in float64.
    """
    domain, opset = _key(node)[0], _opset(node, opsets)
    if domain == "" and node.op_type in ("If", "Loop", "Scan"):
        from onnxgrow.verify.float64.control_flow import compile_control_flow  # it evaluates graphs itself

        return compile_control_flow(node, opset, opsets, constants)
    instead = constants.override(node.outputs[0].name) if node.op_type == "Constant" else None
    if instead is not None:
        return lambda _: (instead,)
    kernel = KERNELS.get((domain, node.op_type))
    if kernel is None:
        return reference_operator(node, opset)
    if any(a.is_ref() for a in node.attributes.values()):
        raise NoFloat64Error(node.op_type, "it refers to an attribute of a function")
    fixed = kernel
    return lambda inputs: fixed(Call(node, opset, tuple(inputs)))


class Interpreter:
    """Steps through one graph.

    Args:
        graph: What to evaluate.
        opsets: Domain → version.
        feeds: Values of the graph inputs; initializers that are inputs may be left out.
        scope: Values captured from outside.
        constants: Where initializers come from.
        keep: Values that stay until they are taken by the caller with :meth:`pop`.
        compiled: Compiled nodes to share between interpreters of the same graph.
        order: :func:`topological` order, where it is known already.
        native: How to evaluate what has no float64 implementation; without it such a node is an error.
    """

    def __init__(
        self,
        graph: ir.Graph,
        opsets: Mapping[str, int],
        feeds: Mapping[ir.Value, Any],
        constants: Constants,
        scope: Mapping[ir.Value, Any] | None = None,
        keep: Iterable[ir.Value] = (),
        compiled: dict[ir.Node, Compiled] | None = None,
        order: Sequence[ir.Node] | None = None,
        native: NativeOperators | None = None,
    ) -> None:
        self.opsets = opsets
        self.constants = constants
        self.values: dict[ir.Value, Any] = {
            v: [to_float64(i) for i in x] if isinstance(x, list) else to_float64(np.asarray(x))
            for v, x in feeds.items()
        }
        self.scope = scope or {}
        self.order = topological(graph) if order is None else order
        self._compiled: dict[ir.Node, Compiled] = {} if compiled is None else compiled
        self._native = native
        self._left: Counter[ir.Value] = Counter(v for node in self.order for v in values_read(node))
        self._left.update(keep)

    def read(self, value: ir.Value | None) -> Any:
        """The current array of a value: computed, captured or constant."""
        return whole(self._held(value))

    def _held(self, value: ir.Value | None) -> Any:
        """The same, but a large constant as what can be read in pieces."""
        if value is None:
            return None
        if value in self.values:
            return self.values[value]
        if value in self.scope:
            return self.scope[value]
        return self.constants.get(value)

    def pop(self, value: ir.Value) -> None:
        """One use fewer; the value goes when none is left."""
        self._left[value] -= 1
        if self._left[value] <= 0:
            self.values.pop(value, None)

    def evaluate(self, node: ir.Node, cuts: tuple[float, ...] = (), gaps: int = 0) -> tuple[Any, ...]:
        """Outputs of ``node`` from the current values, one entry per output it names.

        Args:
            node: The node.
            cuts, gaps: How a contraction is regrouped, see :class:`onnxgrow.verify.float64.kernels.Call`; others
                ignore it.

        Raises:
            NoFloat64Error: The operator cannot be evaluated in float64.
            EvaluationError: It can, but not on these values.
        """
        key = _key(node)
        in_pieces = PIECEWISE.get(key, frozenset())
        own = [self._held(v) if i in in_pieces else self.read(v) for i, v in enumerate(node.inputs)]
        extra = [self.read(v) for v in values_read(node)[len([v for v in node.inputs if v is not None]) :]]
        try:
            if node not in self._compiled:
                self._compiled[node] = compile_node(node, self.opsets, self.constants)
            with np.errstate(all="ignore"):
                if cuts and key in CONTRACTIONS:
                    found = KERNELS[key](Call(node, _opset(node, self.opsets), tuple(own), cuts, gaps))
                else:
                    found = self._compiled[node]([*own, *extra])
        except (RandomError, MemoryError):
            raise
        except Exception as e:  # shapes or dtypes that do not fit, raised in kinds of numpy's and onnx's own
            fault = e
            if not isinstance(e, NoFloat64Error | EvaluationError):
                fault = EvaluationError(f"{node.op_type} {node.name or node.outputs[0].name}", _one_line(e))
            found = self._natively(node, own, fault)
        return tuple(found[i] if i < len(found) else None for i in range(len(node.outputs)))

    def _natively(self, node: ir.Node, inputs: Sequence[Any], fault: Exception) -> tuple[Any, ...]:
        """Evaluate in the model's own precision what float64 kernels cannot; else raise ``fault``.

        A kernel of this package that fails has been given values that do not fit; ``onnx.reference`` may just be
        incomplete.
        """
        own_kernel = _key(node) in KERNELS
        if self._native is None or (isinstance(fault, EvaluationError) and own_kernel):
            raise fault
        try:
            run = self._native.operator(node, fault.reason if isinstance(fault, NoFloat64Error) else str(fault))
            found = run([whole(x) for x in inputs])
        except NoFloat64Error as e:
            raise (e if isinstance(fault, NoFloat64Error) else fault) from e
        self._compiled[node] = run
        return found

    def store(self, node: ir.Node, outputs: Sequence[Any]) -> None:
        """Keep the outputs that are still needed and drop inputs that are not."""
        for value, array in zip(node.outputs, outputs, strict=True):
            if self._left[value] > 0:
                self.values[value] = array
        for value in values_read(node):
            self.pop(value)

    def steps(self) -> Iterator[tuple[ir.Node, tuple[Any, ...]]]:
        """Evaluate node after node; each step is yielded before its inputs are dropped."""
        for node in self.order:
            outputs = self.evaluate(node)
            yield node, outputs
            self.store(node, outputs)


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split())[:200] or type(e).__name__
