"""The passes that insert identity layers and ActiSwitches."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.functions import AUTO, check_function
from onnxgrow.passes.deepen.layer import insert_layer
from onnxgrow.passes.deepen.plan import InsertionPlan, SwitchRequest, Where, plan_layers, plan_switches
from onnxgrow.passes.deepen.switch import LINEAR, NONLINEAR, Start, check_start, insert_switch
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["AddActiSwitch", "InsertIdentity"]

LARGEST_KERNEL = 1 << 10
Selectors = Sequence[str] | str | None


def _where(at: Selectors, after: Selectors, before: Selectors, every: int) -> Where:
    def listed(given: Selectors) -> tuple[str, ...]:
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)

    if type(every) is not int or every < 1:
        raise UsageError("every", f"{every!r} is no positive whole number")
    where = Where(listed(at), listed(after), listed(before), every)
    if every != 1 and where.named:
        raise UsageError("every", "it picks among the automatic places, but places are named", "leave one of them out")
    return where


class _Insertion(GrowthPass):
    """What both passes do with their plan."""

    def planned(self, found: Study) -> InsertionPlan:
        raise NotImplementedError

    def plan(self, model: ir.Model) -> InsertionPlan:
        """What would be done."""
        self.proof.say("analysing")
        return self.planned(study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs))

    def grow(self, model: ir.Model) -> Grown:
        """Insert into a copy of ``model``."""
        self.proof.say("analysing")
        return self.carry_out(study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs))

    def carry_out(self, found: Study) -> Grown:
        """Insert into a copy of a model that was studied."""
        model = found.model
        plan, past = self.planned(found), lineage(model)
        self.proof.say(f"inserting at {len(plan.parts)} places")
        grown = copy_model(model)
        build = Builder(Rewriter(grown))
        for part in plan.parts:
            key, index = part.place.readers[0]
            read = build.rewriter.node(key).inputs[index]
            assert read is not None
            value, scope = read.name or "", f"{part.place.base}.actiswitch"
            if part.layer is not None:
                value = insert_layer(build, part.layer, value)
            if part.switch is not None:
                value = insert_switch(build, part.switch, value, scope)
            build.lead_to(part.place, value)
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            exact=plan.exact,
            values=build.values,
            tensors=build.tensors,
            nodes=build.rewriter.node_changes(),
            inserted=tuple(build.rewriter.inserted),
            recipe=plan.recipe,
            versions=past.versions,
            history=past.history,
        )
        return Grown(grown, growth_map, plan.to_json())


class InsertIdentity(_Insertion):
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
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        self.where = _where(at, after, before, every)
        self.kernel = kernel if isinstance(kernel, int) else tuple(kernel)
        sizes = (self.kernel,) if isinstance(self.kernel, int) else self.kernel
        if not sizes or not all(type(n) is int and 0 < n <= LARGEST_KERNEL for n in sizes):
            raise UsageError("kernel", f"{kernel!r} is no kernel size", f"sizes are from 1 to {LARGEST_KERNEL}")
        check_function(activation)
        check_start(start)
        self.depthwise, self.bias = depthwise, bias
        self.switch = SwitchRequest(activation, start, per_channel) if actiswitch else None

    def planned(self, found: Study) -> InsertionPlan:
        """The plan for a network that was studied."""
        return plan_layers(found, self.where, self.kernel, self.depthwise, self.bias, self.switch)


class AddActiSwitch(_Insertion):
    """Wrap existing activations: y = a·x + b·f(x), where f(x) is what the network computes there.

    Args:
        at: Selectors of values behind activations, or of the nodes that make them; all hidden ones without any.
        after: Selectors of nodes.
        every: Of the automatic places, every n-th.
        start: a and b; (0, 1) is exact, any other needs ``proof.max_change``.
        per_channel: Whether each channel has its own a and b.
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
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        self.where = _where(at, after, None, every)
        check_start(start)
        self.switch = SwitchRequest("", start, per_channel)

    def planned(self, found: Study) -> InsertionPlan:
        """The plan for a network that was studied."""
        return plan_switches(found, self.where, self.switch)
