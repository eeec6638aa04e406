"""The scheme that takes new channels from old ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UsageError
from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.registry import FillRequest, OldWeight, register

__all__ = ["copied_indices", "copy"]

Int64 = npt.NDArray[np.int64]


@register("copy", "https://arxiv.org/abs/1511.05641")
def copy(request: FillRequest, start: int, count: int) -> npt.NDArray[np.float64]:
    """Each new channel copies an old one (the random mapping of Net2WiderNet, Chen et al. 2016).

    Old indices read the old weight; each new index on any axis reads an old index of that axis, chosen by
    :func:`copied_indices`. Values are the old weight's, in float64.

    Raises:
        UsageError: No old weight, of another rank, without entries, or larger than the new one.
    """
    old = _checked(request)
    picks = [
        _axis_picks(request.key, axis, size, old.values.shape[axis], old.sources.get(axis))
        for axis, size in enumerate(request.shape)
    ]
    positions = np.unravel_index(np.arange(start, start + count, dtype=np.int64), request.shape)
    taken = old.values[tuple(pick[at] for pick, at in zip(picks, positions, strict=True))]
    return np.asarray(taken, np.float64).reshape(count)


def copied_indices(key: Key, axis: int, old: int, new: int) -> Int64:
    """Which old index each of ``new`` new indices of an axis copies.

    Drawn without replacement: two copies of one channel whose readers start equal get equal gradients and
    never separate, so no old index is taken a second time before all were taken once.

    Args:
        key: The tensor's stream; the axis is added to its purpose.
        axis: Axis of the tensor.
        old: Number of old indices, > 0.
        new: Number of new indices.

    Returns:
        int64, shape (new,), values in 0 … old − 1.
    """
    rounds = -(-new // old)
    draws = raw_bits(replace(key, purpose=f"{key.purpose}/copy axis {axis}"), 0, rounds * old)
    order = np.argsort(draws.reshape(rounds, old), axis=1, kind="stable").astype(np.int64)
    return order.reshape(-1)[:new]


def _axis_picks(key: Key, axis: int, size: int, old: int, source: Int64 | None) -> Int64:
    if source is None:
        source = np.concatenate([np.arange(old, dtype=np.int64), np.full(size - old, -1, np.int64)])
    picks = np.array(source, np.int64)
    new = picks < 0
    picks[new] = copied_indices(key, axis, old, int(new.sum()))
    return picks


def _checked(request: FillRequest) -> OldWeight:
    subject, old = request.key.tensor, request.old
    if old is None:
        raise UsageError(subject, "copying needs the old weight")
    if old.values.ndim != len(request.shape) or old.values.size == 0:
        raise UsageError(subject, f"no copies of shape {request.shape} from an old weight of {old.values.shape}")
    for axis, size in enumerate(request.shape):
        source, before = old.sources.get(axis), old.values.shape[axis]
        if source is None:
            if size < before:
                raise UsageError(subject, f"axis {axis} has {before} old entries but only {size} new ones")
        elif source.shape != (size,) or (size and int(source.max()) >= before):
            raise UsageError(subject, f"the map of axis {axis} does not lead from {before} to {size} entries")
    return old
