"""Recurrent networks: LSTM and GRU layers and cells, tied embeddings, projections, attention over an encoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tools.exports.case import VOCABULARY, Build, Case

__all__ = ["NETWORKS", "Crnn"]


class Crnn(nn.Module):
    """Convolutions over a strip of text, then a bidirectional LSTM, a GRU and a classifier per column."""

    def __init__(self, hidden: int = 16, classes: int = 11) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=(2, 1), padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.lstm = nn.LSTM(12 * 4, hidden, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        columns = x.permute(0, 3, 1, 2).flatten(2)
        y, _ = self.lstm(columns)
        y, _ = self.gru(y)
        return self.head(y)


class LanguageModel(nn.Module):
    """Embedding, two recurrent layers and an output layer that is the embedding again."""

    def __init__(self, kind: type[nn.RNNBase], tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 24)
        self.rnn = kind(24, 32, num_layers=2, batch_first=True)
        self.back = nn.Linear(32, 24)
        self.head = nn.Linear(24, VOCABULARY)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.embed(ids))
        return self.head(torch.tanh(self.back(y)))


class Projected(nn.Module):
    """Bidirectional GRUs with a linear projection after each, summed with what came in; the last state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(9, 20)
        self.grus = nn.ModuleList(nn.GRU(20, 12, bidirectional=True, batch_first=True) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(24, 20) for _ in range(2))
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20 + 24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.entry(x)
        for gru, projection in zip(self.grus, self.projections, strict=True):
            y, state = gru(x)
            x = self.norm(x + torch.relu(projection(y)))
        return self.head(torch.cat([x.mean(1), state[0], state[1]], -1))


class Unrolled(nn.Module):
    """An LSTM cell, written out as linear layers and unrolled over the time steps."""

    def __init__(self, steps: int = 5) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(7, 12)
        self.head = nn.Linear(12, 4)
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 12)
        c = torch.zeros(x.shape[0], 12)
        for i in range(self.steps):
            h, c = self.cell(x[:, i], (h, c))
        return self.head(h)


class CellStep(nn.Module):
    """One step of a cell made of linear layers: the body of a loop."""

    def __init__(self, inputs: int, hidden: int, between: int) -> None:
        super().__init__()
        self.entry = nn.Linear(inputs + hidden, between)
        self.gates = nn.Linear(between, 4 * hidden)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = self.gates(torch.relu(self.entry(torch.cat([x, h], -1)))).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Looped(nn.Module):
    """A cell stepped over as many time steps as there are, between two linear layers: a Loop in ONNX when scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(7, 10)
        self.step = CellStep(10, 12, 14)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.entry(x))
        h = torch.zeros(x.shape[0], 12)
        c = torch.zeros(x.shape[0], 12)
        for i in range(x.shape[1]):
            h, c = self.step(x[:, i], h, c)
        return self.head(h)


class Translator(nn.Module):
    """An LSTM over the source, one over the target, and additive attention of the second over the first."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, 20), nn.Embedding(VOCABULARY, 20)
        self.encoder = nn.LSTM(20, 12, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTM(20, 24, batch_first=True)
        self.keys, self.queries, self.score = nn.Linear(24, 14), nn.Linear(24, 14, bias=False), nn.Linear(14, 1)
        self.merge = nn.Linear(48, 20)
        self.head = nn.Linear(20, VOCABULARY)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory, _ = self.encoder(self.source(source))
        state, _ = self.decoder(self.target(target))
        energy = self.score(torch.tanh(self.keys(memory)[:, None] + self.queries(state)[:, :, None]))
        context = functional.softmax(energy.squeeze(-1), -1) @ memory
        return self.head(torch.tanh(self.merge(torch.cat([state, context], -1))))


def _sequence(module: nn.Module, features: int, steps: int = 5, exporters: tuple[str, ...] = ()) -> Case:
    return Case(module, {"x": torch.randn(2, steps, features)}, ["logits"], {"x": {0: "batch"}}, exporters)


def _ids(module: nn.Module) -> Case:
    return Case(module, {"ids": torch.randint(0, VOCABULARY, (2, 9))}, ["logits"], {"ids": {0: "batch"}})


def _crnn() -> Case:
    # The width stays fixed: the dynamo exporter writes the number of LSTM steps into a Reshape.
    return Case(Crnn(), {"x": torch.randn(2, 1, 8, 20)}, ["logits"], {"x": {0: "batch"}})


def _translator() -> Case:
    inputs = {"source": torch.randint(0, VOCABULARY, (2, 7)), "target": torch.randint(0, VOCABULARY, (2, 6))}
    return Case(Translator(), inputs, ["logits"], {name: {0: "batch"} for name in inputs})


NETWORKS: dict[str, Build] = {
    "torch_crnn": _crnn,
    "torch_lstm_lm": lambda: _ids(LanguageModel(nn.LSTM)),
    "torch_gru_lm": lambda: _ids(LanguageModel(nn.GRU, tied=False)),
    "torch_rnn_lm": lambda: _ids(LanguageModel(nn.RNN, tied=False)),
    "torch_bigru": lambda: _sequence(Projected(), 9),
    "torch_unrolled": lambda: _sequence(Unrolled(), 7),
    "torch_loop": lambda: _sequence(torch.jit.script(Looped()), 7, exporters=("legacy", "kept")),
    "torch_translator": _translator,
}
