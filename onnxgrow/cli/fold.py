"""``onnxgrow fold``: take out ActiSwitches that converged, prove the result, write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.io import Loaded
    from onnxgrow.passes import Fold

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
def fold(tolerance: float, merge: bool, max_change: float | None, **general: Any) -> int:
    """Take ActiSwitches that training made superfluous out of MODEL; prove the result, then write it."""
    from onnxgrow.cli.job import Request, carry_out

    def make() -> Fold:
        from onnxgrow.passes import Fold

        return Fold(tolerance=tolerance, merge=merge)

    def plan(step: Fold, loaded: Loaded) -> Mapping[str, Any]:
        return step.plan(loaded.model).to_json()

    return carry_out("fold", Request(**general), make, plan, max_change)
