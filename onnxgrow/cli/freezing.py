"""``--freeze-old``: a list of the old and the new parameters beside the grown model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step
from onnxgrow.cli.places import check_apart, check_report, choose_output
from onnxgrow.cli.streams import complain
from onnxgrow.errors import GrowError

__all__ = ["carry_out_with_list", "freeze_option"]

freeze_option = click.option(
    "--freeze-old",
    type=options.PATH,
    metavar="FILE.json",
    help="Write the names of old and new parameters there, for training the new ones alone.",
)


def carry_out_with_list(command: str, told: Mapping[str, Any], freeze_old: Path | None) -> int:
    """As :func:`onnxgrow.cli.job.carry_out_step`; writes the list once the model is in place."""
    if freeze_old is None:
        return carry_out_step(command, told)
    model, dry_run = told["model"], told["dry_run"]
    target = choose_output(model, told["output"], told["in_place"], told["force"] or dry_run)
    others = [p for p in (told["report"], told["inputs"]) if p is not None]
    check_apart(freeze_old, "--freeze-old", [model, target, *others])
    check_report(freeze_old)
    code = carry_out_step(command, told, also={"--freeze-old": freeze_old})
    if code == 0 and not dry_run:
        _write(freeze_old, target)
    return code


def _write(path: Path, target: Path) -> None:
    from onnxgrow.growth_map import GrowthMap
    from onnxgrow.io import load
    from onnxgrow.passes.blocks import freeze_list
    from onnxgrow.report import write_json

    try:
        model = load(target, mapped=True).model
        write_json(path, freeze_list(model, GrowthMap.of_model(model.metadata_props) or GrowthMap()))
    except GrowError as e:
        # The model is in place and proved: no exit code may deny it.
        complain(f"{e} ({target} is written and proved)")
