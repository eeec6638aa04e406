"""Networks to export, by family; none is downloaded, all have random weights."""

from __future__ import annotations

from tools.exports import (
    convolutional,
    decoders,
    encoders,
    images,
    mixed,
    recurrent,
    seq2seq,
    speech,
    timm_models,
)
from tools.exports.case import Build

__all__ = ["NETWORKS"]

FAMILIES = (recurrent, convolutional, mixed, encoders, decoders, seq2seq, speech, images, timm_models)

NETWORKS: dict[str, Build] = {name: build for family in FAMILIES for name, build in family.NETWORKS.items()}
"""Name → what builds it."""
