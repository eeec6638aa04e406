"""From what the user wants to what will be done."""

from __future__ import annotations

from onnxgrow.plan.plan import METHODS, PlannedSet, WidenPlan, WidenRequest, plan_widen
from onnxgrow.plan.select import select
from onnxgrow.plan.sizes import DEFAULT_FACTOR, Target

__all__ = [
    "DEFAULT_FACTOR",
    "METHODS",
    "PlannedSet",
    "Target",
    "WidenPlan",
    "WidenRequest",
    "plan_widen",
    "select",
]
