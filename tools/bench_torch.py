"""Step time of OnnxModule against the native module that its file was exported from.

    python -m tools.bench_torch [--only NAME]... [--steps N] [--compiled] [--device cuda]

Both modules take turns, step by step (forward, backward, SGD), so that what else the machine does hits both; what is
printed is the ratio of the medians, and the quartiles of the ratios of neighbouring steps. Seconds are printed for
orientation only. Training mode; the same inputs, weights and loss.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch import OnnxModule, export_for_growth

__all__ = ["MODELS", "compare", "main"]


class Basic(nn.Module):
    """The basic block of a residual net (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 1000 classes."""
    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(Basic(*stage) for stage in [*stages, (512, 512, 1)]),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)),
    )


class Layer(nn.Module):
    """A layer of BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:
            return t.view(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)

        y = F.scaled_dot_product_attention(split(self.query(x)), split(self.key(x)), split(self.value(x)))
        x = self.norm1(x + self.dense(y.transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Embeddings and layers of BERT-base's width."""

    def __init__(
        self, layers: int = 3, width: int = 768, heads: int = 12, words: int = 1000, places: int = 128
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.register_buffer("ids", torch.arange(places))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.words(tokens) + self.places(self.ids[: tokens.shape[1]]))
        for layer in self.layers:
            x = layer(x)
        return x


Make = Callable[[], tuple[nn.Module, Tensor]]
MODELS: dict[str, Make] = {
    "resnet18": lambda: (resnet18(), torch.randn(8, 3, 96, 96)),
    "bert": lambda: (Bert(), torch.randint(0, 1000, (4, 64))),
}


def exported(native: nn.Module, inputs: Tensor) -> OnnxModule:
    """The module of the file that a native one is exported to; the batch and the second axis of tokens are dynamic."""
    axes = {0: "batch", 1: "sequence"} if inputs.dim() == 2 else {0: "batch"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_for_growth(native, (inputs,), Path(folder) / "m.onnx", input_names=["x"], dynamic_axes={"x": axes})
        return OnnxModule(Path(folder) / "m.onnx")


def stepper(module: nn.Module, inputs: Tensor, compiled: bool) -> Callable[[], float]:
    """Does one training step and gives its seconds."""
    run: Any = torch.compile(module) if compiled else module
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)

    def wait() -> None:
        if inputs.is_cuda:
            torch.cuda.synchronize()

    def step() -> float:
        wait()
        began = time.perf_counter()
        run(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        wait()
        return time.perf_counter() - began

    return step


def compare(name: str, steps: int, compiled: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Medians of both, their ratio, and the quartiles of the ratios of neighbouring steps."""
    torch.manual_seed(0)
    native, inputs = MODELS[name]()
    module = exported(native, inputs).to(device).train()
    native, inputs = native.to(device).train(), inputs.to(device)
    ours, theirs = stepper(module, inputs, compiled), stepper(native, inputs, compiled)
    pairs = []
    for turn in range(steps + 2):
        # Neither is always the one that finds the caches warm.
        a, b = (ours(), theirs()) if turn % 2 else reversed((theirs(), ours()))
        pairs.append((a, b))
    pairs = pairs[2:]
    medians = [statistics.median(p[i] for p in pairs) for i in (0, 1)]
    quartiles = statistics.quantiles([a / b for a, b in pairs], n=4)
    return {"model": name, "ours": medians[0], "native": medians[1], "ratio": medians[0] / medians[1], "q": quartiles}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Step time of OnnxModule against the native module.")
    parser.add_argument("--only", action="append", choices=sorted(MODELS), help="models by name")
    parser.add_argument("--steps", type=int, default=20, help="of each")
    parser.add_argument("--compiled", action="store_true", help="both through torch.compile")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    for name in options.only or sorted(MODELS):
        found = compare(name, max(options.steps, 2), options.compiled, options.device)
        low, _, high = found["q"]
        print(
            f"{name} {'compiled' if options.compiled else 'eager'} on {options.device}: "
            f"{found['ratio']:.3f} times the native step (quartiles {low:.3f} to {high:.3f}; "
            f"{1e3 * found['ours']:.0f} and {1e3 * found['native']:.0f} ms)",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
