"""What a chain of nodes is, and how its matchers look at a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.torch.registry import Kernel

__all__ = ["Facts", "Fusion", "Site", "is_close", "made_by", "operands", "unmoved"]

Site = tuple[ir.Node, int]


@dataclass(frozen=True)
class Fusion:
    """What is computed in the place of a chain's last node.

    Attributes:
        kernel: Takes the values at ``inputs``.
        inputs: Where the original nodes read them.
        absorbed: The chain's nodes but for the last.
        numbers: Positions in ``inputs`` that the kernel takes as plain numbers, computed from sizes; where one is not
            known so, the chain is left apart.
    """

    kernel: Kernel
    inputs: tuple[Site, ...]
    absorbed: tuple[ir.Node, ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What is known of values before a graph runs.

    Attributes:
        number: A constant of one entry that is not trained, as a number; None for anything else.
        rank: Rank of a constant, trained or not; None for anything else.
        version: Opset version of the default domain.
    """

    number: Callable[[ir.Value | None], float | None]
    rank: Callable[[ir.Value | None], int | None]
    version: int


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, if it is one of such a type with a single output."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in op_types or node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return None
    return node


def operands(node: ir.Node) -> Iterator[tuple[int, int]]:
    """Both orders of a commutative node's operands, as positions."""
    yield 0, 1
    yield 1, 0


def unmoved(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """A value before the Casts to the type that it has, and those Casts."""
    casts: list[ir.Node] = []
    while (node := made_by(value, "Cast", "Identity")) is not None:
        source = node.inputs[0]
        same = node.op_type == "Identity" or (
            source is not None and source.dtype is not None and source.dtype == node.attributes["to"].as_int()
        )
        if not same:
            break
        casts.append(node)
        value = source
    return value, tuple(casts)


def is_close(number: float | None, wanted: float) -> bool:
    """Whether a constant is a number, to the digits that single precision has of it."""
    return number is not None and math.isclose(number, wanted, rel_tol=1e-6)
