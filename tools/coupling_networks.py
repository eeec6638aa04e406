"""Networks for the coupling oracle: those of ``tools/exports`` and timm, and some made here. Needs torch.

The ones made here hold what couples channels in unusual ways: channel shuffles between depthwise convolutions
(ShuffleNet V2, https://arxiv.org/abs/1807.11164), squeeze-and-excitation gates (https://arxiv.org/abs/1709.01507) under
a feature pyramid (https://arxiv.org/abs/1612.03144).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from tools.exports import NETWORKS as EXPORTED
from tools.exports.case import Case, ConvBlock
from tools.exports.convolutional import UNet
from tools.exports.decoders import llama_like
from tools.exports.timm_models import timm_model

__all__ = ["NETWORKS"]


class ShuffleUnit(nn.Module):
    """Split in halves, one goes through a depthwise bottleneck, concatenate, shuffle."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.last = ConvBlock(half, inner, 1), ConvBlock(inner, half, 1)
        self.depthwise = ConvBlock(inner, inner, groups=inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        changed = self.last(self.depthwise(self.first(changed)))
        x = torch.cat([kept, changed], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    """Two shuffle units between ordinary convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 12, stride=2)
        self.units = nn.Sequential(ShuffleUnit(12, 10), ShuffleUnit(12, 14))
        self.tail, self.head = ConvBlock(12, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tail(self.units(self.stem(x))).mean((2, 3)))


class Excite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.expand(gate))


class ExcitedPyramid(nn.Module):
    """Three gated stages, and a pyramid of their maps: lateral 1×1 convolutions added to what is upsampled."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 12, 18)
        self.stages = nn.ModuleList(ConvBlock(i, o, stride=2) for i, o in zip((3, *widths), widths, strict=False))
        self.gates = nn.ModuleList(Excite(w, w // 2) for w in widths)
        self.lateral = nn.ModuleList(nn.Conv2d(w, 10, 1) for w in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(10, 10, 3, padding=1) for _ in widths)
        self.flat = nn.Linear(10 * 16, 7)
        self.heads = nn.ModuleList(nn.Conv2d(10, 4, 1) for _ in widths[1:])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = []
        for stage, gate in zip(self.stages, self.gates, strict=True):
            x = gate(stage(x))
            maps.append(x)
        top = self.lateral[2](maps[2])
        found = [self.smooth[2](top)]
        for i in (1, 0):
            top = self.lateral[i](maps[i]) + functional.interpolate(top, scale_factor=2.0, mode="nearest")
            found.append(self.smooth[i](top))
        sides = [head(f) for head, f in zip(self.heads, found[1:], strict=True)]
        return self.flat(found[0].flatten(1)), *sides


def _image(module: nn.Module, outputs: int = 1, size: int = 32) -> Case:
    names = [f"y{i}" for i in range(outputs)]
    return Case(module, {"x": torch.randn(2, 3, size, size)}, names)


def _gpt2() -> Case:
    """GPT-2 with its ``Conv1D`` layers as the linear layers that they are: Torch-Pruning does not know them."""
    from transformers.pytorch_utils import Conv1D

    case = EXPORTED["hf_gpt2"]()
    for module in list(case.module.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                with torch.no_grad():
                    linear.weight.copy_(child.weight.T)
                    linear.bias.copy_(child.bias)
                setattr(module, name, linear)
    return case


NETWORKS: dict[str, Callable[[], Case]] = {
    "resnet18": lambda: timm_model("resnet18", 64),
    "densenet121": lambda: timm_model("densenet121", 64),
    "mobilenetv3_small_100": lambda: timm_model("mobilenetv3_small_100", 64),
    "efficientnet_b0": lambda: timm_model("efficientnet_b0", 64),
    "convnext_atto": lambda: timm_model("convnext_atto", 64),
    "unet": lambda: _image(UNet()),
    "shufflenet": lambda: _image(ShuffleNet()),
    "excited_pyramid": lambda: _image(ExcitedPyramid(), outputs=3),
    "bert": EXPORTED["hf_bert"],
    "gpt2": _gpt2,
    "llama": lambda: llama_like("Llama", num_key_value_heads=6, pad_token_id=None),
    "llama_grouped_query": EXPORTED["hf_llama"],
    "vit_tiny_patch16_224": lambda: timm_model("vit_tiny_patch16_224", 96, img_size=96),
    "whisper_encoder": EXPORTED["hf_whisper_enc"],
}
