"""Sums in an order that is written down here, not left to a library.

``np.sum``, ``np.dot`` and BLAS choose their order of addition by version, processor and number of threads.
These sums are halving trees of elementwise additions: the same bits everywhere, and an error that grows with
log n only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UnsupportedError

__all__ = ["fold", "std", "tree_sum"]

Float64 = npt.NDArray[np.float64]

# Part of the definition of the order, so it must never change: entries are summed in runs of this many.
_RUN = 1 << 16


def fold(scratch: Float64) -> Float64:
    """Sum over the first axis as a halving tree; **overwrites** ``scratch``.

    Args:
        scratch: float64, first axis of size n; each addition is one pass over memory when it is C-contiguous.

    Returns:
        float64 of the remaining shape; a view into ``scratch`` unless n is 0.
    """
    n = scratch.shape[0]
    if n == 0:
        return np.zeros(scratch.shape[1:], np.float64)
    while n > 1:
        half, odd = divmod(n, 2)
        kept = scratch[:half]
        np.add(kept, scratch[half : 2 * half], out=kept)
        if odd:
            scratch[half] = scratch[n - 1]
        n = half + odd
    return np.asarray(scratch[0], np.float64)


def tree_sum(values: npt.NDArray[np.generic]) -> float:
    """Sum of all entries in C order, in float64; a temporary of at most 512 KiB and 1/65536 of the input."""
    return _sum(values, None)


def std(values: npt.NDArray[np.generic], subject: str = "old weight") -> float:
    """Population standard deviation of all entries, two passes in float64.

    Args:
        values: A tensor of any shape and floating type; read in runs, so it may be memory-mapped.
        subject: What to call the tensor in an error.

    Returns:
        √(Σ(x − mean)² / n); 0 for one entry.

    Raises:
        UnsupportedError: The tensor has no entries, or the result is not finite.
    """
    if values.size == 0:
        raise UnsupportedError(subject, "has no entries, so it has no standard deviation")
    # An infinite entry ends as NaN or Inf below; NumPy need not warn about it as well.
    with np.errstate(invalid="ignore", over="ignore"):
        mean = tree_sum(values) / values.size
        spread = math.sqrt(_sum(values, mean) / values.size)
    if not math.isfinite(spread):
        raise UnsupportedError(subject, "has entries that are not finite or too large for a standard deviation")
    return spread


def _sum(values: npt.NDArray[np.generic], centre: float | None) -> float:
    """Σx, or Σ(x − centre)² when ``centre`` is given."""
    flat = values.reshape(-1)
    sums = np.empty(-(-flat.size // _RUN), np.float64)
    for index in range(sums.size):
        run = flat[index * _RUN : (index + 1) * _RUN].astype(np.float64)
        if centre is not None:
            run -= centre
            run *= run
        sums[index] = fold(run)
    return float(fold(sums))
