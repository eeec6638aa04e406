"""ActiSwitches as local functions: one node of the network each, which Netron shows as one box.

``ActiSwitch(x, fx, a, b)`` blends with an activation that is there, ``ActiSwitch_silu(x, a, b)`` brings its own. What a
function computes is written in the ops of the model's own opset, so the file needs nothing but ONNX to run
(https://onnx.ai/onnx/repo-docs/IR.html#functions).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrow.passes.deepen.functions import FUNCTIONS

__all__ = ["DOMAIN", "OLDEST_IR", "switch_function"]

DOMAIN = "onnxgrow"
OLDEST_IR = 8
"""IR version from which on a model can hold functions."""
VERSION = 1


def switch_function(function: str, dtype: ir.DataType, model: ir.Model) -> ir.Function:
    """The function of an ActiSwitch: the model's own where it has one of this content, else added to it.

    Args:
        function: Name of its f, one of ``FUNCTIONS``; empty where f(x) is an input.
        dtype: Of the values; numbers inside are of this type, so there is a function for each.
        model: The copy that will hold the calls.
    """
    wanted = "_".join(
        ["ActiSwitch", *([function.replace("-", "_")] if function else [])]
        + ([] if dtype == ir.DataType.FLOAT else [dtype.name.lower()])
    )
    model.opset_imports.setdefault(DOMAIN, VERSION)
    name, count = wanted, 2
    while True:
        made = _made(name, function, dtype, model.opset_imports.get("", 1))
        there = model.functions.get(made.identifier())
        if there is None:
            model.functions[made.identifier()] = made
            return made
        if _content(there) == _content(made):
            return there
        name, count = f"{wanted}_{count}", count + 1


def _content(function: ir.Function) -> bytes:
    content: bytes = ir.serde.serialize_function(function).SerializeToString(deterministic=True)
    return content


def _made(name: str, function: str, dtype: ir.DataType, opset: int) -> ir.Function:
    write = _Inside(dtype, opset, function)
    x = write.given("x")
    fx = "" if function else write.given("fx")
    a, b = write.given("a"), write.given("b")
    curved = FUNCTIONS[function].write(write, x) if function else fx
    left = write.named("linear", "Mul", a, x)
    right = write.named("nonlinear", "Mul", b, curved)
    last = write.named("sum", "Add", left, right)
    graph = ir.Graph(write.inputs, [write.values[last]], nodes=write.nodes, opset_imports={"": opset}, name=name)
    return ir.Function(DOMAIN, name, graph=graph, attributes=())


class _Inside:
    """Writes ops into the body of a function; the names of those of f start with its own."""

    def __init__(self, dtype: ir.DataType, opset: int, scope: str) -> None:
        self.opset = opset
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.values: dict[str, ir.Value] = {}
        self._dtype, self._scope = dtype, scope

    def given(self, name: str) -> str:
        """An input."""
        self.values[name] = ir.Value(name=name)
        self.inputs.append(self.values[name])
        return name

    def op(self, op_type: str, *inputs: str, **attributes: float) -> str:
        """Add a node of f; returns its output."""
        attrs = [ir.AttrFloat32(k, float(v)) for k, v in attributes.items()]
        return self.named(f"{self._scope}/{op_type.lower()}", op_type, *inputs, attributes=attrs)

    def number(self, value: float, name: str) -> str:
        """A scalar that is no parameter."""
        tensor = ir.Tensor(np.array(value).astype(self._dtype.numpy()), dtype=self._dtype)
        return self.named(f"{self._scope}/{name}", "Constant", attributes=[ir.AttrTensor("value", tensor)])

    def named(self, wanted: str, op_type: str, *inputs: str, attributes: list[ir.Attr] | None = None) -> str:
        """Add a node with an output of this name, or with a number behind it."""
        name, count = wanted, 2
        while name in self.values:
            name, count = f"{wanted}_{count}", count + 1
        given = [self.values[i] for i in inputs]
        node = ir.Node("", op_type, given, attributes or (), num_outputs=1, name=name)
        node.outputs[0].name = name
        self.values[name] = node.outputs[0]
        self.nodes.append(node)
        return name
