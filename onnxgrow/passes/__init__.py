"""Passes that grow a model, on one small base: requires → grow → verify."""

from __future__ import annotations

from onnxgrow.passes.base import GrowthPass, GrowthResult, Proof, Sequential
from onnxgrow.passes.enlarge_kernel import EnlargeKernel
from onnxgrow.passes.widen import Widen

__all__ = ["EnlargeKernel", "GrowthPass", "GrowthResult", "Proof", "Sequential", "Widen"]
