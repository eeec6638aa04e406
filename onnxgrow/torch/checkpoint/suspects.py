"""Why an entry of the checkpoint is not in the file: what exporters do to weights, recognised by the values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxgrow.torch.checkpoint.origin import Held

__all__ = ["why_missing"]

NEAR = 0.02
"""Largest deviation, relative to the largest entry, that quantising to 8 bits or a little training makes."""
LEVELS = 256


def why_missing(key: str, entry: Tensor, constants: Sequence[Held], compared: bool) -> str:
    """The reason in one sentence.

    Args:
        key, entry: Of the checkpoint.
        constants: Of the file.
        compared: Whether the constants' original values come from the original file.
    """
    for held in constants:
        if held.original is None or held.original.numel() != entry.numel() or not entry.numel():
            continue
        named = key in held.names
        for mine in (held.original, held.original.t() if held.original.dim() == 2 else None):
            if mine is None or mine.shape != entry.shape:
                continue
            reason = _resemblance(mine.double(), entry.double(), held.name)
            if reason:
                return reason
        if named:
            hint = "" if compared else ", or trained since"
            return f"{held.name} in the file has other values: something was folded into it{hint}"
    if not compared and any(key in held.names for held in constants):
        return "the tensor of this name in the file has another size"
    return "no tensor of the file has its values: folded into others, merged with them, or never used"


def _resemblance(mine: Tensor, entry: Tensor, name: str) -> str:
    scale = float(entry.abs().max())
    gap = float((mine - entry).abs().max())
    if not scale or not gap < float("inf"):
        return ""
    if gap <= NEAR * scale:
        if entry.numel() > 4 * LEVELS and len(torch.unique(mine)) <= LEVELS < len(torch.unique(entry)):
            return f"{name} in the file was dequantised from 8 bits or fewer: it differs by up to {gap:.1e}"
        return f"{name} in the file has nearly its values: it differs by up to {gap:.1e}, by training or rounding"
    if entry.dim() > 1:
        rows, own = entry.flatten(1), mine.flatten(1)
        factor = (rows * own).sum(1, keepdim=True) / rows.square().sum(1, keepdim=True).clamp_min(1e-300)
        if float((own - factor * rows).abs().max()) <= 1e-5 * float(own.abs().max()):
            return f"{name} in the file is it scaled per output channel: batch normalisation was folded into it"
    return ""
