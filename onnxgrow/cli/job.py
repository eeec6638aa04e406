"""What every growing command does around its own pass: places, steps, tables, the report, the exit code."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxgrow.cli.places import check_apart, check_report, choose_output
from onnxgrow.cli.streams import complain, deliver
from onnxgrow.errors import GrowError, NotEquivalentError

if TYPE_CHECKING:
    from onnxgrow.cli.screen import Screen
    from onnxgrow.io import Loaded
    from onnxgrow.passes import GrowthPass, GrowthResult
    from onnxgrow.passes.base import Grown

__all__ = ["Job", "Request", "carry_out", "carry_out_step"]


@dataclass(frozen=True)
class Request:
    """What all growing commands are told: the options of :func:`onnxgrow.cli.options.growing_options`."""

    model: Path
    output: Path | None
    provider: str
    inputs: Path | None
    input_shapes: Mapping[str, tuple[int, ...]] | None
    report: Path | None
    dry_run: bool
    in_place: bool
    force: bool
    external_data: bool | None
    external_threshold: int | None
    max_shard_size: int | None
    weights: Literal["raw", "safetensors"]
    link_unchanged: bool
    as_json: bool
    quiet: bool


def carry_out_step(command: str, told: Mapping[str, Any], also: Mapping[str, Path] | None = None) -> int:
    """Carry out a command that is a step of recipes, too: what it is told beside the general options and
    ``--max-change`` are the arguments of its pass. See :func:`carry_out`.
    """
    general = {f.name: told[f.name] for f in fields(Request)}
    rest = {k: v for k, v in told.items() if k not in general and k != "max_change"}

    def make() -> GrowthPass:
        from onnxgrow.recipe.steps import STEPS

        return STEPS[command].make({k: v for k, v in rest.items() if v is not None and v != ()})

    return carry_out(command, Request(**general), make, told.get("max_change"), also=also)


def carry_out(
    command: str,
    request: Request,
    make: Callable[[], GrowthPass],
    max_change: float | None = None,
    beside: Sequence[Path] = (),
    also: Mapping[str, Path] | None = None,
) -> int:
    """Check the places, make the pass, and plan or grow.

    Args:
        command: Name of the command.
        request: Its general options.
        make: Makes the pass; called before the model is read, so that wrong options are said first.
        max_change: For passes with inexact methods.
        beside: Other files that it reads, which are never written to.
        also: Option → another file that the caller writes afterwards; it must be none of those that are read.
    """
    target = choose_output(request.model, request.output, request.in_place, request.force or request.dry_run)
    given = [*([request.inputs] if request.inputs else []), *beside]
    if request.report is not None:
        check_apart(request.report, "--report", [request.model, target, *given])
        check_report(request.report)

    from onnxgrow.cli.screen import Screen

    with Screen(request.quiet) as screen:
        screen.step("starting")
        from onnxgrow.verify.sessions import check_runtime, resolve_provider

        check_runtime()
        if request.provider == "cuda" and not request.dry_run:
            resolve_provider(request.provider)

        from onnxgrow.cli.work import data_files, read_inputs
        from onnxgrow.io import load
        from onnxgrow.passes import Proof

        step = make()
        screen.step("reading")
        loaded = load(request.model, mapped=True)
        sources = [*data_files(loaded.model), *given]
        check_apart(target, "--output", sources)
        for option, path in ({"--report": request.report} | dict(also or {})).items():
            if path is not None:
                check_apart(path, option, sources)
        feeds = read_inputs(request.inputs, loaded)
        step.proof = Proof(feeds, request.input_shapes, request.provider, max_change, screen.step)
        job = Job(command, request.model, target, request.report, request.as_json, screen, time.time())
        if request.dry_run:
            return job.plan(step.preview(loaded.model))
        return job.grow(step, loaded, request)


class Job:
    """One growth, from the model that was read to what is printed about it.

    Args:
        command: Name of the command.
        model, target: Files to read and to write.
        report: Where the evidence goes; None for nowhere.
        as_json: Whether it goes to stdout, too.
        screen: What a person sees.
        started: When the work began, in seconds since the epoch.
    """

    def __init__(
        self,
        command: str,
        model: Path,
        target: Path,
        report: Path | None,
        as_json: bool,
        screen: Screen,
        started: float,
    ) -> None:
        self.command = command
        self.model, self.target, self.report, self.as_json = model, target, report, as_json
        self.screen, self.started = screen, started

    def plan(self, plan: Mapping[str, Any]) -> int:
        """Show what would be done."""
        from onnxgrow.report import Subject, document

        self._show_plan(plan, {})
        self.screen.line(f"dry run: nothing was written; the model would be {self.target}")
        about = Subject(
            f"{self.command} --dry-run", {"model": str(self.model), "output": str(self.target)}, self.started
        )
        self._hand_out(document(about, plan=plan))
        return 0

    def grow(self, step: GrowthPass, loaded: Loaded, request: Request) -> int:
        """Grow, prove, write as the request says, and show the evidence."""
        from onnxgrow.api import apply
        from onnxgrow.cli.work import Recorded
        from onnxgrow.io import INLINE_LIMIT

        before = self._size(loaded)
        recorded = Recorded(step)
        try:
            result = apply(
                recorded,
                loaded,
                output=self.target,
                overwrite=request.in_place or request.force,
                external_data=request.external_data,
                external_threshold=INLINE_LIMIT if request.external_threshold is None else request.external_threshold,
                max_shard_size=request.max_shard_size,
                weights=request.weights,
                link_unchanged=request.link_unchanged,
                write_progress=self.screen.progress("writing"),
            )
        except NotEquivalentError as refused:
            self._refused(recorded.made, refused)
            raise
        # From here on the model is in place and proved: nothing may turn the exit code into one that denies it.
        with contextlib.suppress(KeyboardInterrupt):
            try:
                self._done(result, before)
            except GrowError as e:
                complain(f"{e} ({self.target} is written and proved)")
        return 0

    def _refused(self, made: Grown | None, refused: NotEquivalentError) -> None:
        from onnxgrow.report import evidence_table
        from onnxgrow.verify.report import Report

        if not isinstance(refused.report, Report):
            return
        evidence = refused.report.to_json()
        self.screen.show(evidence_table(evidence))
        if made is not None:
            self._hand_out(self._document(evidence, made.plan, made.growth_map.to_json()))

    def _done(self, result: GrowthResult, before: int | None) -> None:
        from onnxgrow.report import conclusion, evidence_table

        evidence = result.report.to_json()
        self._show_plan(result.plan, {"file size": (before, self._size(None))})
        self.screen.show(evidence_table(evidence))
        for note in evidence["notes"]:
            self.screen.line(f"note: {note}")
        self.screen.line(conclusion(evidence, str(self.target)), style="bold")
        self._hand_out(self._document(evidence, result.plan, result.growth_map.to_json()))

    def _size(self, loaded: Loaded | None) -> int | None:
        from onnxgrow.cli.work import stored_bytes

        return stored_bytes(self.model if loaded else self.target, loaded)

    def _show_plan(self, plan: Mapping[str, Any], sizes: Mapping[str, tuple[int | None, int | None]]) -> None:
        from onnxgrow.report import growth_table, skipped_lines

        for step in plan.get("steps", ()):
            self.screen.line(step["title"], style="bold")
            self._show_plan(step, {})
        self.screen.show(growth_table(plan, sizes))
        for line in (*skipped_lines(plan), *(f"note: {n}" for n in plan["notes"])):
            self.screen.line(line)

    def _document(self, evidence: Any, plan: Mapping[str, Any], growth_map: Mapping[str, Any]) -> dict[str, Any]:
        from onnxgrow.report import Subject, document

        about = Subject(self.command, {"model": str(self.model), "output": str(self.target)}, self.started)
        return document(about, plan=plan, growth_map=growth_map, evidence=evidence)

    def _hand_out(self, data: Mapping[str, Any]) -> None:
        from onnxgrow.report import dumps, write_json

        if self.report is not None:
            write_json(self.report, data)
        if self.as_json:
            deliver(dumps(data))
