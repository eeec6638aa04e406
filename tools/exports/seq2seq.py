"""Encoders and decoders together: T5, BART, and a Whisper decoder that is given keys and values."""

from __future__ import annotations

import torch
from torch import nn

from tools.exports.case import VOCABULARY, Build, ByPosition, Case, OneOutput

__all__ = ["NETWORKS"]

WIDTH, HEADS, FRAMES = 48, 4, 12


def _decoder(model: nn.Module, output: str = "last_hidden_state") -> Case:
    """A decoder alone: token ids and what the encoder gave."""
    inputs = {
        "input_ids": torch.randint(5, VOCABULARY, (2, 10)),
        "encoder_hidden_states": torch.randn(2, FRAMES, WIDTH),
    }
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "encoder_hidden_states": {0: "batch", 1: "frames"}}
    return Case(OneOutput(model, list(inputs), output, use_cache=False), inputs, [output], axes)


def _whole(model: nn.Module) -> Case:
    """Encoder and decoder: two rows of token ids."""
    inputs = {
        "input_ids": torch.randint(5, VOCABULARY, (2, 14)),
        "decoder_input_ids": torch.randint(5, VOCABULARY, (2, 10)),
    }
    axes = {"input_ids": {0: "batch", 1: "source"}, "decoder_input_ids": {0: "batch", 1: "target"}}
    return Case(OneOutput(model, list(inputs), "logits", use_cache=False), inputs, ["logits"], axes)


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=HEADS,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    return T5ForConditionalGeneration(config)


def _bart() -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return BartForConditionalGeneration(config)


class CachedDecoder(ByPosition):
    """One step of a decoder with keys and values of its own past and of the encoder."""

    def __init__(self, model: nn.Module, layers: int) -> None:
        super().__init__()
        self.model = model
        self.layers = layers

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        ids, frames, *past = values
        own, cross = DynamicCache(), DynamicCache()
        for i in range(self.layers):
            own.update(past[4 * i], past[4 * i + 1], i)
            cross.update(past[4 * i + 2], past[4 * i + 3], i)
        result = self.model(
            input_ids=ids,
            encoder_hidden_states=frames,
            past_key_values=EncoderDecoderCache(own, cross),
            position_ids=torch.full_like(ids, past[0].shape[2]),
            use_cache=True,
        )
        kept = [t for layer in result.past_key_values.self_attention_cache.layers for t in (layer.keys, layer.values)]
        return (result.last_hidden_state, *kept)


def _whisper_step() -> Case:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperDecoder

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        decoder_layers=2,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=96,
        max_target_positions=32,
        pad_token_id=0,
        attn_implementation="eager",
    )
    inputs = {"input_ids": torch.randint(5, VOCABULARY, (2, 1)), "frames": torch.randn(2, FRAMES, WIDTH)}
    size = WIDTH // HEADS
    for i in range(2):
        for kind, length in (("key", 5), ("value", 5), ("cross_key", FRAMES), ("cross_value", FRAMES)):
            inputs[f"past.{kind}.{i}"] = torch.randn(2, HEADS, length, size)
    outputs = ["hidden", *(f"present.{kind}.{i}" for i in range(2) for kind in ("key", "value"))]
    dynamic: dict[str, dict[int, str]] = {name: {0: "batch"} for name in inputs}
    return Case(CachedDecoder(WhisperDecoder(config), 2), inputs, outputs, dynamic)


NETWORKS: dict[str, Build] = {
    "hf_t5": lambda: _whole(_t5()),
    "hf_t5_dec": lambda: _decoder(_t5().get_decoder()),
    "hf_bart": lambda: _whole(_bart()),
    "hf_bart_dec": lambda: _decoder(_bart().get_decoder()),
    "hf_whisper_step": _whisper_step,
}
