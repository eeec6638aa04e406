"""``onnxgrow deepen``: insert layers that start as identities, prove the result, write it."""

from __future__ import annotations

from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step
from onnxgrow.names import ACTIVATIONS

__all__ = ["deepen"]


@click.command(
    epilog="Without --at, --after and --before, a layer with an ActiSwitch goes behind every hidden activation."
)
@options.place_options
@options.at_options
@click.option(
    "--before", multiple=True, metavar="SELECTOR", help="Node: in front of it only; glob or op:TYPE; may be repeated."
)
@click.option(
    "--kernel",
    default="1",
    show_default=True,
    metavar="K|KxL",
    callback=options.parse_sizes,
    help="Kernel of convolutions, one size or one per spatial axis.",
)
@click.option("--depthwise", is_flag=True, help="Convolutions with one filter a channel.")
@click.option("--bias/--no-bias", default=True, show_default=True, help="Whether layers have a bias.")
@click.option(
    "--no-actiswitch",
    "actiswitch",
    flag_value=False,
    default=True,
    help="Linear layers only, without an ActiSwitch behind.",
)
@click.option(
    "--activation",
    type=click.Choice(ACTIVATIONS),
    default="auto",
    show_default=True,
    help="f of the ActiSwitch; auto is silu, or tanh where values are never negative.",
)
@options.switch_options("linear")
@options.growing_options
def deepen(**told: Any) -> int:
    """Insert layers into MODEL such that it computes the same function; prove it, then write it."""
    return carry_out_step("deepen", told)
