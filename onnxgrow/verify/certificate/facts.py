"""Facts that a growth map may claim of new entries, and how each is proved.

``any`` claims nothing. ``zero`` follows from the zero slabs that the checkers infer; ``mean`` and ``copy`` are proved
backwards from the constants (:mod:`onnxgrow.verify.certificate.combinations`). A fact without an entry in ``_PROVERS``
is refused: it would be a claim that nobody checked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxgrow.axis_map import ANY, COPY, MEAN, ZERO, Segment
from onnxgrow.verify.certificate.state import ProofError, Proved

__all__ = ["KEEP_ZERO", "Combined", "prove_facts", "unprovable"]

# f(0) = 0 whatever the attributes: Celu, Elu, Selu, LeakyRelu and ThresholdedRelu scale or pass on a 0; Gelu,
# Mish, HardSwish and Swish are products with x.
KEEP_ZERO = (
    *("Abs", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Elu", "Erf", "Floor", "Gelu", "HardSwish"),
    *("LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu"),
)


Combined = Callable[[Proved, str, int], bool]
"""(value, fact, axis) → whether its new entries along the axis are proved to be what is claimed of them."""


def _zero(value: Proved, combined: Combined) -> None:
    for axis, mask in value.claim.zero.items():
        missing = np.flatnonzero(mask & ~value.zero(axis))
        if missing.size:
            raise ProofError(f"claimed to be zero at index {int(missing[0])} of axis {axis}, which is not proved")


def _mean(value: Proved, combined: Combined) -> None:
    for axis in value.claim.mean:
        if not combined(value, MEAN, axis):
            raise ProofError(f"claimed to hold the mean of its old entries along axis {axis}, which is not proved")


def _copy(value: Proved, combined: Combined) -> None:
    for axis in value.claim.copies:
        if not combined(value, COPY, axis):
            raise ProofError(f"claimed to repeat its old entries along axis {axis}, which is not proved")


_PROVERS: dict[str, Callable[[Proved, Combined], None]] = {ZERO: _zero, MEAN: _mean, COPY: _copy}


def unprovable(segment: Segment) -> str:
    """Why the fact of a new segment can never be proved by this version, or an empty string."""
    if not segment.is_new or segment.fact == ANY or segment.fact in _PROVERS:
        return ""
    return f"the fact {segment.fact!r} has no proof in this version"


def prove_facts(value: Proved, combined: Combined) -> None:
    """Prove every fact claimed of a value. Raises ProofError where one does not follow."""
    for prove in _PROVERS.values():
        prove(value, combined)
