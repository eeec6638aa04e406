"""Text encoders of transformers: post-norm, shared layers, disentangled attention, relative position bias."""

from __future__ import annotations

from typing import Any

from tools.exports.case import VOCABULARY, Build, Case, text_model

__all__ = ["NETWORKS"]

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}


def _bert() -> Case:
    from transformers import BertConfig, BertModel

    return text_model(BertModel(BertConfig(**SMALL), add_pooling_layer=False), "last_hidden_state")


def _bert_classifier() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    return text_model(BertForSequenceClassification(BertConfig(**SMALL, num_labels=5)), "logits")


def _distilbert() -> Case:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=96,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return text_model(DistilBertModel(config), "last_hidden_state")


def _roberta() -> Case:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return text_model(RobertaForMaskedLM(RobertaConfig(**SMALL, type_vocab_size=1)), "logits")


def _albert() -> Case:
    from transformers import AlbertConfig, AlbertModel

    return text_model(
        AlbertModel(AlbertConfig(**SMALL, embedding_size=24), add_pooling_layer=False), "last_hidden_state"
    )


def _electra() -> Case:
    from transformers import ElectraConfig, ElectraForPreTraining

    return text_model(ElectraForPreTraining(ElectraConfig(**SMALL, embedding_size=24)), "logits")


def _deberta() -> Case:
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        **SMALL,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        conv_kernel_size=3,
    )
    return text_model(DebertaV2Model(config), "last_hidden_state")


def _mpnet() -> Case:
    from transformers import MPNetConfig, MPNetModel

    return text_model(MPNetModel(MPNetConfig(**SMALL), add_pooling_layer=False), "last_hidden_state")


def _t5_encoder() -> Case:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        feed_forward_proj="gated-gelu",
        attn_implementation="eager",
    )
    return text_model(T5EncoderModel(config), "last_hidden_state")


def _modernbert() -> Case:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(**SMALL, local_attention=8, global_attn_every_n_layers=2, pad_token_id=0)
    return text_model(ModernBertForMaskedLM(config), "logits")


NETWORKS: dict[str, Build] = {
    "hf_bert": _bert,
    "hf_bert_classifier": _bert_classifier,
    "hf_distilbert": _distilbert,
    "hf_roberta": _roberta,
    "hf_albert": _albert,
    "hf_electra": _electra,
    "hf_deberta_v2": _deberta,
    "hf_mpnet": _mpnet,
    "hf_t5_enc": _t5_encoder,
    "hf_modernbert": _modernbert,
}
