"""What one network to export is, and what networks of several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

__all__ = [
    "VOCABULARY",
    "Build",
    "ByPosition",
    "Case",
    "ConvBlock",
    "OneOutput",
    "dynamo_only",
    "image_model",
    "randomise",
    "text_model",
    "tokens",
]

VOCABULARY = 200


@dataclass(frozen=True)
class Case:
    """A module ready for export.

    Attributes:
        inputs: Name → example, in the order of ``forward``.
        dynamic: Input → axis → name of the dimension. Example sizes of these axes are not 0 or 1.
        exporters: Those that can write it; all where empty.
    """

    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    exporters: Sequence[str] = ()


Build = Callable[[], Case]


def dynamo_only(build: Build) -> Build:
    """The same network, for the newer exporter only: the older one does not know one of its operators."""
    return lambda: replace(build(), exporters=("dynamo",))


class ByPosition(nn.Module):
    """A module whose ``forward(*values)`` takes its inputs by position: exporters know them by number only."""


class OneOutput(ByPosition):
    """A transformers model that takes its inputs by position and gives one tensor, or those named."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], *outputs: str, **constant: Any) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = outputs
        self.constant = constant

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        named = dict(zip(self.inputs, values, strict=True))
        result = self.model(**named, **self.constant, return_dict=True)
        found = tuple(getattr(result, name) for name in self.outputs)
        return found[0] if len(found) == 1 else found


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


def randomise(module: nn.Module) -> None:
    """Give norms, biases and statistics values that are neither zero nor one; matrices and kernels stay."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim <= 1 and "bias" in name.rpartition(".")[2]:
                parameter.normal_(0.0, 0.1)
            elif parameter.ndim <= 1:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def tokens() -> dict[str, torch.Tensor]:
    """Token ids and a mask whose second row ends in padding; int64 (2, 16)."""
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 12:] = 0
    return {"input_ids": torch.randint(5, VOCABULARY, (2, 16)), "attention_mask": mask}


def text_model(model: nn.Module, output: str, **constant: Any) -> Case:
    """A transformers model over token ids and their mask."""
    inputs = tokens()
    axes = {0: "batch", 1: "sequence"}
    return Case(OneOutput(model, list(inputs), output, **constant), inputs, [output], dict.fromkeys(inputs, axes))


def image_model(model: nn.Module, size: int, *outputs: str, **constant: Any) -> Case:
    """A transformers model over images, float32 (2, 3, size, size)."""
    module = OneOutput(model, ["pixel_values"], *outputs, **constant)
    return Case(module, {"pixel_values": torch.randn(2, 3, size, size)}, outputs, {"pixel_values": {0: "batch"}})
