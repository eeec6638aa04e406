"""Networks made here that fit no other family: graphs, experts, recommenders, features of many kinds.

Message passing (https://arxiv.org/abs/1704.01212), graph attention (https://arxiv.org/abs/1710.10903), sparsely gated
experts (https://arxiv.org/abs/1701.06538), factorisation of crossed features (https://arxiv.org/abs/1703.04247).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tools.exports.case import Build, Case

__all__ = ["NETWORKS"]


class MessagePassing(nn.Module):
    """Two rounds of messages along edges, summed at the nodes they lead to; the whole graph is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(6, 16)
        self.message = nn.ModuleList(nn.Linear(32, 20) for _ in range(2))
        self.update = nn.ModuleList(nn.Linear(36, 16) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.entry(x))
        source, target = edges[0], edges[1]
        for message, update in zip(self.message, self.update, strict=True):
            sent = torch.relu(message(torch.cat([x[source], x[target]], -1)))
            got = torch.zeros(x.shape[0], 20).index_add(0, target, sent)
            x = torch.relu(update(torch.cat([x, got], -1)))
        return self.head(x.mean(0, keepdim=True))


class GraphAttention(nn.Module):
    """A layer of graph attention with two heads over an adjacency matrix, and a graph convolution."""

    def __init__(self, heads: int = 2, size: int = 8) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.project = nn.Linear(6, heads * size)
        self.source = nn.Parameter(torch.randn(1, heads, size))
        self.target = nn.Parameter(torch.randn(1, heads, size))
        self.convolve = nn.Linear(heads * size, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        h = self.project(x).view(-1, self.heads, self.size)
        score = (h * self.source).sum(-1)[:, None] + (h * self.target).sum(-1)[None]
        score = functional.leaky_relu(score, 0.2).masked_fill((adjacency == 0)[:, :, None], -1e9)
        h = torch.einsum("ijh,jhs->ihs", torch.softmax(score, 1), h).flatten(1)
        degree = adjacency.sum(1, keepdim=True)
        h = functional.elu(self.convolve((adjacency @ h) / degree))
        return self.head(h)


class Experts(nn.Module):
    """Two of four experts for each row, by the best scores; all run, masks choose."""

    def __init__(self, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.entry = nn.Linear(8, 16)
        self.gate = nn.Linear(16, experts)
        self.up = nn.Parameter(0.3 * torch.randn(experts, 16, 24))
        self.down = nn.Parameter(0.3 * torch.randn(experts, 24, 16))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        self.chosen = chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.entry(x))
        best, index = torch.topk(self.gate(x), self.chosen)
        share = torch.zeros_like(self.gate(x)).scatter(1, index, torch.softmax(best, -1))
        hidden = functional.gelu(torch.einsum("bi,eih->beh", x, self.up))
        mixed = torch.einsum("beh,eho,be->bo", hidden, self.down, share)
        return self.head(self.norm(x + mixed))


class Crossed(nn.Module):
    """A recommender: bags of embeddings and numbers, crossed pairwise, a wide and a deep part."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 8) for n in (11, 13, 17))
        self.numbers = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8))
        self.wide = nn.Linear(5, 1)
        self.deep = nn.Sequential(nn.Linear(32 + 16, 20), nn.Dropout(), nn.Mish(), nn.Linear(20, 1))

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        rows = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        rows.append(self.numbers(numbers))
        stacked = torch.stack(rows, 1)
        pairs = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        return torch.sigmoid(self.wide(numbers) + self.deep(torch.cat([*rows, pairs], 1)))


class Spectral(nn.Module):
    """A multilayer perceptron with batch and group norms, maxout, gated units, a low-rank layer and a bilinear head."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.maxout = nn.Linear(16, 24)
        self.gated, self.group = nn.Linear(12, 32), nn.GroupNorm(4, 16)
        self.left, self.right = nn.Linear(16, 5, bias=False), nn.Linear(5, 16)
        self.head = nn.Parameter(0.3 * torch.randn(3, 16, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.entry(x)))
        m = self.maxout(x).view(-1, 12, 2).amax(-1)
        g = self.group(functional.glu(self.gated(m), -1))
        return torch.einsum("bi,oij,bj->bo", g + self.right(self.left(g)), self.head, m)


def _message_passing() -> Case:
    edges = torch.stack([torch.randint(0, 7, (12,)), torch.randint(0, 7, (12,))])
    inputs = {"x": torch.randn(7, 6), "edges": edges}
    dynamic = {"x": {0: "nodes"}, "edges": {1: "edges"}}
    # Without constant folding the older exporter writes sums over equal targets as a scatter that keeps one of them.
    return Case(MessagePassing(), inputs, ["logits"], dynamic, ("legacy", "dynamo"))


def _graph_attention() -> Case:
    adjacency = (torch.rand(7, 7) < 0.4).float() + torch.eye(7)
    return Case(GraphAttention(), {"x": torch.randn(7, 6), "adjacency": adjacency}, ["logits"])


def _rows(module: nn.Module, features: int) -> Case:
    return Case(module, {"x": torch.randn(3, features)}, ["y"], {"x": {0: "batch"}})


def _crossed() -> Case:
    inputs = {"ids": torch.randint(0, 11, (3, 3)), "numbers": torch.randn(3, 5)}
    return Case(Crossed(), inputs, ["probability"], {name: {0: "batch"} for name in inputs})


NETWORKS: dict[str, Build] = {
    "torch_messages": _message_passing,
    "torch_graph_attention": _graph_attention,
    "torch_experts": lambda: _rows(Experts(), 8),
    "torch_crossed": _crossed,
    "torch_perceptron": lambda: _rows(Spectral(), 6),
}
