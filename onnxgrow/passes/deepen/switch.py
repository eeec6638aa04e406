"""ActiSwitch: y = a·x + b·f(x), a blend of a linear and a non-linear path that training moves.

With a = 1, b = 0 it is an identity, with a = 0, b = 1 the function itself. Both factors get a gradient wherever the
activation is not zero: ∂L/∂a = Σ g·x, ∂L/∂b = Σ g·f(x). They are best excluded from weight decay, so they carry a role
in their metadata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.analysis.network import Network
from onnxgrow.errors import UsageError
from onnxgrow.passes.deepen.builder import ROLE_KEY, Builder
from onnxgrow.passes.deepen.called import switch_function
from onnxgrow.passes.deepen.functions import add_function
from onnxgrow.passes.deepen.places import Place

__all__ = ["LINEAR", "NONLINEAR", "ROLE", "Start", "Switch", "check_start", "insert_switch", "is_factor", "is_marked"]

ROLE = "actiswitch"
Start = tuple[float, float]
LINEAR: Start = (1.0, 0.0)
NONLINEAR: Start = (0.0, 1.0)


@dataclass(frozen=True)
class Switch:
    """One ActiSwitch.

    Attributes:
        place: Behind which value.
        function: Its f; what it wraps where ``wrapped`` is given.
        start: a and b at the start.
        per_channel: Whether each channel has an a and b of its own.
        wrapped: For an existing activation: the value that it is a function of.
        as_function: Whether it becomes one call of a local function.
    """

    place: Place
    function: str
    start: Start
    per_channel: bool
    wrapped: str = ""
    as_function: bool = False

    @property
    def exact(self) -> bool:
        """Whether the network computes the same as before."""
        return self.start == (NONLINEAR if self.wrapped else LINEAR)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a and of b."""
        if not self.per_channel:
            return ()
        behind = len(self.place.shape) - 1 - self.place.axis
        return (self.place.channels, *(1,) * behind)

    @property
    def parameters(self) -> int:
        return 2 * math.prod(self.shape)

    @property
    def flops(self) -> int:
        """Two products and a sum a value; those of a new f come to about as much."""
        return (3 if self.wrapped else 6) * math.prod(self.place.shape)


def check_start(start: Start) -> None:
    """Raises UsageError where a start is no pair of finite numbers, or both are zero."""
    if len(start) != 2 or not all(math.isfinite(x) for x in start) or not any(start):
        raise UsageError("start", f"{start} is no start", "two finite numbers a and b, not both 0, as in (1, 0)")


def is_factor(network: Network, name: str) -> bool:
    """Whether a constant is the a or b of an ActiSwitch, by the role in its metadata."""
    value = network.model.graph.initializers.get(name)
    tensor = network.tensors.get(name)
    stored = tensor is not None and tensor.metadata_props.get(ROLE_KEY) == ROLE
    return stored or (value is not None and is_marked(value))


def is_marked(value: ir.Value) -> bool:
    """The same of an initializer, by its own metadata or that of its tensor."""
    tensor = value.const_value
    own = tensor is not None and tensor.metadata_props.get(ROLE_KEY) == ROLE
    return own or value.metadata_props.get(ROLE_KEY) == ROLE


def insert_switch(build: Builder, switch: Switch, value: str, scope: str) -> str:
    """Insert it behind ``value``, which stands for the place's value; returns what the readers are to read."""
    place, dtype = switch.place, switch.place.dtype
    of = place.value if switch.exact else ""
    a = build.filled(switch.start[0], switch.shape, dtype, f"{scope}.a", ROLE)
    b = build.filled(switch.start[1], switch.shape, dtype, f"{scope}.b", ROLE)
    kept_linear = of if not switch.wrapped else ""
    kept_curved = of if switch.wrapped else ""
    linear = build.instead.get(switch.wrapped, switch.wrapped) if switch.wrapped else value
    if switch.as_function:
        function = switch_function("" if switch.wrapped else switch.function, dtype, build.rewriter.model)
        given = [linear, value, a, b] if switch.wrapped else [linear, a, b]
        return build.call(place, function, given, scope, {"linear": kept_linear, "nonlinear": kept_curved, "sum": of})
    curved = value
    if not switch.wrapped:
        curved = add_function(build, place, switch.function, value, f"{scope}/{switch.function}")
    left = build.node(place, "Mul", [a, linear], f"{scope}/linear", of=kept_linear)
    right = build.node(place, "Mul", [b, curved], f"{scope}/nonlinear", of=kept_curved)
    return build.node(place, "Add", [left, right], f"{scope}/sum", of=of)
