"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "PATH",
    "Settings",
    "debug_option",
    "growing_options",
    "input_options",
    "json_option",
    "max_change_option",
    "parse_input_shape",
    "place_options",
    "provider_option",
    "quiet_option",
    "report_option",
]

PATH = click.Path(path_type=Path)
"""A path that click does not touch: what is wrong with a file is found, and said, by what reads it."""

PROVIDERS = ("auto", "cpu", "cuda")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Settings:
    """What concerns the whole program.

    Attributes:
        debug: Whether errors show their traceback.
    """

    debug: bool = False


def parse_input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME:1x3x224x224`` or ``NAME:1,3,224,224`` as name and sizes; the name may hold colons.

    Raises:
        click.BadParameter: No name, no sizes, or a size that is no positive integer.
    """
    name, colon, sizes = text.rpartition(":")
    if not colon or not name:
        raise click.BadParameter(f"{text!r} is not of the form NAME:DIMS, as in image:1x3x224x224")
    parts = sizes.replace(",", "x").split("x")
    if not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise click.BadParameter(f"{sizes!r} is not a list of positive sizes, as in 1x3x224x224")
    return name, tuple(int(p) for p in parts)


def _shapes(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[int, ...]] | None:
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, sizes = parse_input_shape(text)
        if name in found:
            raise click.BadParameter(f"the shape of {name!r} is given twice")
        found[name] = sizes
    return found or None


def _bound(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise click.BadParameter(f"{value} is not a number from 0 up")
    return value


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Settings).debug = value


def input_options(command: F) -> F:
    """``--inputs`` and ``--input-shape``."""
    shape = click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="NAME:DIMS",
        callback=_shapes,
        help="Shape of an input, as in image:1x3x224x224; once per input.",
    )
    inputs = click.option(
        "--inputs",
        type=PATH,
        metavar="FILE.npz",
        help="Valid inputs by name, where sampled ones would not do; used beside them.",
    )
    return inputs(shape(command))


provider_option = click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    default="auto",
    show_default=True,
    help="ONNX Runtime execution provider to verify on; cuda insists that every node runs there.",
)
max_change_option = click.option(
    "--max-change",
    type=float,
    metavar="X",
    callback=_bound,
    help="Largest change of an output, relative to its scale, that an inexact method may make.",
)
report_option = click.option(
    "--report", type=PATH, metavar="FILE.json", help="Write the evidence there, also when the verdict is negative."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the data as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)


def _all(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help text."""

    def apply(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


place_options = _all(
    click.argument("model", type=PATH),
    click.option(
        "-o",
        "--output",
        type=PATH,
        metavar="OUT",
        help="File to write; MODEL.grown.onnx beside the model if not given.",
    ),
)
"""MODEL and ``--output`` of a growing command."""

growing_options = _all(
    provider_option,
    input_options,
    report_option,
    click.option("--dry-run", is_flag=True, help="Show the plan and write no model."),
    click.option("--in-place", is_flag=True, help="Replace MODEL."),
    click.option("--force", is_flag=True, help="Replace OUT where it exists."),
    click.option(
        "--external-data/--no-external-data",
        default=None,
        help="Whether weights go into a file beside the model; decided by size if not given.",
    ),
    json_option,
    quiet_option,
    debug_option,
)
"""What every growing command can be told, MODEL and ``--output`` aside: see ``onnxgrow.cli.job.Request``."""
