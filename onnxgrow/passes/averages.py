"""New entries of a weight that are the mean of its old ones over a whole fan-in, taps of a kernel included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxgrow.init import cast
from onnxgrow.init.summation import fold
from onnxgrow.passes.grown_tensor import Entries
from onnxgrow.passes.regions import Region

__all__ = ["Averaged", "averaged"]

CHUNK = 1 << 20
"""Entries that are summed up at once."""


@dataclass(frozen=True)
class Averaged:
    """Entries of a constant that are new on one of the axes ``over`` are the mean of the old ones over all of them."""

    over: tuple[int, ...]


def averaged(
    entries: Entries, shape: tuple[int, ...], mark: Averaged, layouts: Mapping[int, npt.NDArray[np.int64]]
) -> Entries:
    """Entries with means laid over them. The tensor is made whole: its new entries need all of the old ones.

    Args:
        entries: Of the grown tensor without its means.
        shape: Of the grown tensor.
        mark: Which means.
        layouts: Axis → old index or −1 per new index, for axes that grow.
    """
    whole = entries(Region(0, tuple(slice(0, n) for n in shape), shape))
    kept = [layouts[a] >= 0 if a in layouts else np.ones(shape[a], bool) for a in mark.over]
    _lay(np.moveaxis(whole, mark.over, range(len(mark.over))), kept)
    return lambda region: whole[region.slices]


def _lay(lines: npt.NDArray[Any], kept: Sequence[npt.NDArray[np.bool_]]) -> None:
    """Overwrite what is new along the first axes, as many as there are ``kept``."""
    rest = lines.shape[len(kept) :]
    old = np.ix_(*(np.flatnonzero(k) for k in kept))
    terms = lines[old].reshape(int(np.prod([k.sum() for k in kept])), -1)
    means = np.empty(terms.shape[1], lines.dtype)
    step = max(1, CHUNK // max(1, len(terms)))
    for start in range(0, means.size, step):
        part = np.ascontiguousarray(terms[:, start : start + step], np.float64)
        means[start : start + step] = cast(fold(part) / len(terms), lines.dtype)
    new = np.ones([k.size for k in kept], bool)
    new[old] = False
    lines[new] = means.reshape(rest)
