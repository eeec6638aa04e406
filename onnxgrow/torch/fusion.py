"""Chains of nodes that PyTorch has one kernel for: linear layers, the exact GELU, attention.

Exporters write these as several nodes. Computed one by one they cost memory traffic that the module which was exported
did not have. Only chains whose inner values nobody else reads are taken together; the numbers differ by rounding alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel

__all__ = ["Fusion", "find_fusions"]

Site = tuple[ir.Node, int]
Number = Callable[[ir.Value | None], float | None]
Rank = Callable[[ir.Value | None], int | None]


@dataclass(frozen=True)
class Fusion:
    """What is computed in the place of a chain's last node.

    Attributes:
        kernel: Takes the values at ``inputs``.
        inputs: Where the original nodes read them.
        absorbed: The chain's nodes but for the last.
    """

    kernel: Kernel
    inputs: tuple[Site, ...]
    absorbed: tuple[ir.Node, ...]


def find_fusions(graph: ir.Graph, number: Number, rank: Rank) -> dict[ir.Node, Fusion]:
    """Last node of a chain → its fusion, in one graph.

    Args:
        graph: The graph.
        number: A constant of one entry that is not trained, as a number; None for anything else.
        rank: Rank of a constant, trained or not; None for anything else.
    """
    found: dict[ir.Node, Fusion] = {}
    taken: set[ir.Node] = set()
    for node in graph:
        for fusion in _matches(node, number, rank):
            nodes = {node, *fusion.absorbed}
            if not nodes & taken and all(n.graph is graph for n in nodes):
                found[node] = fusion
                taken |= nodes
                break
    return found


def _matches(node: ir.Node, number: Number, rank: Rank) -> Iterator[Fusion]:
    if node.domain not in ("", "ai.onnx"):
        return
    if node.op_type == "Add":
        yield from _linear(node, rank)
    elif node.op_type == "Mul":
        yield from _gelu(node, number)
    elif node.op_type == "MatMul":
        yield from _attention(node)


def _from(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, if it is of such a type and nothing else reads the value."""
    if value is None or value.is_graph_output():
        return None
    node = value.producer()
    if node is None or node.op_type not in op_types or node.domain not in ("", "ai.onnx"):
        return None
    return node if len(list(value.uses())) == 1 and len(node.outputs) == 1 else None


def _linear(add: ir.Node, rank: Rank) -> Iterator[Fusion]:
    """x W + b for a matrix W and a vector b, the matrix perhaps transposed on its way."""
    for side in (0, 1):
        product = _from(add.inputs[side], "MatMul")
        if product is None or rank(add.inputs[1 - side]) != 1:
            continue
        weight, bias = product.inputs[1], (add, 1 - side)
        turn = _from(weight, "Transpose")
        if turn is not None and rank(turn.inputs[0]) == 2 and _order(turn) in (None, (1, 0)):
            yield Fusion(F.linear, ((product, 0), (turn, 0), bias), (product, turn))
        elif rank(weight) == 2:
            yield Fusion(lambda x, w, b: F.linear(x, w.t(), b), ((product, 0), (product, 1), bias), (product,))


def _order(node: ir.Node) -> tuple[int, ...] | None:
    attribute = node.attributes.get("perm")
    return None if attribute is None else tuple(attribute.as_ints())


def _gelu(last: ir.Node, number: Number) -> Iterator[Fusion]:
    """x · ½ · (1 + erf(x / √2)), in the orders in which it is written."""
    for half, rest in ((0, 1), (1, 0)):
        # ½ · (x · (1 + erf …)), and (½ · x) · (1 + erf …)
        inner = _from(last.inputs[rest], "Mul")
        if inner is not None and number(last.inputs[half]) == 0.5:
            for a, b in ((0, 1), (1, 0)):
                yield from _gelu_of((inner, a), inner.inputs[b], (inner,), number)
        scaled = _from(last.inputs[half], "Mul")
        for a, b in ((0, 1), (1, 0)) if scaled is not None else ():
            if scaled is not None and number(scaled.inputs[b]) == 0.5:
                yield from _gelu_of((scaled, a), last.inputs[rest], (scaled,), number)


def _gelu_of(source: Site, rest: ir.Value | None, before: tuple[ir.Node, ...], number: Number) -> Iterator[Fusion]:
    x = source[0].inputs[source[1]]
    plus = _from(rest, "Add")
    for side in (0, 1) if plus is not None else ():
        assert plus is not None
        erf = _from(plus.inputs[side], "Erf")
        if erf is None or number(plus.inputs[1 - side]) != 1.0:
            continue
        scale = _from(erf.inputs[0], "Div", "Mul")
        if scale is None or scale.inputs[0] is not x:
            continue
        wanted = math.sqrt(2.0) if scale.op_type == "Div" else math.sqrt(0.5)
        factor = number(scale.inputs[1])
        if factor is not None and math.isclose(factor, wanted, rel_tol=1e-6):
            yield Fusion(F.gelu, (source,), (*before, plus, erf, scale))


def _attention(last: ir.Node) -> Iterator[Fusion]:
    """softmax(q kᵀ) v without a mask: q and k are scaled before."""
    softmax = _from(last.inputs[0], "Softmax")
    scores = _from(softmax.inputs[0], "MatMul") if softmax is not None else None
    if softmax is None or scores is None:
        return
    attribute = softmax.attributes.get("axis")
    if attribute is not None and attribute.as_int() == -1:
        yield Fusion(_attend, ((scores, 0), (scores, 1), (last, 1)), (scores, softmax))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.dim() == k.dim() == v.dim() == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]:
        return F.scaled_dot_product_attention(q, k.transpose(-1, -2), v, scale=1.0)
    return torch.matmul(torch.softmax(torch.matmul(q, k), -1), v)
