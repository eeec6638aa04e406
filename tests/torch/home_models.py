"""Small PyTorch classes that are exported, grown and brought home again, and how."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import nn

import onnxgrow
from onnxgrow.torch import export_for_growth


class Encoder(nn.Module):
    """A BERT-like layer over tokens, with an output projection tied to the embedding."""

    def __init__(self, hidden=12, tied=True):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.query, self.key, self.value, self.dense = (nn.Linear(8, 8) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.register_buffer("ids", torch.arange(5))
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.places(self.ids)

        def heads(t):
            return t.reshape(-1, 5, 2, 4).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = self.norm1(x + self.dense(a.transpose(1, 2).reshape(-1, 5, 8)))
        x = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return self.head(x)


class Residual(nn.Module):
    """A ResNet-like block with batch normalisation."""

    def __init__(self, wide=6):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv1, self.bn1 = nn.Conv2d(5, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, hidden=6, kind="LSTM", two_way=False):
        super().__init__()
        self.lstm = getattr(nn, kind)(4, hidden, batch_first=True, bidirectional=two_way)
        self.head = nn.Linear(hidden * (1 + two_way), 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


TOKENS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(3))
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
SERIES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3))
CLASSES = {
    "encoder": (Encoder, "hidden", 12, TOKENS, "up.weight"),
    "residual": (Residual, "wide", 6, IMAGES, "conv1.weight"),
    "recurrent": (Recurrent, "hidden", 6, SERIES, "lstm.weight_hh_l0"),
    "two-way LSTM": (functools.partial(Recurrent, two_way=True), "hidden", 6, SERIES, "lstm.weight_hh_l0"),
    "two-way GRU": (functools.partial(Recurrent, kind="GRU", two_way=True), "hidden", 6, SERIES, "lstm.weight_hh_l0"),
    "two-way RNN": (functools.partial(Recurrent, kind="RNN", two_way=True), "hidden", 6, SERIES, "lstm.weight_hh_l0"),
}


def randomised(module, seed=0):
    """With values that no two tensors share, but for LayerNorm's, which stay as they are made."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and "norm" not in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 - (0.0 if "var" in name else 0.3))
    return module.eval()


def default_export(module, inputs, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (inputs,), str(path), dynamo=False, opset_version=17, input_names=["x"])


def kept_export(module, inputs, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_for_growth(module, (inputs,), path, input_names=["x"])


def stored(module, path):
    state = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def layer(kind, module, path):
    """What to widen in an exported file: a weight, or the channel set of the hidden state, whatever they are called."""
    if CLASSES[kind][4] == "lstm.weight_hh_l0":
        return next(s.name for s in onnxgrow.inspect(path, provider="cpu").analysis.sets if s.size == 6)
    return layer_of(path, module, CLASSES[kind][4])


def layer_of(source, module, key):
    """The initializer that holds a weight, whatever the exporter called it."""
    wanted = module.state_dict()[key].numpy()
    for tensor in onnx.load(source).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if any(np.array_equal(array, w) for w in (wanted, wanted.T)):
            return tensor.name
    return key
