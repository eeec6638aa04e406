"""Float64 kernels, one family of operators a file."""

from __future__ import annotations

from onnxgrow.verify.float64.kernels import activation, conv, dtype, gather, linear, norm, pool, quantize, recurrent
from onnxgrow.verify.float64.kernels.registry import KERNELS, Call, EvaluationError, NoFloat64Error, RandomError

__all__ = [
    "KERNELS",
    "Call",
    "EvaluationError",
    "NoFloat64Error",
    "RandomError",
    "activation",
    "conv",
    "dtype",
    "gather",
    "linear",
    "norm",
    "pool",
    "quantize",
    "recurrent",
]
