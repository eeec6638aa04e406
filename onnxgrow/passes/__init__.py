"""Passes that grow a model, on one small base: requires → grow → verify."""

from __future__ import annotations

from onnxgrow.passes.base import GrowthPass, GrowthResult, Proof, Sequential
from onnxgrow.passes.blocks import AddBlocks, CopyBlocks
from onnxgrow.passes.deepen import AddActiSwitch, InsertIdentity
from onnxgrow.passes.enlarge_kernel import EnlargeKernel
from onnxgrow.passes.fold import Fold
from onnxgrow.passes.widen import Widen

__all__ = [
    "AddActiSwitch",
    "AddBlocks",
    "CopyBlocks",
    "EnlargeKernel",
    "Fold",
    "GrowthPass",
    "GrowthResult",
    "InsertIdentity",
    "Proof",
    "Sequential",
    "Widen",
]
