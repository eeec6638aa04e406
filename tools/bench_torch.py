"""Step time of OnnxModule against the native module that its file was exported from.

    python -m tools.bench_torch [--only NAME]... [--steps N] [--compiled] [--device cuda]

The module and two copies of the native one take turns, step by step (forward, backward, SGD). What is printed is the
ratio of the module's median to that of both copies together, with the quartiles over the turns, and the ratio of the
copies to each other: the noise of this very run. On a CPU one thread computes, and the processor's time is counted, to
which other programs add little; on another device it is the clock's. Seconds are for orientation only. Training mode;
the same inputs, weights and loss.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch import OnnxModule, export_for_growth

__all__ = ["MODELS", "compare", "main"]


WARM_UP = 2


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

    def now() -> float:
        if inputs.is_cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def step() -> float:
        began = now()
        run(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return now() - began

    return step


def compare(
    name: str, steps: int, compiled: bool = False, device: str = "cpu", models: Mapping[str, Make] = MODELS
) -> dict[str, Any]:
    """Medians in seconds, the ratio with its quartiles, and that of the copies: ``noise``."""
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)
    native, inputs = models[name]()
    module = exported(native, inputs)
    modules = {"ours": module, "native": native, "copy": copy.deepcopy(native)}
    inputs = inputs.to(device)
    run = {key: stepper(m.to(device).train(), inputs, compiled) for key, m in modules.items()}
    turns = []
    for turn in range(steps + WARM_UP):
        # None is always the one that finds the caches warm.
        order = [*run][turn % len(run) :] + [*run][: turn % len(run)]
        turns.append({key: run[key]() for key in order})
    turns = turns[WARM_UP:]
    medians = {key: statistics.median(t[key] for t in turns) for key in run}
    both = statistics.median(t[key] for t in turns for key in ("native", "copy"))
    low, _, high = statistics.quantiles([2 * t["ours"] / (t["native"] + t["copy"]) for t in turns], n=4)
    return {
        "model": name,
        "ours": medians["ours"],
        "native": both,
        "ratio": medians["ours"] / both,
        "quartiles": (low, high),
        "noise": medians["copy"] / medians["native"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Step time of OnnxModule against the native module.")
    parser.add_argument("--only", action="append", choices=sorted(MODELS), help="models by name")
    parser.add_argument("--steps", type=int, default=15, help="counted ones, of each")
    parser.add_argument("--compiled", action="store_true", help="both through torch.compile")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    for name in options.only or sorted(MODELS):
        found = compare(name, max(options.steps, 2), options.compiled, options.device)
        print(
            f"{name} {'compiled' if options.compiled else 'eager'} on {options.device}: "
            f"{found['ratio']:.3f} times the native step (quartiles {found['quartiles'][0]:.3f} to "
            f"{found['quartiles'][1]:.3f}; of two native copies {found['noise']:.3f}); "
            f"{1e3 * found['ours']:.0f} and {1e3 * found['native']:.0f} ms",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
