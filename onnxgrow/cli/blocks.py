"""``onnxgrow blocks``: insert residual blocks, new ones or copies, prove the result, write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.freezing import carry_out_with_list, freeze_option
from onnxgrow.names import ACTIVATIONS, BLOCKS

__all__ = ["blocks"]


@click.command(
    epilog="Without --block, layers are copied: what repeats itself along a residual stream, such as attention and "
    "MLP, or one block of a CNN. --dry-run shows them."
)
@options.place_options
@click.option("--block", type=click.Choice(BLOCKS), help="Insert new blocks of this kind.")
@click.option(
    "--copy",
    multiple=True,
    metavar="LAYER",
    help="Copy this layer: its number from 0, or a node or value inside it (glob); may be repeated.",
)
@click.option("--at", multiple=True, metavar="SELECTOR", help="With --block: value, node that makes it, or glob.")
@click.option(
    "--after",
    multiple=True,
    metavar="SELECTOR",
    help="With --block: node, glob or op:TYPE. With --copy: the one layer (its number), node or value behind which "
    "copies go; right behind their own layers if not given.",
)
@click.option("--before", multiple=True, metavar="SELECTOR", help="With --block: node; in front of it only.")
@click.option(
    "--every",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Of hidden activations, or of layers, every N-th, where none is named.",
)
@click.option(
    "--ratio",
    type=float,
    metavar="R",
    help="With --block: hidden channels for each channel.  [default: mlp 4, bottleneck 0.25]",
)
@click.option(
    "--kernel",
    metavar="K|KxL",
    callback=options.parse_sizes,
    help="With --block: kernel of the spatial convolution.  [default: 3]",
)
@click.option(
    "--activation",
    type=click.Choice(ACTIVATIONS),
    help="With --block: its activation; auto, the default, is gelu in an mlp, relu elsewhere.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of initial values.")
@freeze_option
@options.growing_options
def blocks(freeze_old: Path | None, **told: Any) -> int:
    """Insert residual blocks into MODEL that contribute zero at first; prove that, then write it."""
    return carry_out_with_list("blocks", told, freeze_old)
