"""``onnxgrow actiswitch``: wrap activations as a·x + b·f(x), prove the result, write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.io import Loaded
    from onnxgrow.passes import AddActiSwitch

__all__ = ["actiswitch"]


@click.command(epilog="Without --at and --after, every hidden activation is wrapped. `onnxgrow deepen` adds new ones.")
@options.place_options
@options.at_options
@options.switch_options("nonlinear")
@options.growing_options
def actiswitch(
    at: tuple[str, ...],
    after: tuple[str, ...],
    every: int,
    start: tuple[float, float],
    per_channel: bool,
    max_change: float | None,
    **general: Any,
) -> int:
    """Let activations of MODEL blend into linear paths, computing the same function at first; prove it, write it."""
    from onnxgrow.cli.job import Request, carry_out

    def make() -> AddActiSwitch:
        from onnxgrow.passes import AddActiSwitch

        return AddActiSwitch(at, after=after, every=every, start=start, per_channel=per_channel)

    def plan(step: AddActiSwitch, loaded: Loaded) -> Mapping[str, Any]:
        return step.plan(loaded.model).to_json()

    return carry_out("actiswitch", Request(**general), make, plan, max_change)
