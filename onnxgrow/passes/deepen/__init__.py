"""Insert layers that change nothing yet: identity layers and ActiSwitches."""

from __future__ import annotations

from onnxgrow.passes.deepen.insertion import AddActiSwitch, InsertIdentity

__all__ = ["AddActiSwitch", "InsertIdentity"]
