"""``onnxgrow blocks``: insert residual blocks, new ones or copies, prove the result, write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.deepen import FUNCTIONS
from onnxgrow.cli.freezing import carry_out_with_list, freeze_option
from onnxgrow.errors import UsageError

if TYPE_CHECKING:
    from onnxgrow.io import Loaded
    from onnxgrow.passes import AddBlocks, CopyBlocks

__all__ = ["blocks"]


@click.command(
    epilog="Without --block, layers are copied: what repeats itself along a residual stream, such as attention and "
    "MLP, or one block of a CNN. --dry-run shows them."
)
@options.place_options
@click.option("--block", type=click.Choice(("mlp", "bottleneck", "separable")), help="Insert new blocks of this kind.")
@click.option(
    "--copy",
    multiple=True,
    metavar="LAYER",
    help="Copy this layer: its number from 0, or a node or value inside it (glob); may be repeated.",
)
@click.option("--at", multiple=True, metavar="SELECTOR", help="With --block: value, node that makes it, or glob.")
@click.option("--after", multiple=True, metavar="SELECTOR", help="With --block: node, glob or op:TYPE.")
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
    callback=lambda c, p, text: None if text is None else options.parse_sizes(c, p, text),
    help="With --block: kernel of the spatial convolution.  [default: 3]",
)
@click.option(
    "--activation",
    type=click.Choice(FUNCTIONS),
    help="With --block: its activation; auto, the default, is gelu in an mlp, relu elsewhere.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of initial values.")
@freeze_option
@options.growing_options
def blocks(
    block: str | None,
    copy: tuple[str, ...],
    every: int,
    seed: int,
    freeze_old: Path | None,
    **told: Any,
) -> int:
    """Insert residual blocks into MODEL that contribute zero at first; prove that, then write it."""
    from onnxgrow.cli.job import Request

    names = ("at", "after", "before", "ratio", "kernel", "activation")
    shape = {n: value for n in names if (value := told.pop(n)) not in (None, ())}
    if block is not None and copy:
        raise UsageError("--copy", "it excludes --block", "run onnxgrow twice for both")
    if block is None and shape:
        raise UsageError(f"--{next(iter(shape))}", "it is an option of new blocks", "name their kind with --block")

    def make() -> AddBlocks | CopyBlocks:
        from onnxgrow.passes import AddBlocks, CopyBlocks

        if block is None:
            return CopyBlocks(copy, every=every)
        return AddBlocks(block, every=every, seed=seed, **shape)

    def plan(step: AddBlocks | CopyBlocks, loaded: Loaded) -> Mapping[str, Any]:
        return step.plan(loaded.model).to_json()

    return carry_out_with_list("blocks", Request(**told), make, plan, freeze_old)
