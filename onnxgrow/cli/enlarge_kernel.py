"""``onnxgrow enlarge-kernel``: give convolutions larger kernels, prove the result, write it."""

from __future__ import annotations

from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step

__all__ = ["enlarge_kernel"]


@click.command(
    "enlarge-kernel",
    epilog="Without --layer, every smaller kernel grows; one of size 1 (or an axis of size 1) only where it is named.",
)
@options.place_options
@click.option(
    "--to",
    required=True,
    metavar="N|NxM",
    callback=options.parse_sizes,
    help="New size on every spatial axis, or one size per axis; axes that are that large stay as they are.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="SELECTOR",
    help="Weight, node, output of a node, glob or op:TYPE of convolutions to enlarge; may be repeated.",
)
@options.growing_options
def enlarge_kernel(**told: Any) -> int:
    """Give convolutions of MODEL larger kernels such that it computes the same function; prove it, then write it."""
    return carry_out_step("enlarge-kernel", told)
