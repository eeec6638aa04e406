"""Convolutional networks made here: in one and three dimensions, transposed, dilated, gated and shared.

U-Net (https://arxiv.org/abs/1505.04597), DCGAN's generator (https://arxiv.org/abs/1511.06434), temporal convolutions
(https://arxiv.org/abs/1803.01271), WaveNet's gates (https://arxiv.org/abs/1609.03499), twin networks, detection heads
over a feature pyramid (https://arxiv.org/abs/1708.02002).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tools.exports.case import Build, Case, ConvBlock

__all__ = ["NETWORKS", "UNet"]


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


class Generator(nn.Module):
    """Noise and a class to an image: linear layer, reshape, transposed convolutions, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(5, 6)
        self.project = nn.Linear(16, 24 * 4 * 4)
        self.norm0, self.norm1, self.norm2 = nn.BatchNorm2d(24), nn.BatchNorm2d(16), nn.InstanceNorm2d(12, affine=True)
        self.up1 = nn.ConvTranspose2d(24, 16, 4, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(16, 12, 3, 2, 1, output_padding=1, groups=2)
        self.last = nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = self.project(torch.cat([noise, self.label(label)], 1)).view(-1, 24, 4, 4)
        x = functional.leaky_relu(self.up1(torch.relu(self.norm0(x))), 0.2)
        x = functional.leaky_relu(self.norm2(self.up2(self.norm1(x))), 0.2)
        return torch.tanh(self.last(functional.interpolate(x, scale_factor=2, mode="bilinear")))


class Volumes(nn.Module):
    """Residual convolutions over volumes, factored into space and time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.space = nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(12, 8, (3, 1, 1), padding=(1, 0, 0))
        self.group = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = functional.avg_pool3d(x, 2)
        x = torch.relu(x + self.group(self.time(torch.relu(self.space(x)))))
        return self.head(functional.adaptive_max_pool3d(x, 1).flatten(1))


class CausalBlock(nn.Module):
    """Two dilated causal convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None
        self.pad = 2 * dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(functional.pad(x, (self.pad, 0))))
        y = torch.relu(self.second(functional.pad(y, (self.pad, 0))))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Temporal(nn.Module):
    """Causal convolutions of growing dilation over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(CausalBlock(4, 10, 1), CausalBlock(10, 12, 2), CausalBlock(12, 12, 4))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).transpose(1, 2))


class Gated(nn.Module):
    """WaveNet: gated dilated convolutions, conditioned, with residual and skip connections."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 10)
        self.dilated = nn.ModuleList(nn.Conv1d(10, 24, 2, dilation=2**i) for i in range(layers))
        self.condition = nn.ModuleList(nn.Conv1d(5, 24, 1) for _ in range(layers))
        self.residual = nn.ModuleList(nn.Conv1d(12, 10, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(12, 14, 1) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(14, 9, 1), nn.ReLU(), nn.Conv1d(9, 16, 1))

    def forward(self, samples: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        x = self.embed(samples).transpose(1, 2)
        total = torch.zeros(1)
        for i, dilated in enumerate(self.dilated):
            y = dilated(functional.pad(x, (2**i, 0))) + self.condition[i](mel)
            filtered, gate = y.chunk(2, 1)
            y = torch.tanh(filtered) * torch.sigmoid(gate)
            total = total + self.skip[i](y)
            x = x + self.residual[i](y)
        return self.head(total)


class Twins(nn.Module):
    """Two images through the same network; how near they are."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(ConvBlock(1, 8), nn.MaxPool2d(2), ConvBlock(8, 12, groups=4), nn.Flatten())
        self.project = nn.Linear(12 * 64, 20)
        self.head = nn.Linear(20, 1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = (self.project(self.tower(x)) for x in (left, right))
        return torch.sigmoid(self.head((a - b).abs())), functional.cosine_similarity(a, b)


class Pyramid(nn.Module):
    """A small one-stage detector: strided stages, upsampled sums, heads shared by the levels, decoded boxes."""

    def __init__(self, anchors: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList([ConvBlock(3, 8, 3, 2), ConvBlock(8, 12, 3, 2), ConvBlock(12, 16, 3, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(c, 10, 1) for c in (12, 16))
        self.tower = nn.Sequential(ConvBlock(10, 10), nn.Conv2d(10, 10, 3, padding=1), nn.SiLU())
        self.boxes, self.scores = nn.Conv2d(10, 4 * anchors, 1), nn.Conv2d(10, classes * anchors, 1)
        self.classes = classes

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top = self.lateral[1](levels[2])
        below = self.lateral[0](levels[1]) + functional.interpolate(top, scale_factor=2.0, mode="nearest")
        features = [self.tower(level) for level in (below, top)]
        boxes = torch.cat([self.boxes(f).permute(0, 2, 3, 1).reshape(f.shape[0], -1, 4) for f in features], 1)
        scores = [self.scores(f).permute(0, 2, 3, 1).reshape(f.shape[0], -1, self.classes) for f in features]
        centre, size = boxes.split(2, -1)
        return torch.cat([centre - size.exp() / 2, centre + size.exp() / 2], -1), torch.cat(scores, 1).sigmoid()


class Squeeze(nn.Module):
    """A convolutional autoencoder with a linear bottleneck, and pixel shuffle on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ELU(), nn.Conv2d(8, 12, 3, 2, 1), nn.PReLU(12))
        self.mean, self.spread = nn.Linear(12 * 16, 7), nn.Linear(12 * 16, 7)
        self.back = nn.Linear(7, 12 * 16)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 3, 2, 1, 1), nn.Softplus(), nn.Conv2d(8, 4, 3, 1, 1), nn.PixelShuffle(2)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        code = self.encode(x).flatten(1)
        mean, spread = self.mean(code), self.spread(code)
        image = self.decode(self.back(mean + spread.exp()).unflatten(1, (12, 4, 4)))
        return torch.sigmoid(image), mean, spread


