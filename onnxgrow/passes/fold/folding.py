"""Fold ActiSwitches that converged: linear ones go, others become the plain activation or a leaky ReLU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.analysis.study import Study, study
from onnxgrow.concrete.calls import expanded
from onnxgrow.concrete.values import dims_of
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap, ValueGrowth
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.fold.linear import NotMergeableError
from onnxgrow.passes.fold.merging import Merger
from onnxgrow.passes.fold.switches import Case, FoundSwitch, case_of, find_switches, switch_calls
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["Fold", "FoldPlan"]


@dataclass(frozen=True)
class Planned:
    """One ActiSwitch that folds.

    Attributes:
        switch: The switch.
        case: What it has become.
        gap: How far its factors are from being exactly that.
    """

    switch: FoundSwitch
    case: Case
    gap: float


@dataclass(frozen=True)
class Done:
    """What came of a plan.

    Attributes:
        merged: Switch → the layer that linear layers around it went into.
        notes: Why others stay two.
        parameters, flops: Saved.
    """

    merged: Mapping[str, str]
    notes: tuple[str, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class FoldPlan:
    """What folds, and what does not, with the reason.

    Attributes:
        recipe: What was asked for, JSON data.
        folds: In network order.
        skipped: Switch → why it stays.
        parameters: Of the network.
        flops: The same.
    """

    recipe: Mapping[str, Any]
    folds: tuple[Planned, ...]
    skipped: Mapping[str, str]
    parameters: int
    flops: int

    def to_json(self, done: Done | None = None) -> dict[str, Any]:
        """Plain data: what is planned, and what merging did where it is done. FLOPs are those of linear layers."""
        factors = sum(v.size for p in self.folds for v in p.switch.values)
        folds: list[dict[str, Any]] = []
        for p in self.folds:
            folds.append({"name": p.switch.name, "becomes": p.case.value, "gap": p.gap})
            if done is not None and p.switch.name in done.merged:
                folds[-1]["merged_into"] = done.merged[p.switch.name]
        return {
            "recipe": dict(self.recipe),
            "folds": folds,
            "skipped": dict(self.skipped),
            "notes": list(done.notes) if done is not None else [],
            "parameters": {"old": self.parameters, "new": self.parameters - (done.parameters if done else factors)},
            "flops": {"old": self.flops, "new": self.flops - (done.flops if done else 0)},
        }


class Fold(GrowthPass):
    """Take out ActiSwitches whose factors converged.

    b = 0 leaves x or a·x, a = 0 and b = 1 leave f(x), and where f is ReLU and a + b = 1 it is a leaky ReLU of slope a
    (PRelu where each channel has its own). Exact where factors are exactly so; with a tolerance the change is
    measured and needs ``proof.max_change``.

    Args:
        tolerance: How far a factor may be from 0 or 1.
        merge: Merge the linear layers on both sides of one that became linear, where padding and cost allow it:
            products round, so this needs ``proof.max_change``, too.
        proof: How the result is verified.

    Raises:
        UsageError: A tolerance that is none.
        UnsupportedError: When called: nothing folds.
    """

    def __init__(self, *, tolerance: float = 0.0, merge: bool = False, proof: Proof | None = None) -> None:
        super().__init__(proof)
        if not (math.isfinite(tolerance) and 0 <= tolerance < 0.5):
            raise UsageError("tolerance", f"{tolerance!r} is no tolerance", "it is a number from 0 to 0.5")
        self.tolerance, self.merge = tolerance, merge

    def plan(self, model: ir.Model) -> FoldPlan:
        """What would be done."""
        return self._plan(self._studied(model))

    def _studied(self, model: ir.Model) -> Study:
        """The network with the calls of ActiSwitches that are local functions expanded."""
        self.proof.say("analysing")
        seen = expanded(model, switch_calls(model))
        return study(seen, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs)

    def _plan(self, found: Study) -> FoldPlan:
        network = found.analysis.network
        outputs = {v.name for v in found.model.graph.outputs}
        folds: list[Planned] = []
        skipped: dict[str, str] = {}
        switches = find_switches(network)
        for switch in switches:
            case = case_of(switch, self.tolerance)
            if switch.sum in outputs:
                skipped[switch.name] = "it is an output of the network, which keeps its name"
            elif switch.sum in network.captured:
                skipped[switch.name] = "a subgraph reads it"
            elif case is None:
                skipped[switch.name] = "its factors have not converged: " + ", ".join(
                    f"{letter} is {v.min():.4g}" + (f" to {v.max():.4g}" if v.size > 1 else "")
                    for letter, v in zip("ab", switch.values, strict=True)
                )
            else:
                folds.append(Planned(switch, *case))
        if not folds:
            reason = "; ".join(f"{k}: {v}" for k, v in list(skipped.items())[:3])
            if not switches:
                raise UnsupportedError("the network", "it has no ActiSwitches", "`onnxgrow actiswitch` adds them")
            raise UnsupportedError("the network", f"no ActiSwitch folds: {reason}", "allow more with --tolerance")
        cost = found.analysis.cost
        recipe = {"pass": "fold", "tolerance": self.tolerance, "merge": self.merge}
        return FoldPlan(recipe, tuple(folds), skipped, cost.total_parameters({}), cost.total_flops({}))

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan, JSON data."""
        return self.plan(model).to_json()

    def grow(self, model: ir.Model) -> Grown:
        """Fold in a copy of ``model``."""
        found = self._studied(model)
        plan, past = self._plan(found), lineage(model)
        self.proof.say(f"folding {len(plan.folds)} ActiSwitches")
        sums = {p.switch.sum for p in plan.folds}
        calls = tuple(key for key in switch_calls(model) if key in sums)
        grown = expanded(model, calls)
        folder = _Folder(Rewriter(grown), found.analysis.network.concrete.shapes)
        for fold in plan.folds:
            folder.fold(fold)
        merged: dict[str, str] = {}
        notes: list[str] = []
        for fold in plan.folds if self.merge else ():
            if fold.case in (Case.IDENTITY, Case.SCALED):
                try:
                    merged[fold.switch.name] = folder.merge(fold)
                except NotMergeableError as e:
                    notes.append(f"{fold.switch.name}: its linear layers stay two: {e}")
        rewriter = folder.rewriter
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            exact=not merged and all(p.gap == 0 for p in plan.folds),
            values=folder.values,
            tensors=folder.merger.tensors,
            nodes=rewriter.node_changes(),
            inserted=tuple(rewriter.inserted),
            removed=tuple(rewriter.removed),
            recipe=plan.recipe,
            versions=past.versions,
            history=past.history,
            calls=calls,
        )
        stored = model.graph.initializers
        gone = [stored[name].const_value for name in rewriter.removed if name in stored]
        parameters = sum(math.prod(dims_of(t)) for t in gone if t is not None) - folder.merger.entries
        return Grown(grown, growth_map, plan.to_json(Done(merged, tuple(notes), parameters, folder.merger.saved)))


