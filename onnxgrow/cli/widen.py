"""``onnxgrow widen``: give layers more channels, prove the result, write it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.places import check_apart, check_report, choose_output
from onnxgrow.cli.streams import complain, deliver
from onnxgrow.errors import GrowError, NotEquivalentError

if TYPE_CHECKING:
    from onnxgrow.cli.screen import Screen
    from onnxgrow.cli.work import RecordedWiden
    from onnxgrow.io import Loaded
    from onnxgrow.passes import GrowthResult

__all__ = ["widen"]

METHODS = ("zero-fan-out", "zero-fan-in", "near-zero", "net2wider")
INITS = ("kaiming", "xavier", "lecun", "orthogonal", "copy")


@click.command(
    epilog="Without --factor, --add and --to, sizes are doubled. Without --layer, all layers that can grow do."
)
@click.argument("model", type=options.PATH)
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="OUT",
    help="File to write; MODEL.grown.onnx beside the model if not given.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="SELECTOR",
    help="Channel set, weight, node, glob or op:TYPE to widen, as `onnxgrow inspect` names them; may be repeated.",
)
@click.option("--factor", type=float, metavar="F", help="New size as a multiple of the old one.")
@click.option("--add", type=int, metavar="K", help="Channels to add.")
@click.option("--to", type=int, metavar="N", help="New size.")
@click.option("--multiple-of", type=int, default=1, metavar="M", help="Round new sizes up to a multiple of this.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="zero-fan-out",
    show_default=True,
    help="What is zero in the new channels; near-zero and net2wider change the function and need --max-change.",
)
@click.option("--scale", type=float, metavar="S", help="For near-zero: size of the new reader weights against the old.")
@click.option(
    "--init", type=click.Choice(INITS), default="kaiming", show_default=True, help="How the new weights are drawn."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the new weights.")
@options.provider_option
@options.input_options
@options.max_change_option
@options.report_option
@click.option("--dry-run", is_flag=True, help="Show the plan and write no model.")
@click.option("--in-place", is_flag=True, help="Replace MODEL.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option(
    "--external-data/--no-external-data",
    default=None,
    help="Whether weights go into a file beside the model; decided by size if not given.",
)
@options.json_option
@options.quiet_option
@options.debug_option
def widen(
    model: Path,
    output: Path | None,
    layers: tuple[str, ...],
    factor: float | None,
    add: int | None,
    to: int | None,
    multiple_of: int,
    method: str,
    scale: float | None,
    init: str,
    seed: int,
    provider: str,
    inputs: Path | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    max_change: float | None,
    report: Path | None,
    dry_run: bool,
    in_place: bool,
    force: bool,
    external_data: bool | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Give layers of MODEL more channels such that it computes the same function; prove it, then write it."""
    target = choose_output(model, output, in_place, force or dry_run)
    if report is not None:
        check_apart(report, "--report", [model, target, *([inputs] if inputs else [])])
        check_report(report)

    from onnxgrow.cli.screen import Screen

    with Screen(quiet) as screen:
        screen.step("starting")
        from onnxgrow.verify.sessions import check_runtime, resolve_provider

        check_runtime()
        if provider == "cuda" and not dry_run:
            resolve_provider(provider)

        from onnxgrow.cli.work import RecordedWiden, data_files, read_inputs
        from onnxgrow.io import load
        from onnxgrow.passes import Proof

        step = RecordedWiden(
            layers or None,
            factor=factor,
            add=add,
            to=to,
            multiple_of=multiple_of,
            method=method,
            scale=scale,
            init=init,
            seed=seed,
        )
        screen.step("reading")
        loaded = load(model)
        sources = [*data_files(loaded.model), *([inputs] if inputs else [])]
        check_apart(target, "--output", sources)
        if report is not None:
            check_apart(report, "--report", sources)
        step.proof = Proof(read_inputs(inputs, loaded), input_shapes, provider, max_change, screen.step)
        job = _Job(model, target, report, as_json, screen, time.time())
        if dry_run:
            return job.plan(step, loaded)
        return job.widen(step, loaded, overwrite=in_place or force, external_data=external_data)


class _Job:
    """One widening, from the model that was read to what is printed about it."""

    def __init__(
        self, model: Path, target: Path, report: Path | None, as_json: bool, screen: Screen, started: float
    ) -> None:
        self.model, self.target, self.report, self.as_json = model, target, report, as_json
        self.screen, self.started = screen, started

    def plan(self, step: RecordedWiden, loaded: Loaded) -> int:
        """Show what would be done."""
        from onnxgrow.report import Subject, document

        _, planned = step.plan(loaded.model)
        plan = planned.to_json()
        self._show_plan(plan, {})
        self.screen.line(f"dry run: nothing was written; the model would be {self.target}")
        about = Subject("widen --dry-run", {"model": str(self.model), "output": str(self.target)}, self.started)
        self._hand_out(document(about, plan=plan))
        return 0

    def widen(self, step: RecordedWiden, loaded: Loaded, *, overwrite: bool, external_data: bool | None) -> int:
        """Grow, prove, write, and show the evidence."""
        from onnxgrow.api import apply

        before = self._size(loaded)
        try:
            result = apply(step, loaded, output=self.target, overwrite=overwrite, external_data=external_data)
        except NotEquivalentError as refused:
            self._refused(step, refused)
            raise
        # From here on the model is in place and proved: nothing may turn the exit code into one that denies it.
        with contextlib.suppress(KeyboardInterrupt):
            try:
                self._done(result, before)
            except GrowError as e:
                complain(f"{e} ({self.target} is written and proved)")
        return 0

    def _refused(self, step: RecordedWiden, refused: NotEquivalentError) -> None:
        from onnxgrow.report import evidence_table
        from onnxgrow.verify.report import Report

        if not isinstance(refused.report, Report):
            return
        evidence = refused.report.to_json()
        self.screen.show(evidence_table(evidence))
        if step.made is not None:
            self._hand_out(self._document(evidence, step.made.plan, step.made.growth_map.to_json()))

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

        self.screen.show(growth_table(plan, sizes))
        for line in (*skipped_lines(plan), *(f"note: {n}" for n in plan["notes"])):
            self.screen.line(line)

    def _document(self, evidence: Any, plan: Mapping[str, Any], growth_map: Mapping[str, Any]) -> dict[str, Any]:
        from onnxgrow.report import Subject, document

        about = Subject("widen", {"model": str(self.model), "output": str(self.target)}, self.started)
        return document(about, plan=plan, growth_map=growth_map, evidence=evidence)

    def _hand_out(self, data: Mapping[str, Any]) -> None:
        from onnxgrow.report import dumps, write_json

        if self.report is not None:
            write_json(self.report, data)
        if self.as_json:
            deliver(dumps(data))
