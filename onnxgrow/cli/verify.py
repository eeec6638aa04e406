"""``onnxgrow verify``: prove that a grown model computes the function of its original."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.places import check_apart, check_report
from onnxgrow.cli.streams import deliver
from onnxgrow.errors import NotEquivalentError

__all__ = ["verify"]


@click.command()
@click.argument("original", type=options.PATH)
@click.argument("grown", type=options.PATH)
@options.provider_option
@options.input_options
@options.max_change_option
@click.option(
    "--outputs",
    multiple=True,
    metavar="NAME",
    help="A graph output that may have grown, with old entries as they were.",
)
@options.report_option
@options.json_option
@options.quiet_option
@options.debug_option
def verify(
    original: Path,
    grown: Path,
    provider: str,
    inputs: Path | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    max_change: float | None,
    outputs: tuple[str, ...],
    report: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Prove that GROWN computes the function of ORIGINAL, by the growth map that it carries.

    Exits with 0 when it does (or changes by no more than --max-change, where it says itself that it is inexact).
    """
    if report is not None:
        check_apart(report, "--report", [original, grown, *([inputs] if inputs else [])])
        check_report(report)
    started = time.time()

    from onnxgrow.cli.screen import Screen

    with Screen(quiet) as screen:
        screen.step("starting")
        from onnxgrow.verify.sessions import check_runtime, resolve_provider

        check_runtime()
        if provider == "cuda":
            resolve_provider(provider)

        from onnxgrow.api import verify as check
        from onnxgrow.cli.work import data_files, read_inputs
        from onnxgrow.io import load
        from onnxgrow.report import Subject, conclusion, document, dumps, evidence_table, refusal, write_json

        screen.step("reading")
        before, after = load(original, mapped=True), load(grown, mapped=True)
        if report is not None:
            check_apart(report, "--report", [*data_files(before.model), *data_files(after.model)])
        result = check(
            before.model,
            after.model,
            inputs=read_inputs(inputs, before),
            input_shapes=input_shapes,
            provider=provider,
            max_change=max_change,
            outputs=outputs,
            progress=screen.step,
        )
        evidence: dict[str, Any] = result.to_json()
        screen.show(evidence_table(evidence))
        for note in result.notes:
            screen.line(f"note: {note}")
        about = Subject("verify", {"original": str(original), "grown": str(grown)}, started)
        data = document(about, evidence=evidence)
        if report is not None:
            write_json(report, data)
        if as_json:
            deliver(dumps(data))
        if not result.ok:
            reason, hint = refusal(evidence)
            raise NotEquivalentError(str(grown), reason, hint, result)
        screen.line(conclusion(evidence, str(grown)), style="bold")
    return 0
