"""Chains of nodes that PyTorch has one kernel for: linear layers, attention, normalisation, activations.

Exporters write these as several nodes. Computed one by one they cost memory traffic that the module which was exported
did not have. It is a matter of running alone: the graph that is written back keeps its nodes, and the numbers differ by
rounding. One family a file; :mod:`.find` tries them all.
"""

from __future__ import annotations

from onnxgrow.torch.fusion.chain import Facts, Fusion
from onnxgrow.torch.fusion.find import find_fusions

__all__ = ["Facts", "Fusion", "find_fusions"]
