"""Insert residual blocks, y = x + F(x), whose last layer holds zeros: new ones, and copies of those that are there."""

from __future__ import annotations

from onnxgrow.passes.blocks.freeze import freeze_list
from onnxgrow.passes.blocks.insertion import AddBlocks, CopyBlocks

__all__ = ["AddBlocks", "CopyBlocks", "freeze_list"]
