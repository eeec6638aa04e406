"""``onnxgrow enlarge-kernel``: give convolutions larger kernels, prove the result, write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.io import Loaded
    from onnxgrow.passes import EnlargeKernel

__all__ = ["enlarge_kernel"]


def _sizes(_: click.Context, __: click.Parameter, text: str) -> int | tuple[int, ...]:
    parts = text.replace(",", "x").split("x")
    if not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise click.BadParameter(f"{text!r} is not a kernel size, as in 5 or 5x3")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


@click.command(
    "enlarge-kernel",
    epilog="Without --layer, every smaller kernel grows; one of size 1 (or an axis of size 1) only where it is named.",
)
@options.place_options
@click.option(
    "--to",
    required=True,
    metavar="N|NxM",
    callback=_sizes,
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
def enlarge_kernel(to: int | tuple[int, ...], layers: tuple[str, ...], **general: Any) -> int:
    """Give convolutions of MODEL larger kernels such that it computes the same function; prove it, then write it."""
    from onnxgrow.cli.job import Request, carry_out

    def make() -> EnlargeKernel:
        from onnxgrow.passes import EnlargeKernel

        return EnlargeKernel(layers or None, to=to)

    def plan(step: EnlargeKernel, loaded: Loaded) -> Mapping[str, Any]:
        return step.plan(loaded.model).to_json()

    return carry_out("enlarge-kernel", Request(**general), make, plan)
