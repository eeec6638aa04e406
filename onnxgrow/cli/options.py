"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxgrow.names import STARTS

__all__ = [
    "PATH",
    "Settings",
    "at_options",
    "debug_option",
    "growing_options",
    "input_options",
    "json_option",
    "max_change_option",
    "parse_input_shape",
    "parse_size",
    "parse_sizes",
    "place_options",
    "provider_option",
    "quiet_option",
    "report_option",
    "switch_options",
]

PATH = click.Path(path_type=Path)
"""A path that click does not touch: what is wrong with a file is found, and said, by what reads it."""

PROVIDERS = ("auto", "cpu", "cuda")
UNITS = {"": 1, "B": 1} | {f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}
UNITS |= {f"{p}IB": 1024**n for n, p in enumerate("KMGT", 1)}

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


def parse_size(text: str) -> int:
    """``1GB``, ``500 MB``, ``1.5GiB`` or ``4096`` as bytes: KB, MB, GB and TB are powers of 1000, KiB … of 1024.

    Raises:
        click.BadParameter: Not of that form, or less than a byte.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)", text.strip())
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is not a size, as in 500MB or 1.5GiB")
    size = int(Fraction(match[1]) * unit)
    if size < 1:
        raise click.BadParameter(f"{text!r} is less than a byte")
    return size


def _size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return None if text is None else parse_size(text)


def parse_sizes(_: click.Context, __: click.Parameter, text: str | None) -> int | tuple[int, ...] | None:
    """``5`` as a number, ``5x3`` or ``5,3`` as a tuple. Raises click.BadParameter where it is neither."""
    if text is None:
        return None
    parts = text.replace(",", "x").split("x")
    if not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise click.BadParameter(f"{text!r} is not a kernel size, as in 5 or 5x3")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def _start(_: click.Context, __: click.Parameter, text: str) -> tuple[float, float]:
    if text in STARTS:
        return STARTS[text]
    try:
        a, b = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither linear nor nonlinear nor A,B, as in 0.9,0.1") from None
    return a, b


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
        help="Whether weights go into files beside the model; decided by size if not given.",
    ),
    click.option(
        "--external-threshold",
        metavar="SIZE",
        callback=_size,
        help="Size (as in 500MB) above which a model has its weights in files beside it.  [default: 1.9GB]",
    ),
    click.option(
        "--max-shard-size",
        metavar="SIZE",
        callback=_size,
        help="Largest size (as in 5GB) of a file of weights; a larger tensor has one of its own.",
    ),
    click.option(
        "--weights",
        type=click.Choice(("raw", "safetensors")),
        default="raw",
        show_default=True,
        help="Form of the files of weights.",
    ),
    click.option(
        "--link-unchanged",
        is_flag=True,
        help="Share the bytes of unchanged weights with MODEL's files where the file system can (reflink).",
    ),
    json_option,
    quiet_option,
    debug_option,
)
"""What every growing command can be told, MODEL and ``--output`` aside: see ``onnxgrow.cli.job.Request``."""

at_options = _all(
    click.option(
        "--at",
        multiple=True,
        metavar="SELECTOR",
        help="Value, node that makes it, glob or op:TYPE; may be repeated. Without places, after hidden activations.",
    ),
    click.option("--after", multiple=True, metavar="SELECTOR", help="Node, glob or op:TYPE; may be repeated."),
    click.option(
        "--every", type=int, default=1, show_default=True, metavar="N", help="Of the hidden activations, every N-th."
    ),
)
"""Where something is inserted."""


def switch_options(start: str) -> Callable[[F], F]:
    """``--start`` with this default, ``--per-channel``, ``--as-function`` and ``--max-change``."""
    return _all(
        click.option(
            "--start",
            default=start,
            show_default=True,
            metavar="linear|nonlinear|A,B",
            callback=_start,
            help="a and b of an ActiSwitch, a·x + b·f(x); what is not exact needs --max-change.",
        ),
        click.option("--per-channel", is_flag=True, help="An a and a b for each channel."),
        click.option(
            "--as-function",
            is_flag=True,
            help="Make each ActiSwitch one node, a call of a local function of the model.",
        ),
        max_change_option,
    )