def _images(module: nn.Module, channels: int, size: int, *outputs: str) -> Case:
    return Case(module, {"x": torch.randn(2, channels, size, size)}, outputs, {"x": {0: "batch"}})


def _generator() -> Case:
    inputs = {"noise": torch.randn(2, 10), "label": torch.randint(0, 5, (2,))}
    return Case(Generator(), inputs, ["image"], {name: {0: "batch"} for name in inputs})


def _temporal() -> Case:
    return Case(Temporal(), {"x": torch.randn(2, 4, 20)}, ["logits"], {"x": {0: "batch", 2: "time"}})


def _gated() -> Case:
    inputs = {"samples": torch.randint(0, 16, (2, 20)), "mel": torch.randn(2, 5, 20)}
    return Case(Gated(), inputs, ["logits"], {"samples": {0: "batch"}, "mel": {0: "batch"}})


def _twins() -> Case:
    inputs = {"left": torch.randn(2, 1, 16, 16), "right": torch.randn(2, 1, 16, 16)}
    return Case(Twins(), inputs, ["same", "cosine"], {name: {0: "batch"} for name in inputs})


def _volumes() -> Case:
    return Case(Volumes(), {"x": torch.randn(2, 1, 6, 8, 8)}, ["logits"], {"x": {0: "batch"}})


NETWORKS: dict[str, Build] = {
    "torch_unet": lambda: _images(UNet(), 3, 16, "logits"),
    "torch_generator": _generator,
    "torch_volumes": _volumes,
    "torch_temporal": _temporal,
    "torch_gated": _gated,
    "torch_twins": _twins,
    "torch_pyramid": lambda: _images(Pyramid(), 3, 32, "boxes", "scores"),
    "torch_autoencoder": lambda: _images(Squeeze(), 1, 16, "image", "mean", "spread"),
}
