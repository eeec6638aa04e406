"""``onnxgrow inspect``: what can grow in a model, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from onnxgrow.cli import options
from onnxgrow.cli.streams import deliver

__all__ = ["inspect"]


@click.command()
@click.argument("model", type=options.PATH)
@options.input_options
@options.provider_option
@click.option("--all", "show_all", is_flag=True, help="Show also the sets that no weight writes, such as the inputs.")
@options.json_option
@options.quiet_option
@options.debug_option
def inspect(
    model: Path,
    inputs: Path | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    provider: str,
    show_all: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Show the channel sets of MODEL: what writes and reads them, what a channel costs, and which of them can grow."""
    from onnxgrow.cli.screen import Screen

    with Screen(quiet) as screen:
        screen.step("starting")
        from onnxgrow.verify.sessions import check_runtime

        check_runtime()
        from onnxgrow import api

        screen.step("analysing")
        data = api.inspect(model, inputs=inputs, input_shapes=input_shapes, provider=provider).to_json()

        from onnxgrow.report import dumps, inspection_lines, inspection_table

        screen.show(inspection_table(data, show_all=show_all))
        for line in inspection_lines(data, show_all=show_all):
            screen.line(line)
        screen.line(f"a verification would run on {data['provider']}")
        if as_json:
            deliver(dumps(data))
    return 0
