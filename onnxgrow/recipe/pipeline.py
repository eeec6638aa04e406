"""A recipe as one growth pass: step by step, each proved against the one before, the last against the first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxgrow.errors import GrowError, NotEquivalentError, UnsupportedError
from onnxgrow.io import Loaded
from onnxgrow.passes.base import Grown, GrowthPass, Proof, refusal_of
from onnxgrow.recipe.custom import find_pass
from onnxgrow.recipe.recipe import Recipe, Step
from onnxgrow.verify.report import Report

__all__ = ["RunRecipe"]


@dataclass
class _Made:
    """What came of one step."""

    label: str
    step: Step
    tool: GrowthPass
    before: ir.Model
    grown: Grown


class RunRecipe(GrowthPass):
    """Do what a recipe says, as one growth: nothing is handed out unless all of it was proved.

    Each step's result carries the growth maps of the steps before it as history. The models between are not written;
    they are in memory, with weights that are computed when they are asked for.

    Args:
        recipe: See :func:`onnxgrow.recipe.read_recipe`.
        allow_code: Whether code that the recipe names as ``module:function`` may run.
        proof: How results are verified; its ``max_change`` goes before the recipe's.

    Raises:
        UsageError: Code that is not there or not allowed; the line is named.
    """

    def __init__(self, recipe: Recipe, *, allow_code: bool = False, proof: Proof | None = None) -> None:
        super().__init__(proof)
        self.recipe = recipe
        self._tools = [_tool(step, recipe, allow_code) for step in recipe.steps]
        self._made: list[_Made] = []
        self._reports: list[Report] = []

    @property
    def max_change(self) -> float | None:
        """How much all steps together may change outputs."""
        return self.recipe.max_change if self.proof.max_change is None else self.proof.max_change

    def plan(self, model: ir.Model) -> dict[str, Any]:
        """What every step would do, JSON data; grows in memory and proves nothing."""
        return _plan(list(self._steps(model)))

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan, JSON data."""
        return self.plan(model)

    def grow(self, model: ir.Model) -> Grown:
        """Do all steps on copies, and prove all but the last one."""
        self._made, self._reports = [], []
        for made in self._steps(model):
            self._made.append(made)
            if len(self._made) < len(self._tools):
                self._reports.append(self._proved(made, None, None))
        last = self._made[-1].grown
        return Grown(last.draft, last.listed, _plan(self._made), last.frozen)

    def verify(
        self, original: ir.Model, grown: Grown, written: Loaded | None = None, original_path: Path | None = None
    ) -> Report:
        """Prove the last step, and compare the last model with the first."""
        from onnxgrow.verify.chain import Link, conclude, end_to_end

        first = original_path if len(self._made) == 1 else None
        reports = [*self._reports, self._proved(self._made[-1], written, first)]
        if len(reports) == 1:
            return reports[0]
        self.proof.say("comparing the result with the original")
        maps = [made.grown.growth_map for made in self._made]
        ends = end_to_end(
            original,
            grown.model if written is None else written.model,
            maps,
            original_path=original_path,
            result_path=None if written is None else written.path,
            inputs=self.proof.inputs,
            input_shapes=self.proof.input_shapes,
            provider=self.proof.provider,
            progress=self.proof.progress,
        )
        links = [Link(m.label, g, r) for m, g, r in zip(self._made, maps, reports, strict=True)]
        report = conclude(links, ends, self.max_change, grown.frozen)
        if not report.ok:
            raise NotEquivalentError("result", *refusal_of(report), report=report)
        return report

    def _steps(self, model: ir.Model) -> Iterator[_Made]:
        """Every step's result, made from the one before."""
        count = len(self._tools)
        for number, (step, tool) in enumerate(zip(self.recipe.steps, self._tools, strict=True), 1):
            label = f"step {number} ({step.title})"
            bound = self.max_change if step.max_change is None else step.max_change
            tool.proof = replace(self.proof.within(f"step {number} of {count}, {step.title}"), max_change=bound)
            with _located(step):
                tool.requires(model)
                grown = tool.grow(model)
                if step.kind is None and grown.listed.outputs:
                    reason = f"it grows output {grown.listed.outputs[0]!r}, which has to be asked for by name"
                    raise UnsupportedError(step.where, reason, "use a step widen with outputs")
            yield _Made(label, step, tool, model, grown)
            if number < count:
                model = grown.model

    def _proved(self, made: _Made, written: Loaded | None, original_path: Path | None) -> Report:
        with _located(made.step):
            return made.tool.verify(made.before, made.grown, written, original_path)


@contextmanager
def _located(step: Step) -> Iterator[None]:
    """Errors inside say the line of the step."""
    try:
        yield
    except GrowError as e:
        if e.subject == step.where:
            raise
        subject = f"{step.where}: {step.title}: {e.subject}"
        if isinstance(e, NotEquivalentError):
            raise NotEquivalentError(subject, e.reason, e.hint, e.report) from e
        raise type(e)(subject, e.reason, e.hint) from e


def _tool(step: Step, recipe: Recipe, allow_code: bool) -> GrowthPass:
    if step.kind is None:
        return find_pass(step, recipe.folder, allow_code)
    return step.kind.make(step.arguments)


def _plan(made: list[_Made]) -> dict[str, Any]:
    """The plans of all steps, and what they come to."""
    plans = [dict(m.grown.plan) for m in made]
    totals: dict[str, Any] = {}
    for key in ("parameters", "flops"):
        if all(key in plan for plan in plans):
            # Dynamic sizes may be analysed at other values in another step, so only factors can be put together.
            factor = math.prod(Fraction(plan[key]["new"], max(plan[key]["old"], 1)) for plan in plans)
            totals[key] = {"old": plans[0][key]["old"], "new": round(plans[0][key]["old"] * factor)}
    return {
        "recipe": {"pass": "run", "steps": [plan.get("recipe", {}) for plan in plans]},
        "steps": [{"title": m.label, "where": m.step.where, **plan} for m, plan in zip(made, plans, strict=True)],
        "skipped": {},
        "notes": [],
        **totals,
    }
