"""Image networks of timm, with fewer layers and channels where their builders take such options."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tools.exports.case import Build, Case, dynamo_only

__all__ = ["NETWORKS", "timm_model"]


def timm_model(name: str, size: int, **options: Any) -> Case:
    """A timm network over images, float32 (2, 3, size, size)."""
    import timm

    module = timm.create_model(name, pretrained=False, **options)
    return Case(module, {"x": torch.randn(2, 3, size, size)}, ["logits"], {"x": {0: "batch"}})


STAGES: dict[str, Any] = {"depths": (1, 1, 2, 1)}
XCEPTION_BLOCKS: list[dict[str, Any]] = [
    {"in_chs": 64, "out_chs": 40, "stride": 2},
    {"in_chs": 40, "out_chs": 48, "stride": 2},
    {"in_chs": 48, "out_chs": 48, "stride": 1},
    {"in_chs": 48, "out_chs": (48, 56, 64), "stride": 1, "no_skip": True, "start_with_relu": False},
]

OPTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilenetv3_small_100": (96, {}),
    "resnet18": (96, {}),
    "vit_tiny_patch16_224": (96, {"img_size": 96}),
    "densenet121": (96, {}),
    "resnet50": (64, {"layers": (2, 1, 1, 1), "channels": (12, 16, 24, 32)}),
    "res2net50_26w_4s": (64, {"layers": (1, 1, 1, 1)}),
    "skresnet18": (64, {"layers": (1, 1, 1, 1)}),
    "resnest14d": (64, {}),
    "efficientnet_b0": (64, {}),
    "mixnet_s": (64, {}),
    "mobilenetv4_conv_small": (64, {}),
    "mobilenetv4_hybrid_medium_075": (64, {}),
    "regnety_002": (64, {}),
    "ghostnet_050": (64, {}),
    "repvgg_a0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "dla46x_c": (64, {}),
    "dpn48b": (64, {}),
    "cs3darknet_focus_s": (64, {}),
    "ese_vovnet19b_slim_dw": (64, {}),
    "hgnetv2_b0": (64, {}),
    "xception41": (64, {"block_cfg": XCEPTION_BLOCKS}),
    "nfnet_l0": (64, {**STAGES, "channels": (32, 64, 64, 96), "num_features": 96, "group_size": 8}),
    "convnextv2_atto": (64, {**STAGES, "dims": (12, 16, 24, 32)}),
    "inception_next_atto": (64, {**STAGES, "dims": (16, 24, 32, 40)}),
    "mambaout_femto": (64, {**STAGES, "dims": (16, 24, 32, 40)}),
    "starnet_s050": (64, {"depths": (1, 1, 2, 1)}),
    "edgenext_xx_small": (64, {}),
    "mobilevit_xxs": (64, {}),
    "fastvit_t8": (64, {"layers": (1, 1, 2, 1), "embed_dims": (16, 32, 64, 128)}),
    "efficientformer_l1": (224, {"depths": (1, 1, 1, 2), "embed_dims": (16, 24, 32, 48)}),
    "levit_128s": (
        64,
        {"img_size": 64, "embed_dim": (32, 48, 64), "key_dim": 8, "num_heads": (2, 3, 4), "depth": (1, 1, 1)},
    ),
    "vit_betwixt_patch16_reg4_gap_256": (64, {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "beit_base_patch16_224": (64, {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "swin_tiny_patch4_window7_224": (
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "swinv2_tiny_window8_256": (
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "coatnet_nano_rw_224": (64, {"img_size": 64, **STAGES, "embed_dim": (32, 32, 64, 64)}),
    "maxvit_pico_rw_256": (64, {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 32)}),
    "cait_xxs24_224": (64, {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 4}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "twins_svt_small": (
        64,
        {"img_size": 64, "embed_dims": (16, 24, 32, 48), "num_heads": (2, 2, 4, 4), "depths": (1, 1, 2, 1)},
    ),
    "coat_lite_tiny": (64, {"img_size": 64, "embed_dims": (16, 32, 32, 48), "serial_depths": (1, 1, 1, 1)}),
    "crossvit_9_240": (240, {"embed_dim": (24, 48), "depth": ((1, 2, 0),), "num_heads": (2, 4)}),
    "sequencer2d_s": (64, {"img_size": 64, "layers": (1, 1, 1, 1), "embed_dims": (32, 48, 48, 48)}),
}
"""Network → image size and what to build smaller."""


def _registered(name: str) -> Build:
    size, options = OPTIONS[name]
    return lambda: timm_model(name, size, **options)


def _images(module: nn.Module) -> Case:
    return Case(module, {"x": torch.randn(2, 3, 64, 64)}, ["logits"], {"x": {0: "batch"}})


def _mixer(block: str, mlp: str = "Mlp", norm: str = "LayerNorm", **options: Any) -> Case:
    """A network of alternating MLPs over positions and channels; its registered builders fix the sizes."""
    from timm.models import mlp_mixer

    layers = {
        "block_layer": getattr(mlp_mixer, block),
        "mlp_layer": getattr(mlp_mixer, mlp),
        "norm_layer": getattr(mlp_mixer, norm, nn.LayerNorm),
    }
    return _images(mlp_mixer.MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=48, **layers, **options))


def _poolformer() -> Case:
    from timm.layers import GroupNorm1
    from timm.models.metaformer import MetaFormer

    dims = [16, 24, 32, 40]
    given = {"downsample_norm": None, "mlp_act": nn.GELU, "norm_layers": GroupNorm1, "use_mlp_head": False}
    return _images(MetaFormer(depths=[1, 1, 2, 1], dims=dims, mlp_bias=True, res_scale_init_values=None, **given))


def _volo() -> Case:
    from timm.models.volo import VOLO

    module = VOLO(img_size=64, layers=(1, 1, 1, 1), embed_dims=(24, 48, 48, 48), num_heads=(2, 4, 4, 4))
    return _images(module)


NETWORKS: dict[str, Build] = {
    **{f"timm_{name}": _registered(name) for name in OPTIONS},
    "timm_eva02_tiny_patch14_224": dynamo_only(_registered("eva02_tiny_patch14_224")),
    "timm_mixer": lambda: _mixer("MixerBlock"),
    "timm_gmlp": lambda: _mixer("SpatialGatingBlock", "GatedMlp", mlp_ratio=4),
    "timm_resmlp": lambda: _mixer("ResBlock", norm="Affine", mlp_ratio=4),
    "timm_poolformer": _poolformer,
    "timm_volo": dynamo_only(_volo),
}
