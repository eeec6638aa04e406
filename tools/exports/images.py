"""Vision models of transformers: classifiers, segmentation, detection, two towers and promptable masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tools.exports.case import VOCABULARY, Build, Case, OneOutput, dynamo_only, image_model

__all__ = ["NETWORKS"]

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
    "attn_implementation": "eager",
}


def _vit() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    return image_model(ViTForImageClassification(ViTConfig(**SMALL, num_labels=7)), 64, "logits")


def _deit() -> Case:
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    return image_model(DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL, num_labels=7)), 64, "logits")


def _dinov2() -> Case:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    given = {**SMALL, "mlp_ratio": 2, "use_swiglu_ffn": True}
    given.pop("intermediate_size")
    return image_model(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**given)), 64, "last_hidden_state")


def _swin() -> Case:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=7,
        attn_implementation="eager",
    )
    return image_model(SwinForImageClassification(config), 64, "logits")


def _convnext() -> Case:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[12, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=7)
    return image_model(ConvNextForImageClassification(config), 64, "logits")


def _segformer() -> Case:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 24, 32, 48],
        num_attention_heads=[1, 2, 4, 4],
        decoder_hidden_size=32,
        num_labels=5,
        attn_implementation="eager",
    )
    return image_model(SegformerForSemanticSegmentation(config), 64, "logits")


def _yolos() -> Case:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(**{**SMALL, "image_size": [64, 64]}, num_detection_tokens=6, num_labels=5)
    return image_model(YolosForObjectDetection(config), 64, "logits", "pred_boxes")


def _detr() -> Case:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=6,
        num_labels=5,
        attn_implementation="eager",
    )
    return image_model(DetrForObjectDetection(config), 64, "logits", "pred_boxes")


def _clip() -> Case:
    from transformers import CLIPConfig, CLIPModel

    text = {key: value for key, value in SMALL.items() if key not in ("image_size", "patch_size")}
    config = CLIPConfig(
        text_config={**text, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "eos_token_id": 2},
        vision_config=SMALL,
        projection_dim=24,
        attn_implementation="eager",
    )
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 9:] = 0
    inputs = {
        "input_ids": torch.randint(5, VOCABULARY, (2, 12)),
        "pixel_values": torch.randn(2, 3, 64, 64),
        "attention_mask": mask,
    }
    module = OneOutput(CLIPModel(config), list(inputs), "logits_per_image", "text_embeds")
    dynamic = {"input_ids": {0: "texts"}, "pixel_values": {0: "images"}, "attention_mask": {0: "texts"}}
    return Case(module, inputs, ["logits_per_image", "text_embeds"], dynamic)


class PromptedMasks(nn.Module):
    """The segmentation model of SAM with points as prompts: image encoder, prompt encoder and mask decoder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = self.model(pixel_values=pixel_values, input_points=input_points, multimask_output=True)
        return result.pred_masks, result.iou_scores


def _sam() -> Case:
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            **SMALL,
            "output_channels": 32,
            "mlp_dim": 96,
            "num_pos_feats": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
        attn_implementation="eager",
    )
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "input_points": 60 * torch.rand(2, 1, 2, 2)}
    return Case(PromptedMasks(SamModel(config)), inputs, ["masks", "scores"], {name: {0: "batch"} for name in inputs})


NETWORKS: dict[str, Build] = {
    "hf_vit": _vit,
    "hf_deit": _deit,
    "hf_dinov2_reg": dynamo_only(_dinov2),
    "hf_swin": _swin,
    "hf_convnext": _convnext,
    "hf_segformer": _segformer,
    "hf_yolos": _yolos,
    "hf_detr": _detr,
    "hf_clip": _clip,
    "hf_sam": _sam,
}
