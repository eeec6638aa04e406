"""Grow trained ONNX networks without losing what they learned.

    import onnxgrow

    result = onnxgrow.widen("model.onnx", factor=2, output="model.grown.onnx")
    print(result.report.verdict)

Names are imported on first use, so that ``import onnxgrow`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxgrow.api import Inspection, apply, enlarge_kernel, inspect, verify, widen
    from onnxgrow.errors import (
        BadInputError,
        EnvironmentFault,
        GrowError,
        NotEquivalentError,
        UnsupportedError,
        UsageError,
    )
    from onnxgrow.growth_map import GrowthMap
    from onnxgrow.io import load, save
    from onnxgrow.passes import EnlargeKernel, GrowthPass, GrowthResult, Proof, Sequential, Widen
    from onnxgrow.verify.report import Report, Verdict

__all__ = [
    "BadInputError",
    "EnlargeKernel",
    "EnvironmentFault",
    "GrowError",
    "GrowthMap",
    "GrowthPass",
    "GrowthResult",
    "Inspection",
    "NotEquivalentError",
    "Proof",
    "Report",
    "Sequential",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "Widen",
    "apply",
    "enlarge_kernel",
    "inspect",
    "load",
    "save",
    "verify",
    "widen",
]

_HOMES = {
    "onnxgrow.api": ("Inspection", "apply", "enlarge_kernel", "inspect", "widen"),
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
    "onnxgrow.passes": ("EnlargeKernel", "GrowthPass", "GrowthResult", "Proof", "Sequential", "Widen"),
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
