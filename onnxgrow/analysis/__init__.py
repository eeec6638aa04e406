"""From a model to its channel sets: what can grow, what cannot, and why."""

from __future__ import annotations

from onnxgrow.analysis.channel_sets import Analysis, ChannelSet, Weight, analyse
from onnxgrow.analysis.infer import Dimensions, infer_dimensions
from onnxgrow.analysis.network import Network, node_key
from onnxgrow.analysis.patches import find_patches

__all__ = [
    "Analysis",
    "ChannelSet",
    "Dimensions",
    "Network",
    "Weight",
    "analyse",
    "find_patches",
    "infer_dimensions",
    "node_key",
]
