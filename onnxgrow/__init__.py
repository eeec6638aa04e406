"""Grow trained ONNX networks without losing what they learned.

    import onnxgrow

    result = onnxgrow.widen("model.onnx", factor=2, output="model.grown.onnx")
    print(result.report.verdict)

Names are imported on first use, so that ``import onnxgrow`` is fast.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime (seen in 1.31 for Linux) otherwise writes under ~/.cache and reports its use over the network. It looks
# at this when it is imported; who wants that sets the variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from onnxgrow.api import Inspection, apply, enlarge_kernel, inspect, verify, widen
    from onnxgrow.deeper import add_actiswitch, add_blocks, copy_blocks, deepen, fold
    from onnxgrow.errors import (
        BadInputError,
        EnvironmentFault,
        GrowError,
        NotEquivalentError,
        UnsupportedError,
        UsageError,
    )
    from onnxgrow.growth_map import GrowthMap
    from onnxgrow.io.load import load
    from onnxgrow.io.save import save
    from onnxgrow.passes import (
        AddActiSwitch,
        AddBlocks,
        CopyBlocks,
        EnlargeKernel,
        Fold,
        GrowthPass,
        GrowthResult,
        InsertIdentity,
        Proof,
        Sequential,
        Widen,
    )
    from onnxgrow.verify.report import Report, Verdict

__all__ = [
    "AddActiSwitch",
    "AddBlocks",
    "BadInputError",
    "CopyBlocks",
    "EnlargeKernel",
    "EnvironmentFault",
    "Fold",
    "GrowError",
    "GrowthMap",
    "GrowthPass",
    "GrowthResult",
    "InsertIdentity",
    "Inspection",
    "NotEquivalentError",
    "Proof",
    "Report",
    "Sequential",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "Widen",
    "add_actiswitch",
    "add_blocks",
    "apply",
    "copy_blocks",
    "deepen",
    "enlarge_kernel",
    "fold",
    "inspect",
    "load",
    "save",
    "verify",
    "widen",
]

_HOMES = {
    "onnxgrow.api": ("Inspection", "apply", "enlarge_kernel", "inspect", "widen"),
    "onnxgrow.deeper": ("add_actiswitch", "add_blocks", "copy_blocks", "deepen", "fold"),
    "onnxgrow.errors": (
        "BadInputError",
        "EnvironmentFault",
        "GrowError",
        "NotEquivalentError",
        "UnsupportedError",
        "UsageError",
    ),
    "onnxgrow.growth_map": ("GrowthMap",),
    "onnxgrow.io": ("load", "save"),
    "onnxgrow.passes": (
        *("AddActiSwitch", "AddBlocks", "CopyBlocks", "EnlargeKernel", "Fold", "GrowthPass", "GrowthResult"),
        *("InsertIdentity", "Proof", "Sequential", "Widen"),
    ),
    "onnxgrow.verify.report": ("Report", "Verdict"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "verify":
        return importlib.import_module("onnxgrow.verify")  # a package that can be called
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
