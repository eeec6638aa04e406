"""Named formulas of tensors whose old entries are not bit-equal to the original's: each is recomputed here.

A formula is a function of (reader of the result's tensor, reader of the original's, the tensor's entry in the
growth map); it raises ProofError unless every old entry is the formula's value rounded once to the tensor's
dtype. A formula that is not in ``FORMULAS`` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxgrow.growth_map import SCALED, TensorGrowth
from onnxgrow.verify.certificate.blocks import not_finite, same_bits
from onnxgrow.verify.certificate.factors import root, square_of
from onnxgrow.verify.certificate.readers import Reader, everything
from onnxgrow.verify.certificate.state import ProofError

__all__ = ["FORMULAS", "OPERAND", "Formula"]

OPERAND = "operand"
"""The tensor carries no claim: it is judged by the shapes and known values that it leads to."""

Formula = Callable[[Reader, Reader, TensorGrowth], None]

_ENTRIES = 1 << 22
"""Entries looked at at once."""


def _scaled(new: Reader, old: Reader, growth: TensorGrowth) -> None:
    """Old entries are the original's times the factor, in float64, rounded once; new ones are finite."""
    if new.dtype != old.dtype or new.dtype.kind not in "fV" or len(new.shape) != len(old.shape):
        raise ProofError("dtype or rank changed")
    factor = root(square_of(growth.factor))
    kept = [growth.axes[a].positions() if a in growth.axes else np.arange(n) for a, n in enumerate(old.shape)]
    if any(p.size != n for p, n in zip(kept, old.shape, strict=True)):
        raise ProofError("its shape does not fit the growth map")
    inner = math.prod(old.shape[1:])
    step = max(1, _ENTRIES // max(1, inner))
    for start in range(0, old.shape[0] if old.shape else 1, step):
        part = slice(start, start + step)
        before = old.read([part, *(slice(0, n) for n in old.shape[1:])] if old.shape else ())
        after = new.read([kept[0][part], *kept[1:]] if old.shape else ())
        with np.errstate(over="ignore"):
            expected = (before.astype(np.float64) * factor).astype(new.dtype)
        if not same_bits(np.ascontiguousarray(after), np.ascontiguousarray(expected)):
            raise ProofError(f"an old entry is not the original's times {factor:.17g}, rounded once")
    if not_finite(new.read(everything(new))):
        raise ProofError("an entry is not finite")


FORMULAS: dict[str, Formula] = {SCALED: _scaled}
