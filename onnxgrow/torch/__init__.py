"""The way to training and back: an ONNX graph as a PyTorch module, its optimizer state, its checkpoints.

Needs PyTorch (``pip install 'onnxgrow[torch]'``); no other part of onnxgrow does.
"""

from __future__ import annotations

from onnxgrow.errors import EnvironmentFault

try:
    import torch.nn  # noqa: F401 # asks for the real package: a folder named "torch" on the path has no "nn"
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "torch":
        raise
    raise EnvironmentFault("torch", "PyTorch is not installed", "pip install 'onnxgrow[torch]'") from None

from onnxgrow.torch.checkpoint import NameMap, UnmatchedError, export_checkpoint
from onnxgrow.torch.export import ExportCheck, check_export, export_for_growth
from onnxgrow.torch.groups import EntryRates, new_entries, param_groups
from onnxgrow.torch.module import Coverage, OnnxModule
from onnxgrow.torch.optimizer import grow_average, grow_optimizer

__all__ = [
    "Coverage",
    "EntryRates",
    "ExportCheck",
    "NameMap",
    "OnnxModule",
    "UnmatchedError",
    "check_export",
    "export_checkpoint",
    "export_for_growth",
    "grow_average",
    "grow_optimizer",
    "new_entries",
    "param_groups",
]
