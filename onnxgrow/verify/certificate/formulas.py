"""Named formulas of tensors whose old entries are not bit-equal to the original's: each is recomputed here.

A formula is a function of (reader of the result's tensor, reader of the original's, the tensor's entry in the
growth map); it raises ProofError unless every old entry is the formula's value rounded once to the tensor's
dtype. A formula that is not in ``FORMULAS`` is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxgrow.growth_map import TensorGrowth
from onnxgrow.verify.certificate.readers import Reader

__all__ = ["FORMULAS", "OPERAND", "Formula"]

OPERAND = "operand"
"""The tensor carries no claim: it is judged by the shapes and known values that it leads to."""

Formula = Callable[[Reader, Reader, TensorGrowth], None]

FORMULAS: dict[str, Formula] = {}
