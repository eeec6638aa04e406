"""One row of a rules table: a small network around an op, and what has to be growable in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from support import TOLERANCE, Weight, analysis_of, differences, grow_sets, model_of

from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.axis_map import COPY
from onnxgrow.concrete.values import constants
from onnxgrow.errors import UnsupportedError
from onnxgrow.plan import Target, WidenRequest, plan_widen

__all__ = ["Case", "Frozen", "check_frozen", "check_growth"]


@dataclass(frozen=True)
class Case:
    """A network and the sets that must be growable in it, all of them.

    Attributes:
        name: What the row is about.
        graph: ``(inputs) => (outputs) { … }``.
        weights: Name → shape or array.
        growable: Names of the growable sets.
        opset, ir_version, imports, as_inputs, as_nodes: See :func:`support.model_of`.
        dynamic: Value of dynamic dimensions when the two models are compared.
    """

    name: str
    graph: str
    weights: Mapping[str, Weight]
    growable: tuple[str, ...] = ("wa",)
    opset: int = 17
    ir_version: int = 8
    imports: str = ""
    as_inputs: bool = False
    as_nodes: bool = False
    dynamic: int = 2

    def model(self) -> ir.Model:
        return model_of(
            f"g {self.graph}",
            self.weights,
            opset=self.opset,
            ir_version=self.ir_version,
            imports=self.imports,
            as_inputs=self.as_inputs,
            as_nodes=self.as_nodes,
        )


@dataclass(frozen=True)
class Frozen(Case):
    """A network in which nothing grows, for a reason that names an op and, where it has one, an axis."""

    growable: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def check_growth(case: Case) -> None:
    """Each growable set alone, then all at once by different numbers: the outputs stay. Sets that only grow by whole
    multiples have tests of their own.
    """
    model = case.model()
    analysis = analysis_of(model)
    names = [s.name for s in analysis.growable if not _by_copies(s)]
    why = {s.name: [str(r) for r in s.reasons] for s in analysis.sets if not s.growable}
    assert sorted(names) == sorted(case.growable), why
    together = {name: 1 + (2 * n + 2) % 5 for n, name in enumerate(names)}
    for added in [*({name: 3} for name in names), together]:
        grown = grow_sets(model, analysis, added)
        assert grown.changes.tensors
        for changed in differences(model, grown.model, case.dynamic):
            assert changed <= TOLERANCE, added
    for method in ("zero-fan-in", "net2wider"):
        check_method(case, model, analysis, method)


def _by_copies(channel_set: ChannelSet) -> bool:
    return channel_set.residual and all(way.mode == COPY for way in channel_set.ways)


def check_method(case: Case, model: ir.Model, analysis: Analysis, method: str) -> None:
    """The other methods: what their plan accepts keeps the outputs too; what it refuses it refuses with a reason."""
    request = WidenRequest(method=method, target=Target(add=2))
    try:
        plan = plan_widen(analysis, request)
        grown = grow_sets(model, analysis, {p.channel_set.name: p.added for p in plan.sets}, request)
        for name in grown.changes.tensors:
            constants(grown.model)[name].numpy()
    except UnsupportedError as error:
        assert error.reason  # noqa: PT017 - a refusal is one of two right answers here
        return
    for changed in differences(model, grown.model, case.dynamic):
        assert changed <= TOLERANCE, method


def check_frozen(case: Frozen) -> None:
    """Nothing grows unless residual widths are asked for, and each reason that is listed is given by some set."""
    analysis = analysis_of(case.model())
    assert all(s.residual for s in analysis.growable), [s.name for s in analysis.growable]
    given = [str(r) for s in analysis.sets for r in (*s.reasons, *(r for way in s.ways for r in way.statistics))]
    for reason in case.reasons:
        assert reason in given, given
