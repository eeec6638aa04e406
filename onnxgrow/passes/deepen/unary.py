"""Elementwise functions of one value, however many nodes an exporter wrote them with.

ReLU is one node, SiLU is two (``x · sigmoid(x)``), GELU five or more. A value is a function of an earlier one when all
ops between them work entry by entry and read nothing else but scalars.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.analysis.network import Network

__all__ = ["ACTIVATIONS", "Activation", "Activations"]

NONLINEAR = frozenset(
    "Celu Clip Elu Erf FastGelu Gelu HardSigmoid HardSwish LeakyRelu Max Min Mish PRelu QuickGelu Relu Selu Sigmoid "
    "Softplus Softsign Swish Tanh ThresholdedRelu".split()
)
"""One of these makes an elementwise function an activation."""
ACTIVATIONS = NONLINEAR - {"Clip", "Max", "Min"}
"""Those of them that are one by themselves."""
ELEMENTWISE = NONLINEAR | frozenset("Abs Add Div Dropout Exp Identity Log Mul Neg Pow Sqrt Sub".split())
DOMAINS = ("", "ai.onnx", "com.microsoft")
FARTHEST = 32
"""Steps that are looked back."""


@dataclass(frozen=True)
class Activation:
    """``output`` is an elementwise, non-linear function of ``input``.

    Attributes:
        input, output: Values.
        nodes: The nodes between them.
    """

    input: str
    output: str
    nodes: frozenset[ir.Node]

    @property
    def is_gate(self) -> bool:
        """Whether its last op squashes: where something is multiplied by it, it is a gate and no activation."""
        last = next(n for n in self.nodes if any(o.name == self.output for o in n.outputs))
        return last.op_type in ("HardSigmoid", "Sigmoid", "Softsign", "Tanh")


class Activations:
    """The activations of a network's main graph.

    Args:
        network: The network.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._steps: dict[str, tuple[str, frozenset[ir.Node]]] = {}
        for node in network.nodes:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        """Note what the node's output is a function of, if it is one of a single value."""
        if node.op_type not in ELEMENTWISE or node.domain not in DOMAINS or not node.outputs[0].name:
            return
        names = [v.name for v in node.inputs if v is not None and v.name]
        data = [n for n in names if n not in self._network.derived]
        numbers = [n for n in names if n in self._network.derived]
        if not data or (not all(self._is_scalar(n) for n in numbers) and node.op_type != "PRelu"):
            return
        if node.op_type == "Dropout" and len([o for o in node.outputs if o.name]) > 1:
            return
        lines = [dict(self._line(n)) for n in dict.fromkeys(data)]
        common = next((n for n in lines[0] if all(n in other for other in lines[1:])), None)
        if common is not None:
            self._steps[node.outputs[0].name] = (common, frozenset([node]).union(*(line[common] for line in lines)))

    def _is_scalar(self, name: str) -> bool:
        shape = self._network.shape(name)
        return shape is not None and math.prod(shape) == 1

    def _line(self, name: str) -> Iterator[tuple[str, frozenset[ir.Node]]]:
        """The values that one is a function of, nearest first and itself among them, with the nodes between."""
        nodes: frozenset[ir.Node] = frozenset()
        for _ in range(FARTHEST):
            yield name, nodes
            if name not in self._steps:
                return
            name, more = self._steps[name]
            nodes |= more

    def of(self, name: str) -> Activation | None:
        """The activation that ends in a value: from the nearest value that it is a non-linear function of."""
        for start, nodes in self._line(name):
            if any(n.op_type in NONLINEAR for n in nodes):
                return Activation(start, name, nodes)
        return None

    def between(self, start: str, end: str) -> frozenset[ir.Node] | None:
        """The nodes by which one value is an elementwise function of another; None where it is not."""
        return dict(self._line(end)).get(start)

    def all(self) -> list[Activation]:
        """All activations that are not part of another one, in network order."""
        found = [a for name in self._steps if (a := self.of(name)) is not None]
        inner = {o.name for a in found for n in a.nodes for o in n.outputs if o.name != a.output}
        return [a for a in found if a.output not in inner]
