"""The dimension algebra: which axes are the same axis, and what that means when one grows. Knows no ONNX."""

from __future__ import annotations

from onnxgrow.algebra.layout import Growth, grown_offset, grown_size, grows, layout, repeated
from onnxgrow.algebra.reshape import reshape
from onnxgrow.algebra.terms import Forest, Kind, Term
from onnxgrow.algebra.unify import factor, split_at, unify

__all__ = [
    "Forest",
    "Growth",
    "Kind",
    "Term",
    "factor",
    "grown_offset",
    "grown_size",
    "grows",
    "layout",
    "repeated",
    "reshape",
    "split_at",
    "unify",
]
