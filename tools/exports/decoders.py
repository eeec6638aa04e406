"""Language models of transformers: norms, rotary angles, biases, grouped heads, experts and state spaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tools.exports.case import VOCABULARY, Build, ByPosition, Case, dynamo_only, text_model

__all__ = ["NETWORKS", "llama_like"]

LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "use_cache": False,
    "attn_implementation": "eager",
    "pad_token_id": 0,
}


def llama_like(name: str, **options: Any) -> Case:
    """``<name>ForCausalLM`` with the sizes of :data:`LLAMA_LIKE`; None drops one."""
    import transformers

    given = {key: value for key, value in {**LLAMA_LIKE, **options}.items() if value is not None}
    config = getattr(transformers, f"{name}Config")(**given)
    return text_model(getattr(transformers, f"{name}ForCausalLM")(config), "logits", use_cache=False)


def _gpt2_config() -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        use_cache=False,
        attn_implementation="eager",
    )


def _gpt2() -> Case:
    from transformers import GPT2LMHeadModel

    return text_model(GPT2LMHeadModel(_gpt2_config()), "logits")


class OneStep(ByPosition):
    """One step of generation: a new token and the keys and values so far in, logits and longer ones out."""

    def __init__(self, model: nn.Module, layers: int) -> None:
        super().__init__()
        self.model = model
        self.layers = layers

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache

        ids, mask, *past = values
        cache = DynamicCache()
        for i in range(self.layers):
            cache.update(past[2 * i], past[2 * i + 1], i)
        result = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        kept = [t for layer in result.past_key_values.layers for t in (layer.keys, layer.values)]
        return (result.logits, *kept)


def _step(model: nn.Module, heads: int, head_size: int, layers: int = 2) -> Case:
    inputs = {"input_ids": torch.randint(5, VOCABULARY, (2, 3)), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    names = [f"{kind}.{i}" for i in range(layers) for kind in ("key", "value")]
    past = {f"past.{name}": torch.randn(2, heads, 7, head_size) for name in names}
    outputs = ["logits", *(f"present.{name}" for name in names)]
    dynamic: dict[str, dict[int, str]] = {name: {0: "batch"} for name in (*inputs, *past)}
    return Case(OneStep(model, layers), {**inputs, **past}, outputs, dynamic)


def _gpt2_step() -> Case:
    from transformers import GPT2LMHeadModel

    return _step(GPT2LMHeadModel(_gpt2_config()), 4, 12)


def _llama_step() -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _step(LlamaForCausalLM(LlamaConfig(**{**LLAMA_LIKE, "use_cache": True})), 2, 8)


def _gpt_neo() -> Case:
    return llama_like(
        "GPTNeo",
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        num_hidden_layers=None,
        num_attention_heads=None,
        num_key_value_heads=None,
    )


def _opt() -> Case:
    return llama_like(
        "OPT",
        ffn_dim=96,
        num_attention_heads=4,
        num_key_value_heads=None,
        intermediate_size=None,
        word_embed_proj_dim=32,
    )


def _bloom() -> Case:
    return llama_like(
        "Bloom",
        n_layer=2,
        n_head=4,
        num_hidden_layers=None,
        num_attention_heads=None,
        num_key_value_heads=None,
        intermediate_size=None,
        max_position_embeddings=None,
    )


def _falcon() -> Case:
    return llama_like(
        "Falcon",
        new_decoder_architecture=False,
        multi_query=True,
        parallel_attn=True,
        num_kv_heads=1,
        num_attention_heads=4,
        num_key_value_heads=None,
        intermediate_size=None,
        ffn_hidden_size=96,
    )


def _mpt() -> Case:
    return llama_like(
        "Mpt",
        d_model=48,
        n_heads=4,
        n_layers=2,
        expansion_ratio=2,
        max_seq_len=64,
        **dict.fromkeys(
            "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size "
            "max_position_embeddings".split()
        ),
    )


def _gemma2() -> Case:
    return llama_like(
        "Gemma2", head_dim=8, query_pre_attn_scalar=8, sliding_window=8, hidden_activation="gelu_pytorch_tanh"
    )


def _mixtral() -> Case:
    return llama_like("Mixtral", num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm")


def _mamba(name: str) -> Case:
    case = llama_like(
        name,
        state_size=4,
        expand=2,
        conv_kernel=4,
        time_step_rank=4,
        **dict.fromkeys(
            "num_attention_heads num_key_value_heads intermediate_size max_position_embeddings "
            "attn_implementation".split()
        ),
    )
    # The scan over time is unrolled, so the length stays fixed.
    return replace(case, dynamic={name: {0: "batch"} for name in case.inputs})


NETWORKS: dict[str, Build] = {
    "hf_gpt2": _gpt2,
    "hf_gpt2_step": _gpt2_step,
    "hf_llama": lambda: llama_like("Llama", pad_token_id=None),
    "hf_llama_step": _llama_step,
    "hf_gpt_neo": _gpt_neo,
    "hf_gpt_neox": lambda: llama_like("GPTNeoX", num_attention_heads=4, num_key_value_heads=None),
    "hf_opt": _opt,
    "hf_bloom": _bloom,
    "hf_mpt": _mpt,
    "hf_mistral": lambda: llama_like("Mistral", sliding_window=8),
    "hf_qwen2": lambda: llama_like("Qwen2"),
    "hf_qwen3": lambda: llama_like("Qwen3", head_dim=8),
    "hf_phi": lambda: llama_like("Phi", partial_rotary_factor=0.5, num_key_value_heads=6),
    "hf_gemma": lambda: llama_like("Gemma", head_dim=8),
    "hf_gemma2": _gemma2,
    "hf_olmo2": lambda: llama_like("Olmo2"),
    "hf_falcon": _falcon,
    "hf_mixtral": dynamo_only(_mixtral),
    "hf_mamba": dynamo_only(lambda: _mamba("Mamba")),
}
