"""``onnxgrow fold``: take out ActiSwitches that converged, prove the result, write it."""

from __future__ import annotations

from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step

__all__ = ["fold"]


@click.command(
    epilog="An ActiSwitch a*x + b*f(x) folds with b = 0 (linear), with a = 0 and b = 1 (f), and around a ReLU with "
    "a + b = 1 (leaky ReLU). Without --tolerance and --merge the result is exact."
)
@options.place_options
@click.option(
    "--tolerance",
    type=float,
    default=0.0,
    show_default=True,
    metavar="T",
    help="How far factors may be from that; what is not exact needs --max-change.",
)
@click.option(
    "--merge", is_flag=True, help="Merge the linear layers around linear ones; products round: needs --max-change."
)
@options.max_change_option
@options.growing_options
def fold(**told: Any) -> int:
    """Take ActiSwitches that training made superfluous out of MODEL; prove the result, then write it."""
    return carry_out_step("fold", told)
