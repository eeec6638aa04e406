"""New values for grown weights: the same bytes on every machine, with any threads, in any blocks."""

from __future__ import annotations

from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.cast import cast
from onnxgrow.init.copies import copied_indices
from onnxgrow.init.gain import gain
from onnxgrow.init.near_zero import near_zero_ranges, scale_to
from onnxgrow.init.registry import OldWeight
from onnxgrow.init.schemes import fill, fill_ranges, is_elementwise, scheme_names
from onnxgrow.init.summation import std, tree_sum
from onnxgrow.init.transform import normal, uniform

__all__ = [
    "Key",
    "OldWeight",
    "cast",
    "copied_indices",
    "fill",
    "fill_ranges",
    "gain",
    "is_elementwise",
    "near_zero_ranges",
    "normal",
    "raw_bits",
    "scale_to",
    "scheme_names",
    "std",
    "tree_sum",
    "uniform",
]
