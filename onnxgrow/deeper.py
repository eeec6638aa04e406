"""The library in functions, deeper networks: insert layers and blocks, wrap activations, fold what converged."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnxgrow.api import Inputs, Shapes, apply, feeds_of
from onnxgrow.io import INLINE_LIMIT, Weights, load
from onnxgrow.passes.base import GrowthResult, Progress, Proof
from onnxgrow.passes.blocks import AddBlocks, CopyBlocks
from onnxgrow.passes.deepen import AddActiSwitch, InsertIdentity
from onnxgrow.passes.fold import Fold

__all__ = ["add_actiswitch", "add_blocks", "copy_blocks", "deepen", "fold"]


def deepen(
    model: object,
    at: Sequence[str] | str | None = None,
    *,
    after: Sequence[str] | str | None = None,
    before: Sequence[str] | str | None = None,
    every: int = 1,
    kernel: int | Sequence[int] = 1,
    depthwise: bool = False,
    bias: bool = True,
    actiswitch: bool = True,
    activation: str = "auto",
    start: tuple[float, float] = (1.0, 0.0),
    per_channel: bool = False,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    max_change: float | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    external_data: bool | None = None,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: Progress | None = None,
) -> GrowthResult:
    """Insert layers that start as identities, without changing what a network computes; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        at, after, before, every, kernel, depthwise, bias, actiswitch, activation, start, per_channel: See
            :class:`onnxgrow.passes.InsertIdentity`.
        inputs, input_shapes, provider, max_change, output, overwrite, progress: As for :func:`onnxgrow.widen`.
        external_data, external_threshold, max_shard_size, weights, link_unchanged: As for :func:`onnxgrow.widen`.

    Returns:
        As :func:`onnxgrow.widen`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    loaded = load(model)
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
        proof=Proof(feeds_of(inputs, loaded), input_shapes, provider, max_change, progress),
    )
    return apply(
        step,
        loaded,
        output=output,
        overwrite=overwrite,
        external_data=external_data,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
    )


def add_actiswitch(
    model: object,
    at: Sequence[str] | str | None = None,
    *,
    after: Sequence[str] | str | None = None,
    every: int = 1,
    start: tuple[float, float] = (0.0, 1.0),
    per_channel: bool = False,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    max_change: float | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    external_data: bool | None = None,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: Progress | None = None,
) -> GrowthResult:
    """Wrap activations as a·x + b·f(x), without changing what a network computes; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        at, after, every, start, per_channel: See :class:`onnxgrow.passes.AddActiSwitch`.
        inputs, input_shapes, provider, max_change, output, overwrite, progress: As for :func:`onnxgrow.widen`.
        external_data, external_threshold, max_shard_size, weights, link_unchanged: As for :func:`onnxgrow.widen`.

    Returns:
        As :func:`onnxgrow.widen`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    loaded = load(model)
    proof = Proof(feeds_of(inputs, loaded), input_shapes, provider, max_change, progress)
    step = AddActiSwitch(at, after=after, every=every, start=start, per_channel=per_channel, proof=proof)
    return apply(
        step,
        loaded,
        output=output,
        overwrite=overwrite,
        external_data=external_data,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
    )


def add_blocks(
    model: object,
    block: str = "mlp",
    at: Sequence[str] | str | None = None,
    *,
    after: Sequence[str] | str | None = None,
    before: Sequence[str] | str | None = None,
    every: int = 1,
    ratio: float | None = None,
    kernel: int | Sequence[int] = 3,
    activation: str = "auto",
    seed: int = 0,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    external_data: bool | None = None,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: Progress | None = None,
) -> GrowthResult:
    """Insert new residual blocks, x + F(x) with F zero at first, without changing what a network computes; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        block, at, after, before, every, ratio, kernel, activation, seed: See :class:`onnxgrow.passes.AddBlocks`.
        inputs, input_shapes, provider, output, overwrite, progress: As for :func:`onnxgrow.widen`.
        external_data, external_threshold, max_shard_size, weights, link_unchanged: As for :func:`onnxgrow.widen`.

    Returns:
        As :func:`onnxgrow.widen`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    loaded = load(model)
    proof = Proof(feeds_of(inputs, loaded), input_shapes, provider, None, progress)
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
        proof=proof,
    )
    return apply(
        step,
        loaded,
        output=output,
        overwrite=overwrite,
        external_data=external_data,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
    )


def copy_blocks(
    model: object,
    copy: Sequence[str | int] | str | int | None = None,
    *,
    every: int = 1,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    external_data: bool | None = None,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: Progress | None = None,
) -> GrowthResult:
    """Copy layers of residual blocks, each to start as zero, without changing what a network computes; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        copy, every: See :class:`onnxgrow.passes.CopyBlocks`.
        inputs, input_shapes, provider, output, overwrite, progress: As for :func:`onnxgrow.widen`.
        external_data, external_threshold, max_shard_size, weights, link_unchanged: As for :func:`onnxgrow.widen`.

    Returns:
        As :func:`onnxgrow.widen`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    loaded = load(model)
    proof = Proof(feeds_of(inputs, loaded), input_shapes, provider, None, progress)
    step = CopyBlocks(copy, every=every, proof=proof)
    return apply(
        step,
        loaded,
        output=output,
        overwrite=overwrite,
        external_data=external_data,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
    )


def fold(
    model: object,
    *,
    tolerance: float = 0.0,
    merge: bool = False,
    inputs: Inputs | None = None,
    input_shapes: Shapes | None = None,
    provider: str = "auto",
    max_change: float | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    external_data: bool | None = None,
    external_threshold: int = INLINE_LIMIT,
    max_shard_size: int | None = None,
    weights: Weights = "raw",
    link_unchanged: bool = False,
    progress: Progress | None = None,
) -> GrowthResult:
    """Take ActiSwitches that converged out of a network; prove it.

    Args:
        model: Path, ``ModelProto``, ``onnx_ir.Model`` or ``onnx_graphsurgeon.Graph``; never changed.
        tolerance, merge: See :class:`onnxgrow.passes.Fold`.
        inputs, input_shapes, provider, max_change, output, overwrite, progress: As for :func:`onnxgrow.widen`.
        external_data, external_threshold, max_shard_size, weights, link_unchanged: As for :func:`onnxgrow.widen`.

    Returns:
        As :func:`onnxgrow.widen`.

    Raises:
        NotEquivalentError: The result was not proved; nothing was written. The report is attached.
        GrowError: The request, the model or the machine is at fault; nothing was written.
    """
    loaded = load(model)
    proof = Proof(feeds_of(inputs, loaded), input_shapes, provider, max_change, progress)
    step = Fold(tolerance=tolerance, merge=merge, proof=proof)
    return apply(
        step,
        loaded,
        output=output,
        overwrite=overwrite,
        external_data=external_data,
        external_threshold=external_threshold,
        max_shard_size=max_shard_size,
        weights=weights,
        link_unchanged=link_unchanged,
    )
