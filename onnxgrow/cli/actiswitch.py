"""``onnxgrow actiswitch``: wrap activations as a·x + b·f(x), prove the result, write it."""

from __future__ import annotations

from typing import Any

import click

from onnxgrow.cli import options
from onnxgrow.cli.job import carry_out_step

__all__ = ["actiswitch"]


@click.command(epilog="Without --at and --after, every hidden activation is wrapped. `onnxgrow deepen` adds new ones.")
@options.place_options
@options.at_options
@options.switch_options("nonlinear")
@options.growing_options
def actiswitch(**told: Any) -> int:
    """Let activations of MODEL blend into linear paths, computing the same function at first; prove it, write it."""
    return carry_out_step("actiswitch", told)
