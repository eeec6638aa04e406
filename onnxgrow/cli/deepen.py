"""``onnxgrow deepen``: insert layers that start as identities, prove the result, write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.io import Loaded
    from onnxgrow.passes import InsertIdentity

__all__ = ["deepen"]

FUNCTIONS = (
    *("auto", "elu", "gelu", "gelu-tanh", "hard-swish", "leaky-relu", "mish", "relu", "selu", "sigmoid", "silu"),
    *("softplus", "softsign", "tanh"),
)


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
@click.option("--no-actiswitch", is_flag=True, help="Linear layers only, without an ActiSwitch behind.")
@click.option(
    "--activation",
    type=click.Choice(FUNCTIONS),
    default="auto",
    show_default=True,
    help="f of the ActiSwitch; auto is silu, or tanh where values are never negative.",
)
@options.switch_options("linear")
@options.growing_options
def deepen(
    at: tuple[str, ...],
    after: tuple[str, ...],
    before: tuple[str, ...],
    every: int,
    kernel: int | tuple[int, ...],
    depthwise: bool,
    bias: bool,
    no_actiswitch: bool,
    activation: str,
    start: tuple[float, float],
    per_channel: bool,
    max_change: float | None,
    **general: Any,
) -> int:
    """Insert layers into MODEL such that it computes the same function; prove it, then write it."""
    from onnxgrow.cli.job import Request, carry_out

    def make() -> InsertIdentity:
        from onnxgrow.passes import InsertIdentity

        return InsertIdentity(
            at,
            after=after,
            before=before,
            every=every,
            kernel=kernel,
            depthwise=depthwise,
            bias=bias,
            actiswitch=not no_actiswitch,
            activation=activation,
            start=start,
            per_channel=per_channel,
        )

    def plan(step: InsertIdentity, loaded: Loaded) -> Mapping[str, Any]:
        return step.plan(loaded.model).to_json()

    return carry_out("deepen", Request(**general), make, plan, max_change)
