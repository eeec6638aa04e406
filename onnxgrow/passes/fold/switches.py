"""ActiSwitches of a network, found by the role of their factors, and what they have converged to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.analysis.network import Network
from onnxgrow.concrete.calls import calls_in
from onnxgrow.passes.deepen.switch import is_factor, is_marked
from onnxgrow.passes.deepen.unary import Activations

__all__ = ["Case", "FoundSwitch", "case_of", "find_switches", "switch_calls"]

Array = npt.NDArray[np.float64]


class Case(StrEnum):
    """What an ActiSwitch a·x + b·f(x) has become."""

    IDENTITY = "x"
    SCALED = "a·x"
    PLAIN = "f(x)"
    LEAKY = "leaky ReLU"


@dataclass(frozen=True)
class FoundSwitch:
    """One ActiSwitch.

    Attributes:
        name: Its own among those of the network: the scope of its factors; its sum where others have the same scope.
        sum, linear, nonlinear: Keys of its Add and of its two Mul nodes.
        x, fx: What these multiply.
        a, b: Names of the factors.
        function: The nodes of f.
        values: The factors themselves.
    """

    name: str
    sum: str
    linear: str
    nonlinear: str
    x: str
    fx: str
    a: str
    b: str
    function: frozenset[ir.Node]
    values: tuple[Array, Array]

    @property
    def is_relu(self) -> bool:
        return [n.op_type for n in self.function] == ["Relu"]


def switch_calls(model: ir.Model) -> list[str]:
    """Calls of local functions that are given the factors of an ActiSwitch, by their first output."""
    return [key for key, node in calls_in(model).items() if any(v is not None and is_marked(v) for v in node.inputs)]


def find_switches(network: Network) -> list[FoundSwitch]:
    """All ActiSwitches of the main graph, in network order, by their structure and the role of their factors."""
    activations = Activations(network)
    found = []
    for node in network.nodes:
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
            continue
        sides = [_factor(network, v.name) for v in node.inputs if v is not None and v.name]
        known = [side for side in sides if side is not None]
        if len(known) != 2:
            continue
        for (linear, a, x), (nonlinear, b, fx) in (known, known[::-1]):
            function = activations.between(x, fx)
            if function:
                values = (_values(network, a), _values(network, b))
                key, scope = node_key(node), a.rpartition(".")[0]
                found.append(FoundSwitch(scope or key, key, linear, nonlinear, x, fx, a, b, function, values))
                break
    # Two at one place have factors s.a and s.a_2, those that PyTorch kept in a list are called list.0, list.1, ...
    scopes = Counter(switch.name for switch in found)
    return [switch if scopes[switch.name] == 1 else replace(switch, name=switch.sum) for switch in found]


def _factor(network: Network, name: str) -> tuple[str, str, str] | None:
    """(key, factor, other operand) of a product with the factor of an ActiSwitch that only one node reads."""
    node = network.producer(name)
    if node is None or node.op_type != "Mul" or len(list(network.uses(name))) != 1 or name in network.captured:
        return None
    names = [v.name for v in node.inputs if v is not None and v.name]
    for own, other in (names, names[::-1]) if len(names) == 2 else ():
        if own in network.tensors and other not in network.derived and is_factor(network, own):
            return name, own, other
    return None


def _values(network: Network, name: str) -> Array:
    return np.asarray(network.tensors[name].numpy()).astype(np.float64)


def case_of(switch: FoundSwitch, tolerance: float) -> tuple[Case, float] | None:
    """What a switch has become, up to a tolerance of its factors, and how far they are from being exactly that."""
    a, b = switch.values
    candidates = [
        (Case.IDENTITY, max(_far(a, 1), _far(b, 0))),
        (Case.SCALED, _far(b, 0)),
        (Case.PLAIN, max(_far(a, 0), _far(b, 1))),
    ]
    if switch.is_relu and a.shape == b.shape:
        candidates.append((Case.LEAKY, _far(a + b, 1)))
    return next(((case, gap) for case, gap in candidates if gap <= tolerance), None)


def _far(values: Array, wanted: float) -> float:
    return float(np.abs(values - wanted).max(initial=0.0))
