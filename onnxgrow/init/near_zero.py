"""Small random values in place of exact zeros: symmetry is broken at the price of a measured change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.init.bits import Key
from onnxgrow.init.schemes import normal_ranges

__all__ = ["near_zero_ranges", "scale_to"]


def scale_to(old_std: float, scale: float, subject: str = "old weight") -> float:
    """σ of near-zero values: ``scale`` times the standard deviation of the weight they join.

    Args:
        old_std: See :func:`onnxgrow.init.summation.std`.
        scale: Relative size, finite and > 0; typically 1e-3 … 1e-1.
        subject: What to call the weight in an error.

    Raises:
        UsageError: A scale outside its range.
        UnsupportedError: The weight has no spread to be relative to.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(subject, f"a near-zero scale of {scale} is not positive and finite")
    if not (math.isfinite(old_std) and old_std > 0):
        raise UnsupportedError(subject, f"near-zero values have no scale: its standard deviation is {old_std}")
    return scale * old_std


def near_zero_ranges(key: Key, ranges: Sequence[range], sigma: float, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Values of some ranges (C order) of a tensor of N(0, ``sigma``²), one after the other; in ``dtype``.

    The key's purpose is marked, so these values do not follow those that a scheme draws for the same key.
    """
    marked = Key(key.seed, key.generation, key.tensor, f"{key.purpose}/near-zero")
    return normal_ranges(marked, ranges, sigma, dtype)
