"""The float64 tier: both models evaluated side by side in double precision, every value compared."""

from __future__ import annotations

from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.prepared import prepare
from onnxgrow.verify.float64.tier import run_tier

__all__ = ["EvaluationError", "NoFloat64Error", "prepare", "run_tier"]
