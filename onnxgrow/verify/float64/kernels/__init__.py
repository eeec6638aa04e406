"""Float64 kernels, one family of operators a file."""

from __future__ import annotations

from onnxgrow.verify.float64.kernels import (
    activation,
    attention,
    conv,
    dtype,
    fused_attention,
    gather,
    linear,
    norm,
    pool,
    quantize,
    recurrent,
)
from onnxgrow.verify.float64.kernels.registry import (
    CONTRACTIONS,
    KERNELS,
    PIECEWISE,
    Call,
    EvaluationError,
    NoFloat64Error,
    RandomError,
)

__all__ = [
    "CONTRACTIONS",
    "KERNELS",
    "PIECEWISE",
    "Call",
    "EvaluationError",
    "NoFloat64Error",
    "RandomError",
    "activation",
    "attention",
    "conv",
    "dtype",
    "fused_attention",
    "gather",
    "linear",
    "norm",
    "pool",
    "quantize",
    "recurrent",
]
