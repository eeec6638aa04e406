"""How far two values are apart, in units of the original's scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrow.verify.float64.kernels.pieces import Derived, is_float, spans, to_float64, whole
from onnxgrow.verify.float64.kernels.registry import Array

__all__ = ["Difference", "difference"]


def _largest(x: Array) -> float:
    """Largest finite magnitude; 0.0 where all entries are zero or none is finite."""
    largest = max(float(x.max()), -float(x.min()))
    if not math.isfinite(largest):
        largest = float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
    return largest


@dataclass(frozen=True)
class Difference:
    """``relative``: largest difference over the scale; ``fault``: why it cannot be measured, else empty."""

    relative: float
    fault: str = ""


def difference(old: Any, new: Any) -> Difference:
    """Compare ``new`` with ``old``: shapes, dtypes, NaN and infinity patterns, then the values.

    Floats, of any width, are measured relative to the scale of ``old``; integers, booleans and strings have to be
    equal. Lists (ONNX sequences) are compared element by element.
    """
    if isinstance(old, list) or isinstance(new, list):
        return _sequences(old, new)
    old, new = (whole(x) if isinstance(x, Derived) else x for x in (old, new))
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray):
        same = type(old) is type(new) and old == new
        return Difference(0.0) if same else Difference(np.inf, "values of another kind differ")
    if old.shape != new.shape:
        return Difference(np.inf, f"shape {list(new.shape)} where the original has {list(old.shape)}")
    floats = is_float(old.dtype) and is_float(new.dtype)
    if old.dtype != new.dtype and not floats:
        return Difference(np.inf, f"dtype {new.dtype} where the original has {old.dtype}")
    if not floats and old.dtype.kind != "c":
        wrong = int(np.count_nonzero(old != new))
        return Difference(np.inf, f"{wrong} of {old.size} entries differ") if wrong else Difference(0.0)
    if old.size == 0:
        return Difference(0.0)
    if old.ndim == 0:
        old, new = old.reshape(1), new.reshape(1)
    widen = old.dtype != new.dtype or old.dtype.itemsize < 4
    apart, scale = 0.0, 0.0
    for rows in spans(old.shape[0], old.size // old.shape[0]):
        a, b = (to_float64(x[rows]) if widen else x[rows] for x in (old, new))
        here, fault = _apart(a, b)
        if fault:
            return Difference(np.inf, fault)
        apart, scale = max(apart, here), max(scale, _largest(a))
    return Difference(apart / (scale or 1.0))


def _apart(old: Array, new: Array) -> tuple[float, str]:
    """Largest distance of two entries, or why there is none."""
    with np.errstate(all="ignore"):
        apart = np.abs(np.asarray(new - old))
        largest = float(apart.max())
        if math.isfinite(largest):  # NaN and infinities would have come through
            return largest, ""
        finite = np.isfinite(old)
        if not np.array_equal(np.isnan(old), np.isnan(new)):
            return np.inf, "NaN in other places"
        infinite = np.isinf(old)
        if not np.array_equal(infinite, np.isinf(new)) or not np.array_equal(old[infinite], new[infinite]):
            return np.inf, "infinities in other places"
        return float(np.max(apart[finite], initial=0.0)), ""


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
