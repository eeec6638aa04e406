"""Edits of a copied model, each noted for the growth map. What is not edited stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.concrete.bodies import Path, Scopes
from onnxgrow.concrete.values import all_names, constant_of
from onnxgrow.growth_map import NodeChange

__all__ = ["Rewriter"]


class Rewriter:
    """Changes a model in place, by name.

    Args:
        model: A copy of the user's model.
        path: The body to change; constants that it captures can be changed, too. The main graph by default.
    """

    def __init__(self, model: ir.Model, path: Path = ()) -> None:
        self.model = model
        self.scopes = Scopes(model)
        self.path = path
        self.graph = self.scopes.graphs[path]
        self.inserted: list[str] = []
        self.removed: list[str] = []
        self.changes: dict[str, tuple[dict[str, tuple[Any, Any]], dict[int, tuple[str, str]]]] = {}
        self._nodes = {node_key(n): n for n in self.graph}
        self._values = {n: self.scopes.defined[self.scopes.find(path, n) or ()][n] for n in self.scopes.captured(path)}
        self._values.update({v.name: v for n in self.graph for v in n.outputs if v.name})
        self._values.update({v.name: v for v in self.graph.inputs if v.name})
        self._values.update(dict(self.graph.initializers.items()))
        self._names = all_names(model.graph)

    def node(self, key: str) -> ir.Node:
        """The node with this first output."""
        return self._nodes[key]

    def holds(self, key: str) -> bool:
        """Whether the graph has a node with this first output."""
        return key in self._nodes

    def value(self, name: str) -> ir.Value:
        """The value of this name."""
        return self._values[name]

    def constant(self, name: str) -> ir.TensorProtocol:
        """The tensor of an initializer or a Constant node."""
        value = self._values[name]
        maker = value.producer()
        # Not ir.convenience.get_const_tensor: it names the tensor of a Constant node, which the original shares.
        tensor = value.const_value if maker is None else constant_of(maker)
        assert tensor is not None
        return tensor

    def fresh(self, wanted: str) -> str:
        """``wanted``, or with a number where that name is taken."""
        name, count = wanted, 2
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name

    def fresh_scope(self, wanted: str) -> str:
        """``wanted``, or with a number where some name lies in that namespace (``wanted.…``, ``/wanted/…``)."""
        scope, count = wanted, 2
        while any(name.startswith((f"{scope}.", f"/{scope}/")) for name in self._names):
            scope, count = f"{wanted}_{count}", count + 1
        return scope

    def set_constant(self, name: str, tensor: ir.TensorProtocol) -> None:
        """Give an initializer or a Constant node another tensor."""
        value = self._values[name]
        producer = value.producer()
        if producer is None:
            value.const_value = tensor
        else:
            _set_constant_node(producer, tensor)
        if producer is None or value.shape is not None:
            value.shape = ir.Shape([int(d) for d in tensor.shape.numpy()])

    def add_constant(
        self, wanted: str, tensor: ir.TensorProtocol, beside: str, *, named: bool = False, as_node: bool = False
    ) -> str:
        """Add a constant of the same kind as ``beside`` (initializer or Constant node); returns its name.

        Before IR version 4 an initializer would have to be an input too, so a Constant node is used there.
        ``named`` says that ``wanted`` is a fresh name already; ``as_node`` asks for a Constant node, for a number that
        is no parameter.
        """
        name = wanted if named else self.fresh(wanted)
        tensor.name = name
        like = self._values.get(beside)
        if self.model.ir_version >= 4 and not as_node and (like is None or like.producer() is None):
            shape = ir.Shape([int(d) for d in tensor.shape.numpy()])
            value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            self.graph.register_initializer(value)
        else:
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1, name=name)
            value = node.outputs[0]
            value.name = name
            first = like.producer() if like is not None else None
            if first is None or first.graph is not self.graph:
                first = self.graph[0]
            self.graph.insert_before(first, node)
            self.inserted.append(name)
        self._values[name] = value
        return name

    def insert(self, before: ir.Node, op_type: str, inputs: list[str], wanted: str) -> str:
        """Insert a node of one output before another; returns the output's name."""
        name = self.fresh(wanted)
        node = ir.Node("", op_type, [self._values[i] for i in inputs], num_outputs=1, name=name)
        output = node.outputs[0]
        output.name = name
        self.graph.insert_before(before, node)
        self._values[name] = output
        self._nodes[name] = node
        self.inserted.append(name)
        return name

    def insert_after(
        self,
        place: str,
        op_type: str,
        inputs: list[str],
        wanted: str,
        attributes: Iterable[ir.Attr] = (),
        *,
        domain: str = "",
    ) -> str:
        """Insert a node of one output behind the node that makes ``place``; returns the output's name.

        Behind a graph input means before the first node that reads it. The output is declared with the type and
        shape of ``place``.
        """
        name = self.fresh(wanted)
        node = ir.Node(domain, op_type, [self._values[i] for i in inputs], attributes, num_outputs=1, name=name)
        output, like = node.outputs[0], self._values[place]
        output.name, output.type = name, like.type
        output.shape = None if like.shape is None else ir.Shape(list(like.shape.dims))
        maker = like.producer()
        if maker is not None:
            self.graph.insert_after(maker, node)
        else:
            self.graph.insert_before(next((n for n in self.graph if like in n.inputs), self.graph[0]), node)
        self._values[name] = output
        self._nodes[name] = node
        self.inserted.append(name)
        return name

    def insert_clone(
        self, behind: str, node: ir.Node, inputs: list[str], named: Callable[[str], str]
    ) -> dict[str, str]:
        """Insert a copy of a node behind the one that makes ``behind``; returns its outputs by those of the node.

        Args:
            behind: A computed value.
            node: A node of this graph without bodies.
            inputs: What the copy reads; empty where the node has no input.
            named: Makes a name of the copy from one of the node.
        """
        outputs = [
            ir.Value(name=self.fresh(named(o.name)), type=o.type, shape=None if o.shape is None else o.shape.copy())
            if o.name
            else ir.Value(name="")
            for o in node.outputs
        ]
        copy = ir.Node(
            node.domain,
            node.op_type,
            [self._values[i] if i else None for i in inputs],
            list(node.attributes.values()),
            overload=node.overload,
            outputs=outputs,
            name=self.fresh(named(node.name)) if node.name else None,
        )
        maker = self._values[behind].producer()
        assert maker is not None
        self.graph.insert_after(maker, copy)
        made = {o.name: v.name or "" for o, v in zip(node.outputs, outputs, strict=True) if o.name}
        self._values.update({v.name: v for v in outputs if v.name})
        key = node_key(copy)
        self._nodes[key] = copy
        self.inserted.append(key)
        return made

    def remove(self, key: str) -> None:
        """Remove a node whose outputs nothing reads any more, or an initializer that nothing reads."""
        node = self._nodes.pop(key, None)
        if node is not None:
            self.graph.remove(node, safe=True)
            self.changes.pop(key, None)
        else:
            self.graph.initializers.pop(key)
        self.removed.append(key)

    def sweep(self, value: ir.Value) -> None:
        """Remove a constant that nothing reads any more; every other value stays."""
        if list(value.uses()) or value.is_graph_output() or value.is_graph_input():
            return
        producer = value.producer()
        stored = producer is None and value.name in self.graph.initializers
        if stored or (producer is not None and producer.op_type == "Constant" and producer.graph is self.graph):
            self.remove(value.name or "")

    def set_input(self, key: str, index: int, name: str) -> None:
        """Let a node read another value; inputs up to ``index`` that it does not have are left out by name."""
        node = self._nodes[key]
        current = node.inputs[index] if index < len(node.inputs) else None
        old = current.name if current is not None else ""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self._values[name])
        changed = self._change(key)[1]
        changed[index] = (changed[index][0] if index in changed else old or "", name)

    def set_attribute(self, key: str, name: str, value: Any) -> None:
        """Set (None: remove) an attribute, if that is a change."""
        node = self._nodes[key]
        attribute = node.attributes.get(name)
        old = attribute.value if attribute is not None else None
        old = list(old) if isinstance(old, tuple) else old
        value = list(value) if isinstance(value, tuple) else value
        if old == value:
            return
        if value is None:
            node.attributes.pop(name)
        elif isinstance(value, list):
            node.attributes[name] = ir.AttrInt64s(name, value)
        elif isinstance(value, float):
            node.attributes[name] = ir.AttrFloat32(name, value)
        else:
            node.attributes[name] = ir.AttrInt64(name, int(value))
        self._change(key)[0][name] = (old, value)

    def resize(self, name: str, sizes: dict[int, tuple[int, int]]) -> None:
        """Update the declared sizes of a value on the axes that grew, given as axis → (old, new).

        Symbolic and missing sizes stay, and so do declarations that were wrong before.
        """
        value = self._values.get(name)
        if value is None or value.shape is None:
            return
        dims: list[Any] = list(value.shape.dims)
        for axis, (old, new) in sizes.items():
            if axis < len(dims) and isinstance(dims[axis], int) and dims[axis] == old:
                dims[axis] = new
        shape = ir.Shape(dims)
        for axis in range(len(dims)):
            shape.set_denotation(axis, value.shape.get_denotation(axis))
        value.shape = shape

    def _change(self, key: str) -> tuple[dict[str, tuple[Any, Any]], dict[int, tuple[str, str]]]:
        return self.changes.setdefault(key, ({}, {}))

    def node_changes(self) -> dict[str, NodeChange]:
        """What was noted, for the growth map."""
        return {k: NodeChange(a, i) for k, (a, i) in self.changes.items() if a or i}


def _set_constant_node(node: ir.Node, tensor: ir.TensorProtocol) -> None:
    for name, attribute in list(node.attributes.items()):
        if name == "value":
            node.attributes[name] = ir.AttrTensor(name, tensor, doc_string=attribute.doc_string)
            return
        if name in ("value_ints", "value_floats"):
            listed: npt.NDArray[Any] = np.asarray(tensor.numpy()).reshape(-1)
            make = ir.AttrInt64s if name == "value_ints" else ir.AttrFloat32s
            node.attributes[name] = make(name, listed.tolist(), doc_string=attribute.doc_string)
            return
        if name in ("value_int", "value_float"):
            make_one = ir.AttrInt64 if name == "value_int" else ir.AttrFloat32
            node.attributes[name] = make_one(name, np.asarray(tensor.numpy()).item(), doc_string=attribute.doc_string)
            return
