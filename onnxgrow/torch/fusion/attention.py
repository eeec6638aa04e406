"""Attention: two products with a softmax between them. Kernel:
https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.fusion.chain import Facts, Fusion, Site, made_by, operands, unmoved
from onnxgrow.torch.registry import Kernel

__all__ = ["attention"]

_DEPTH = 12


@dataclass(frozen=True)
class _Scaled:
    """A value that is another one multiplied by numbers.

    Attributes:
        site: Where the other one is read.
        factor: Product of the constant ones.
        numbers: Where the further ones, computed from sizes, are read, and whether they divide.
        nodes: What multiplies.
    """

    site: Site
    factor: float = 1.0
    numbers: tuple[tuple[Site, bool], ...] = ()
    nodes: tuple[ir.Node, ...] = ()


def attention(last: ir.Node, facts: Facts) -> Iterator[Fusion]:
    """softmax(scale · q kᵀ + mask) v, the scale perhaps in parts on q and k, the mask perhaps absent."""
    weights, casts = unmoved(last.inputs[0])
    softmax = made_by(weights, "Softmax")
    if softmax is None or not _is_over_keys(softmax, facts):
        return
    before, more = unmoved(softmax.inputs[0])
    inside = (*casts, softmax, *more)
    add = made_by(before, "Add")
    if add is None:
        yield from _of_scores(last, before, (), inside, facts)
        return
    for side, other in operands(add):
        yield from _of_scores(last, add.inputs[side], ((add, other),), (*inside, add), facts)


def _is_over_keys(softmax: ir.Node, facts: Facts) -> bool:
    axis = softmax.attributes.get("axis")
    return axis.as_int() == -1 if axis is not None else facts.version >= 13


def _of_scores(
    last: ir.Node, scores: ir.Value | None, mask: tuple[Site, ...], inside: tuple[ir.Node, ...], facts: Facts
) -> Iterator[Fusion]:
    whole = _scaled(scores, None, facts)
    product = made_by(whole.site[0].inputs[whole.site[1]] if whole is not None else scores, "MatMul")
    if product is None:
        return
    q, k = (_scaled(product.inputs[i], (product, i), facts) for i in (0, 1))
    assert q is not None
    assert k is not None
    parts = [whole or _Scaled((last, 0)), q, k]
    numbers = [(site, part, divides) for part, scaled in enumerate(parts) for site, divides in scaled.numbers]
    inputs = (q.site, k.site, (last, 1), *mask)
    nodes = (*inside, product, *(node for part in parts for node in part.nodes))
    kernel = _kernel(math.prod(p.factor for p in parts), bool(mask), [(part, divides) for _, part, divides in numbers])
    positions = frozenset(range(len(inputs), len(inputs) + len(numbers)))
    yield Fusion(kernel, (*inputs, *(site for site, _, _ in numbers)), nodes, positions)


def _scaled(value: ir.Value | None, site: Site | None, facts: Facts) -> _Scaled | None:
    """What a value is before it is multiplied, or divided, by a number; with a site, the value itself otherwise."""
    node = made_by(value, "Mul", "Div")
    for side, other in operands(node) if node is not None else ():
        assert node is not None
        divides = node.op_type == "Div"
        if divides and side == 1:
            continue
        number = facts.number(node.inputs[other])
        if number is not None and number > 0:
            return _Scaled((node, side), 1 / number if divides else number, (), (node,))
        if number is None and _is_of_sizes(node.inputs[other]):
            return _Scaled((node, side), 1.0, (((node, other), divides),), (node,))
    return None if site is None else _Scaled(site)


def _is_of_sizes(value: ir.Value | None, depth: int = 0) -> bool:
    """Whether a value is computed from sizes and constants alone, such as the root of the width of a head."""
    node = value.producer() if value is not None else None
    if value is None or depth > _DEPTH:
        return False
    if node is None:
        return value.const_value is not None
    if node.op_type in ("Shape", "Size", "Constant"):
        return True
    return bool(node.inputs) and all(_is_of_sizes(v, depth + 1) for v in node.inputs if v is not None)


def _kernel(factor: float, masked: bool, numbers: list[tuple[int, bool]]) -> Kernel:
    """Takes q, kᵀ, v, the mask if there is one, and the numbers: of each, what it scales, and whether it divides."""

    def run(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        mask: Tensor | None = rest[0] if masked else None
        given = [value[0] if isinstance(value, tuple) and len(value) == 1 else value for value in rest[masked:]]
        single = not any(isinstance(value, tuple) for value in given)
        batched = q.dim() == k.dim() == v.dim() == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]
        if single and batched and (mask is None or (mask.dim() in (2, 4) and mask.dtype == q.dtype)):
            scale = factor
            for number, (_, divides) in zip(given, numbers, strict=True):
                scale = scale / number if divides else scale * number
            return F.scaled_dot_product_attention(q, k.transpose(-1, -2), v, mask, scale=scale)
        scales: list[Any] = [factor, 1.0, 1.0]
        for value, (part, divides) in zip(given, numbers, strict=True):
            number = torch.tensor(value, dtype=q.dtype, device=q.device)
            scales[part] = scales[part] / number if divides else scales[part] * number
        scores = torch.matmul(q * scales[1], k * scales[2]) * scales[0]
        return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), v)

    return run
