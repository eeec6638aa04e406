"""The passes that insert identity layers and ActiSwitches."""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.analysis.study import Study
from onnxgrow.errors import UsageError
from onnxgrow.passes.base import Lineage, Proof
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.functions import AUTO, check_function
from onnxgrow.passes.deepen.inserting import Insertion, Selectors, kernel_of, where_of
from onnxgrow.passes.deepen.layer import insert_layer
from onnxgrow.passes.deepen.plan import InsertionPlan, Part, SwitchRequest, plan_layers, plan_switches
from onnxgrow.passes.deepen.switch import LINEAR, NONLINEAR, Start, check_start, insert_switch

__all__ = ["AddActiSwitch", "InsertIdentity"]


class _Layers(Insertion[Part]):
    """Builds layers and ActiSwitches."""

    def insert(self, build: Builder, part: Part, value: str, past: Lineage) -> str:
        """Add a layer, an ActiSwitch, or both."""
        if part.layer is not None:
            value = insert_layer(build, part.layer, value)
        if part.switch is not None:
            value = insert_switch(build, part.switch, value, f"{part.place.base}.actiswitch")
        return value


class InsertIdentity(_Layers):
    """Insert layers that compute the identity, each with an ActiSwitch that starts linear behind it.

    Where channels are on axis 1 of an image-like value it is a Conv, elsewhere a Gemm or MatMul (with Add) on the
    last axis. After Net2DeeperNet, https://arxiv.org/abs/1511.05641.

    Args:
        at: Selectors of values, or of nodes that make them; without any selector, behind every hidden activation.
        after: Selectors of nodes.
        before: Selectors of nodes: in front of that node only.
        every: Of the automatic places, every n-th.
        kernel: Size of convolutions on every spatial axis, or one size per axis; even ones get asymmetric pads.
        depthwise: Whether convolutions have one filter a channel.
        bias: Whether layers have one.
        actiswitch: Whether an ActiSwitch follows each layer.
        activation: Its f, or ``auto``.
        start: Its a and b; (1, 0) is exact, any other needs ``proof.max_change``.
        per_channel: Whether each channel has its own a and b.
        as_function: Whether each ActiSwitch becomes one call of a local function; needs IR version 8.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that make no sense, or (when called) a selector that matches nothing.
        UnsupportedError: When called: a named place is not legal, or none is; the reason is named.
    """

    def __init__(
        self,
        at: Selectors = None,
        *,
        after: Selectors = None,
        before: Selectors = None,
        every: int = 1,
        kernel: int | Sequence[int] = 1,
        depthwise: bool = False,
        bias: bool = True,
        actiswitch: bool = True,
        activation: str = AUTO,
        start: Start = LINEAR,
        per_channel: bool = False,
        as_function: bool = False,
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        self.where = where_of(at, after, before, every)
        self.kernel = kernel_of(kernel)
        check_function(activation)
        check_start(start)
        if as_function and not actiswitch:
            raise UsageError("as_function", "only ActiSwitches become functions", "leave one of the two out")
        self.depthwise, self.bias = depthwise, bias
        self.switch = SwitchRequest(activation, start, per_channel, as_function) if actiswitch else None

    def planned(self, found: Study) -> InsertionPlan:
        """The plan for a network that was studied."""
        return plan_layers(found, self.where, self.kernel, self.depthwise, self.bias, self.switch)


class AddActiSwitch(_Layers):
    """Wrap existing activations: y = a·x + b·f(x), where f(x) is what the network computes there.

    Args:
        at: Selectors of values behind activations, or of the nodes that make them; all hidden ones without any.
        after: Selectors of nodes.
        every: Of the automatic places, every n-th.
        start: a and b; (0, 1) is exact, any other needs ``proof.max_change``.
        per_channel: Whether each channel has its own a and b.
        as_function: Whether each ActiSwitch becomes one call of a local function; needs IR version 8.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that make no sense, or (when called) a selector that matches nothing.
        UnsupportedError: When called: a named place is not legal, or none is; the reason is named.
    """

    def __init__(
        self,
        at: Selectors = None,
        *,
        after: Selectors = None,
        every: int = 1,
        start: Start = NONLINEAR,
        per_channel: bool = False,
        as_function: bool = False,
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        self.where = where_of(at, after, None, every)
        check_start(start)
        self.switch = SwitchRequest("", start, per_channel, as_function)

    def planned(self, found: Study) -> InsertionPlan:
        """The plan for a network that was studied."""
        return plan_switches(found, self.where, self.switch)
