"""Take out again what training made superfluous."""

from __future__ import annotations

from onnxgrow.passes.fold.folding import Fold

__all__ = ["Fold"]
