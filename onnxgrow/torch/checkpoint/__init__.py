"""Bringing a grown file home: a checkpoint for the user's own class, and the map of its names."""

from __future__ import annotations

from onnxgrow.torch.checkpoint.export import NameMap, UnmatchedError, export_checkpoint

__all__ = ["NameMap", "UnmatchedError", "export_checkpoint"]
