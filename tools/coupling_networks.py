"""Networks for the coupling oracle: those of ``tools/make_exports.py`` and timm, and some made here. Needs torch.

The ones made here hold what couples channels in unusual ways: transposed convolutions and concatenated skips
(U-Net, https://arxiv.org/abs/1505.04597), channel shuffles between depthwise convolutions (ShuffleNet V2,
https://arxiv.org/abs/1807.11164), squeeze-and-excitation gates (https://arxiv.org/abs/1709.01507) under a feature
pyramid (https://arxiv.org/abs/1612.03144).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tools.make_exports import MODELS, VOCABULARY, Case, _text_model, _timm

__all__ = ["NETWORKS"]


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class UNet(nn.Module):
    """Two levels down and up; the way up concatenates what the way down had."""

    def __init__(self) -> None:
        super().__init__()
        self.down0, self.down1, self.bottom = ConvBlock(3, 6), ConvBlock(6, 10), ConvBlock(10, 14)
        self.up1, self.up0 = nn.ConvTranspose2d(14, 9, 2, 2), nn.ConvTranspose2d(11, 7, 2, 2)
        self.join1, self.join0 = ConvBlock(19, 11), ConvBlock(13, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down0(x)
        b = self.down1(functional.max_pool2d(a, 2))
        c = self.bottom(functional.max_pool2d(b, 2))
        b = self.join1(torch.cat([b, self.up1(c)], 1))
        a = self.join0(torch.cat([self.up0(b), a], 1))
        return self.head(a)


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

    case = MODELS["hf_gpt2"]()
    for module in list(case.module.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                with torch.no_grad():
                    linear.weight.copy_(child.weight.T)
                    linear.bias.copy_(child.bias)
                setattr(module, name, linear)
    return case


def _llama(key_heads: int) -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    config: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": key_heads,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "use_cache": False,
        "attn_implementation": "eager",
    }
    return _text_model(LlamaForCausalLM(LlamaConfig(**config)), "logits")


NETWORKS: dict[str, Callable[[], Case]] = {
    "resnet18": lambda: _timm("resnet18", 64),
    "densenet121": lambda: _timm("densenet121", 64),
    "mobilenetv3_small_100": lambda: _timm("mobilenetv3_small_100", 64),
    "efficientnet_b0": lambda: _timm("efficientnet_b0", 64),
    "convnext_atto": lambda: _timm("convnext_atto", 64),
    "unet": lambda: _image(UNet()),
    "shufflenet": lambda: _image(ShuffleNet()),
    "excited_pyramid": lambda: _image(ExcitedPyramid(), outputs=3),
    "bert": MODELS["hf_bert"],
    "gpt2": _gpt2,
    "llama": lambda: _llama(6),
    "llama_grouped_query": lambda: _llama(2),
    "vit_tiny_patch16_224": lambda: _timm("vit_tiny_patch16_224", 96, img_size=96),
    "whisper_encoder": MODELS["hf_whisper_enc"],
}
