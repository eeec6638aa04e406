"""``onnxgrow widen``: give layers more channels, prove the result, write it."""

from __future__ import annotations

from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step
from onnxgrow.names import INITS, METHODS

__all__ = ["widen"]


@click.command(
    epilog="Without --factor, --add and --to, sizes are doubled. Without --layer, all layers that can grow do."
)
@options.place_options
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="SELECTOR",
    help="Channel set, weight, node, glob or op:TYPE to widen, as `onnxgrow inspect` names them; may be repeated.",
)
@click.option(
    "--outputs",
    multiple=True,
    metavar="NAME=+K",
    help="Graph output to grow by K entries (NAME=N: to N; NAME@AXIS or NAME@SET where several could be meant). "
    "Changes the interface, keeps old entries; verdict `changed`. Without --layer nothing else grows. May be repeated.",
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
    "--init",
    type=click.Choice(INITS),
    default="kaiming",
    show_default=True,
    help="How the new weights are drawn; zeros for --outputs alone.",
)
@click.option(
    "--residual",
    is_flag=True,
    help="Grow the widths of residual streams, too (hidden sizes, which normalisations are taken over).",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the new weights.")
@options.max_change_option
@options.growing_options
def widen(**told: Any) -> int:
    """Give layers of MODEL more channels such that it computes the same function; prove it, then write it."""
    return carry_out_step("widen", told)
