"""Speech models: convolutional front ends, weight-normalised position convolutions, conformers."""

from __future__ import annotations

from typing import Any

import torch

from tools.exports.case import Build, Case, OneOutput

__all__ = ["NETWORKS"]

WAVES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "attn_implementation": "eager",
}


def _waves(name: str, **options: Any) -> Case:
    """``<name>ForCTC`` over raw samples, float32 (2, 800)."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**{**WAVES, **options})
    module = OneOutput(getattr(transformers, f"{name}ForCTC")(config), ["input_values"], "logits")
    return Case(module, {"samples": torch.randn(2, 800)}, ["logits"], {"samples": {0: "batch"}})


def _whisper_encoder() -> Case:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=48,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        num_mel_bins=80,
        max_source_positions=50,
        attn_implementation="eager",
    )
    module = OneOutput(WhisperEncoder(config), ["input_features"], "last_hidden_state")
    return Case(module, {"mel": torch.randn(2, 80, 100)}, ["hidden"], {"mel": {0: "batch"}})


NETWORKS: dict[str, Build] = {
    "hf_whisper_enc": _whisper_encoder,
    "hf_wav2vec2": lambda: _waves("Wav2Vec2"),
    "hf_wav2vec2_stable": lambda: _waves("Wav2Vec2", do_stable_layer_norm=True, feat_extract_norm="layer"),
    "hf_hubert": lambda: _waves("Hubert"),
    "hf_conformer": lambda: _waves("Wav2Vec2Conformer", position_embeddings_type="relative"),
}
