"""How ops tie axes: one op family a file, found through the registry."""

from __future__ import annotations

from onnxgrow.rules import (  # noqa: F401 - importing a family registers its rules
    attention,
    conv,
    einsum,
    elementwise,
    indexing,
    joining,
    linear,
    microsoft,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    rotary,
    shapes,
)
from onnxgrow.rules.context import (
    Contraction,
    Declarations,
    LinearUse,
    NodeContext,
    Place,
    Reason,
    Statistic,
    Terms,
    Unsuitable,
)
from onnxgrow.rules.registry import covered, find_rule, register

__all__ = [
    "Contraction",
    "Declarations",
    "LinearUse",
    "NodeContext",
    "Place",
    "Reason",
    "Statistic",
    "Terms",
    "Unsuitable",
    "covered",
    "find_rule",
    "register",
]
