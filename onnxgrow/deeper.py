"""The library in functions, deeper networks: insert layers and blocks, wrap activations, fold what converged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from onnxgrow.api import grow
from onnxgrow.options import InexactOptions, Options, spelled_out
from onnxgrow.passes.base import GrowthResult
from onnxgrow.passes.blocks import AddBlocks, CopyBlocks
from onnxgrow.passes.deepen import AddActiSwitch, InsertIdentity
from onnxgrow.passes.fold import Fold

__all__ = ["add_actiswitch", "add_blocks", "copy_blocks", "deepen", "fold"]

Selectors = Sequence[str] | str | None


@spelled_out(InexactOptions)
def deepen(
    model: object,
    at: Selectors = None,
    *,
    after: Selectors = None,
    before: Selectors = None,
    every: int = 1,
    kernel: int | Sequence[int] = 1,
    depthwise: bool = False,
    bias: bool = True,
    actiswitch: bool = True,
    activation: str = "auto",
    start: tuple[float, float] = (1.0, 0.0),
    per_channel: bool = False,
    as_function: bool = False,
    **options: Unpack[InexactOptions],
) -> GrowthResult:
    """Insert layers that start as identities, without changing what a network computes; prove it.

    Args:
        model: As for :func:`onnxgrow.widen`.
        at, after, before, every, kernel, depthwise, bias, actiswitch, activation, start, per_channel, as_function: See
            :class:`onnxgrow.passes.InsertIdentity`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.InexactOptions`.

    Returns, Raises:
        As :func:`onnxgrow.widen`.
    """
    step = InsertIdentity(
        at,
        after=after,
        before=before,
        every=every,
        kernel=kernel,
        depthwise=depthwise,
        bias=bias,
        actiswitch=actiswitch,
        activation=activation,
        start=start,
        per_channel=per_channel,
        as_function=as_function,
    )
    return grow(step, model, options)


@spelled_out(InexactOptions)
def add_actiswitch(
    model: object,
    at: Selectors = None,
    *,
    after: Selectors = None,
    every: int = 1,
    start: tuple[float, float] = (0.0, 1.0),
    per_channel: bool = False,
    as_function: bool = False,
    **options: Unpack[InexactOptions],
) -> GrowthResult:
    """Wrap activations as a·x + b·f(x), without changing what a network computes; prove it.

    Args:
        model: As for :func:`onnxgrow.widen`.
        at, after, every, start, per_channel, as_function: See :class:`onnxgrow.passes.AddActiSwitch`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.InexactOptions`.

    Returns, Raises:
        As :func:`onnxgrow.widen`.
    """
    step = AddActiSwitch(at, after=after, every=every, start=start, per_channel=per_channel, as_function=as_function)
    return grow(step, model, options)


@spelled_out(Options)
def add_blocks(
    model: object,
    block: str = "mlp",
    at: Selectors = None,
    *,
    after: Selectors = None,
    before: Selectors = None,
    every: int = 1,
    ratio: float | None = None,
    kernel: int | Sequence[int] = 3,
    activation: str = "auto",
    seed: int = 0,
    **options: Unpack[Options],
) -> GrowthResult:
    """Insert new residual blocks, x + F(x) with F zero at first, without changing what a network computes; prove it.

    Args:
        model: As for :func:`onnxgrow.widen`.
        block, at, after, before, every, ratio, kernel, activation, seed: See :class:`onnxgrow.passes.AddBlocks`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.Options`.

    Returns, Raises:
        As :func:`onnxgrow.widen`.
    """
    step = AddBlocks(
        block,
        at,
        after=after,
        before=before,
        every=every,
        ratio=ratio,
        kernel=kernel,
        activation=activation,
        seed=seed,
    )
    return grow(step, model, options)


@spelled_out(Options)
def copy_blocks(
    model: object,
    copy: Sequence[str | int] | str | int | None = None,
    *,
    every: int = 1,
    after: str | int | None = None,
    **options: Unpack[Options],
) -> GrowthResult:
    """Copy layers of residual blocks, each to start as zero, without changing what a network computes; prove it.

    Args:
        model: As for :func:`onnxgrow.widen`.
        copy, every, after: See :class:`onnxgrow.passes.CopyBlocks`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.Options`.

    Returns, Raises:
        As :func:`onnxgrow.widen`.
    """
    return grow(CopyBlocks(copy, every=every, after=after), model, options)


@spelled_out(InexactOptions)
def fold(
    model: object, *, tolerance: float = 0.0, merge: bool = False, **options: Unpack[InexactOptions]
) -> GrowthResult:
    """Take ActiSwitches that converged out of a network; prove it.

    Args:
        model: As for :func:`onnxgrow.widen`.
        tolerance, merge: See :class:`onnxgrow.passes.Fold`.
        options: How it is proved and where it goes: see :class:`onnxgrow.options.InexactOptions`.

    Returns, Raises:
        As :func:`onnxgrow.widen`.
    """
    return grow(Fold(tolerance=tolerance, merge=merge), model, options)
