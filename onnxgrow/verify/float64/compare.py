"""How far two values are apart, in units of the original's scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array

__all__ = ["Difference", "difference", "scale_of"]


def scale_of(x: Array) -> float:
    """Largest finite magnitude; 1.0 where all entries are zero or none is finite."""
    if not x.size:
        return 1.0
    largest = max(float(x.max()), -float(x.min()))
    if not math.isfinite(largest):
        largest = float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
    return largest or 1.0


@dataclass(frozen=True)
class Difference:
    """``relative``: largest difference over the scale; ``fault``: why it cannot be measured, else empty."""

    relative: float
    fault: str = ""


def difference(old: Any, new: Any) -> Difference:
    """Compare ``new`` with ``old``: shapes, dtypes, NaN and infinity patterns, then the values.

    Floats are measured relative to the scale of ``old``; integers, booleans and strings have to be equal.
    Lists (ONNX sequences) are compared element by element.
    """
    if isinstance(old, list) or isinstance(new, list):
        return _sequences(old, new)
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray):
        same = type(old) is type(new) and old == new
        return Difference(0.0) if same else Difference(np.inf, "values of another kind differ")
    if old.shape != new.shape:
        return Difference(np.inf, f"shape {list(new.shape)} where the original has {list(old.shape)}")
    if old.dtype != new.dtype:
        return Difference(np.inf, f"dtype {new.dtype} where the original has {old.dtype}")
    if old.dtype.kind not in "fc":
        wrong = int(np.count_nonzero(old != new))
        return Difference(np.inf, f"{wrong} of {old.size} entries differ") if wrong else Difference(0.0)
    if old.size == 0:
        return Difference(0.0)
    return _floats(old, new)


def _floats(old: Array, new: Array) -> Difference:
    with np.errstate(all="ignore"):
        apart = np.abs(np.asarray(new - old))
        largest = float(apart.max())
        if math.isfinite(largest):  # NaN and infinities would have come through
            return Difference(largest / scale_of(old))
        finite = np.isfinite(old)
        if not np.array_equal(np.isnan(old), np.isnan(new)):
            return Difference(np.inf, "NaN in other places")
        infinite = np.isinf(old)
        if not np.array_equal(infinite, np.isinf(new)) or not np.array_equal(old[infinite], new[infinite]):
            return Difference(np.inf, "infinities in other places")
        kept = apart[finite]
        return Difference(float(kept.max()) / scale_of(old) if kept.size else 0.0)


def _sequences(old: Any, new: Any) -> Difference:
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return Difference(np.inf, "sequences of another length")
    worst = Difference(0.0)
    for a, b in zip(old, new, strict=True):
        found = difference(a, b)
        if found.fault:
            return found
        worst = max(worst, found, key=lambda d: d.relative)
    return worst
