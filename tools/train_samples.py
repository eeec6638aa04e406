"""Trains the sample models in ``models/`` on scikit-learn's optical digits and writes them as ONNX files.

Needs an environment of its own, with ``torch==2.13.0`` (the CPU build), ``onnx``, ``onnxruntime``,
``onnxscript`` and ``scikit-learn``; about half a minute on one core::

    python tools/train_samples.py [--only digits_mlp] [--out models]

The exporter settings keep what growing needs: parameter names, batch normalisation as nodes of its own, and
every weight in one place. The same versions of the packages on the same kind of CPU give the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

__all__ = ["MODELS", "main", "train"]

SEED = 20
OPSET = 17
BATCH = 64
EPOCHS = 60
PEAK_RATE = 3e-3
MIN_ACCURACY = 0.95
SAMPLES = 32
DATASET = "UCI optical recognition of handwritten digits, as in scikit-learn's load_digits"

Array = npt.NDArray[np.float32]


class DigitsMlp(nn.Module):
    """64 → 32 → 32 → 10 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(64, 32)
        self.hidden2 = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(image, 1)
        x = torch.relu(self.hidden1(x))
        x = torch.relu(self.hidden2(x))
        return self.head(x)


class DigitsCnn(nn.Module):
    """Conv with batch normalisation, a residual block, a depthwise separable convolution, global pooling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.block_conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.block_bn1 = nn.BatchNorm2d(width)
        self.block_conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.block_bn2 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.pointwise_bn = nn.BatchNorm2d(2 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_bn(self.stem(image)))
        y = torch.relu(self.block_bn1(self.block_conv1(x)))
        x = torch.relu(x + self.block_bn2(self.block_conv2(y)))
        x = torch.relu(self.depthwise_bn(self.depthwise(x)))
        x = torch.relu(self.pointwise_bn(self.pointwise(x)))
        return self.head(torch.flatten(self.pool(x), 1))


class DigitsTokens(nn.Module):
    """The image rows as eight tokens: concatenated 1-D convolutions, then a pre-norm mixer block."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        stream = 3 * width
        self.branch1 = nn.Conv1d(8, width, 1)
        self.branch3 = nn.Conv1d(8, width, 3, padding=1)
        self.branch5 = nn.Conv1d(8, width, 5, padding=2)
        self.token_norm = nn.LayerNorm(stream)
        self.token_up = nn.Linear(8, 16)
        self.token_down = nn.Linear(16, 8)
        self.channel_norm = nn.LayerNorm(stream)
        self.channel_up = nn.Linear(stream, 2 * stream)
        self.channel_down = nn.Linear(2 * stream, stream)
        self.norm = nn.LayerNorm(stream)
        self.head = nn.Linear(stream, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows = image.squeeze(1).transpose(1, 2)  # Conv1d takes (batch, columns, rows)
        x = torch.cat([self.branch1(rows), self.branch3(rows), self.branch5(rows)], dim=1).transpose(1, 2)
        mixed = self.token_down(nn.functional.gelu(self.token_up(self.token_norm(x).transpose(1, 2))))
        x = x + mixed.transpose(1, 2)
        x = x + self.channel_down(nn.functional.gelu(self.channel_up(self.channel_norm(x))))
        return self.head(self.norm(x).mean(dim=1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "digits_mlp": DigitsMlp,
    "digits_cnn": DigitsCnn,
    "digits_tokens": DigitsTokens,
}


def load_data() -> tuple[Array, Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Training and held-out images, float32 (N, 1, 8, 8) in [0, 1], then their labels, int64 (N,)."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.25, random_state=SEED, stratify=labels
    )
    return x_train, x_test, y_train, y_test


def train(build: Callable[[], nn.Module], images: Array, labels: npt.NDArray[np.int64]) -> nn.Module:
    """Train a fresh model with AdamW on a one-cycle schedule; returns it in evaluation mode."""
    torch.manual_seed(SEED)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    batches = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * batches)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write ``model`` with readable names, batch normalisation kept, and a dynamic batch axis."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


def accuracy_of(path: Path, images: Array, labels: npt.NDArray[np.int64]) -> float:
    """Share of right answers that the file itself gives in ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def annotate(path: Path, accuracy: float) -> None:
    """Record in the file where it comes from."""
    model = onnx.load(path)
    onnx.helper.set_model_props(
        model,
        {
            "accuracy": f"{accuracy:.4f}",
            "dataset": DATASET,
            "split": f"held-out quarter, stratified, random_state={SEED}",
            "script": "tools/train_samples.py",
            "seed": str(SEED),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    """Train, export, measure and annotate the models asked for."""
    parser = argparse.ArgumentParser(description="Train the sample models.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "models")
    parser.add_argument("--only", choices=sorted(MODELS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the order of summation, and with it the weights, depends on it
    torch.use_deterministic_algorithms(True)
    options.out.mkdir(parents=True, exist_ok=True)
    x_train, x_test, y_train, y_test = load_data()
    for name in options.only or MODELS:
        path = options.out / f"{name}.onnx"
        export(train(MODELS[name], x_train, y_train), path)
        accuracy = accuracy_of(path, x_test, y_test)
        if accuracy < MIN_ACCURACY:
            path.unlink()
            raise SystemExit(f"{name}: accuracy {accuracy:.4f} is below {MIN_ACCURACY}")
        annotate(path, accuracy)
        print(f"{name}: accuracy {accuracy:.4f}, {path.stat().st_size} bytes")
    np.savez_compressed(options.out / "digits_sample.npz", image=x_test[:SAMPLES])


if __name__ == "__main__":
    main()