class _Folder:
    """The edits."""

    def __init__(self, rewriter: Rewriter, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.rewriter = rewriter
        self.merger = Merger(rewriter, shapes)
        self.values: dict[str, ValueGrowth] = {}
        self._now: dict[str, str] = {}

    def _current(self, name: str) -> str:
        """What a value that was folded away has become."""
        while name in self._now:
            name = self._now[name]
        return name

    def fold(self, planned: Planned) -> None:
        """Let the readers of a switch read what it has become, and remove what nothing reads then."""
        switch, rewriter = planned.switch, self.rewriter
        if planned.case is Case.LEAKY:
            target = self._leaky(switch)
        else:
            target = {Case.IDENTITY: switch.x, Case.SCALED: switch.linear, Case.PLAIN: switch.fx}[planned.case]
            target = self._current(target)
        total = rewriter.node(switch.sum)
        for use in list(total.outputs[0].uses()):
            rewriter.set_input(node_key(use.node), use.idx, target)
        self._now[switch.sum] = target
        pending = [switch.sum, switch.linear, switch.nonlinear, *map(node_key, switch.function)]
        pending = [key for key in pending if rewriter.holds(key)]  # f may hold a switch that was folded before
        constants = [v for key in pending for v in rewriter.node(key).inputs if v is not None]
        for _ in list(pending):
            for key in [k for k in pending if not self._is_read(k)]:
                constants += [v for v in rewriter.node(key).inputs if v is not None]
                rewriter.remove(key)
                pending.remove(key)
        for value in dict.fromkeys(constants):
            rewriter.sweep(value)

    def _is_read(self, key: str) -> bool:
        return any(list(o.uses()) or o.is_graph_output() for o in self.rewriter.node(key).outputs)

    def _leaky(self, switch: FoundSwitch) -> str:
        x = self._current(switch.x)
        slope, name = switch.values[0], f"{switch.name}/leaky_relu"
        if slope.size == 1:
            made = self.rewriter.insert_after(
                x, "LeakyRelu", [x], name, [ir.AttrFloat32("alpha", float(slope.reshape(())))]
            )
        else:
            made = self.rewriter.insert_after(x, "PRelu", [x, switch.a], name)
        self.values[made] = ValueGrowth({}, switch.sum)
        return made

    def merge(self, planned: Planned) -> str:
        """Merge the layers around a linear switch. Raises NotMergeableError."""
        x = self.rewriter.value(self._current(planned.switch.x))
        out = self.rewriter.value(self._current(planned.switch.sum))
        scale = planned.switch.values[0]
        return self.merger.merge(x, out, scale if planned.case is Case.SCALED else scale * 0 + 1)
