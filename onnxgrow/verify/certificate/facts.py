"""Facts that a growth map may claim of new entries, and how each is proved.

``any`` claims nothing. ``zero`` follows from the zero slabs that the checkers infer. A fact without an entry
in ``_PROVERS`` is refused: it would be a claim that nobody checked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxgrow.growth_map import ANY, ZERO, Segment
from onnxgrow.verify.certificate.state import ProofError, Proved

__all__ = ["KEEP_ZERO", "prove_facts", "unprovable"]

# f(0) = 0 whatever the attributes: Celu, Elu, Selu, LeakyRelu and ThresholdedRelu scale or pass on a 0; Gelu,
# Mish, HardSwish and Swish are products with x.
KEEP_ZERO = (
    *("Abs", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Elu", "Erf", "Floor", "Gelu", "HardSwish"),
    *("LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu"),
)


def _zero(value: Proved) -> None:
    for axis, mask in value.claim.zero.items():
        missing = np.flatnonzero(mask & ~value.zero(axis))
        if missing.size:
            raise ProofError(f"claimed to be zero at index {int(missing[0])} of axis {axis}, which is not proved")


_PROVERS: dict[str, Callable[[Proved], None]] = {ZERO: _zero}


def unprovable(segment: Segment) -> str:
    """Why the fact of a new segment can never be proved by this version, or an empty string."""
    if not segment.is_new or segment.fact == ANY or segment.fact in _PROVERS:
        return ""
    return f"the fact {segment.fact!r} has no proof in this version"


def prove_facts(value: Proved) -> None:
    """Prove every fact claimed of a value. Raises ProofError where one does not follow."""
    if value.claim.zero:
        for prove in _PROVERS.values():
            prove(value)
