"""The ways of constants: from where they are stored to the op that uses them as a weight or a parameter.

Exporters and quantisers put ops between the two: transposes and reshapes, the gate reorder of an LSTM by Slice and
Concat, one QKV weight joined from three, a scale, DequantizeLinear. Such an op passes entries on, each moved or scaled
for itself, so a grown weight can be made by growing what is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from onnxgrow.analysis.network import Network

__all__ = ["QUANTISED", "REPEATS", "SCALES", "Root", "Step", "Way", "carries", "find_roots", "is_scale"]

REPEATS = frozenset(("Expand", "Tile"))
MOVES = frozenset("Identity Cast CastLike Transpose Reshape Squeeze Unsqueeze Flatten".split()) | REPEATS
"""Ops behind which a constant is still the same constant, entries moved or repeated."""
CUTS = frozenset(("Slice", "Split"))
"""Ops that pass a part of it on."""
QUANTISED = frozenset(("DequantizeLinear", "QuantizeLinear"))
SCALES = frozenset(("Mul", "Div")) | QUANTISED
"""Ops that map each entry for itself, v → v · scale + offset."""


@dataclass(frozen=True)
class Step:
    """One op on a way.

    Attributes:
        node: The op.
        index: The input by which the constant enters.
        output: The output by which it leaves.
    """

    node: ir.Node
    index: int
    output: int = 0


Way = tuple[Step, ...]
Root = tuple[str, tuple[ir.Node, int], Way]
"""A constant, the site where it enters its way, and the ops from there on."""


def carries(network: Network, node: ir.Node, index: int) -> bool:
    """Whether an op on constants passes the entries of its input ``index`` on."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Concat":
        return True
    if node.op_type in MOVES or node.op_type in CUTS:
        return index == 0
    if node.op_type in QUANTISED:
        return index == 0 and all(_is_plain(network, node, i) for i in range(1, len(node.inputs)))
    if node.op_type in ("Mul", "Div") and len(node.inputs) == 2 and (index == 0 or node.op_type == "Mul"):
        return _outweighs(network, node, index) and _is_plain(network, node, 1 - index)
    return False


def is_scale(network: Network, node: ir.Node, index: int) -> bool:
    """Whether a constant at input ``index`` only scales or shifts another one that the op passes on."""
    constant = all(o.name in network.derived for o in node.outputs)
    return (
        constant
        and node.op_type in SCALES
        and any(carries(network, node, i) for i in range(len(node.inputs)) if i != index)
    )


def _outweighs(network: Network, node: ir.Node, index: int) -> bool:
    """Whether one factor has the shape of the product, and the other one fewer entries."""
    shapes = [network.shape((v.name if v is not None else None) or "") for v in (*node.inputs, *node.outputs)]
    mine, other, out = shapes[index], shapes[1 - index], shapes[2]
    return mine is not None and other is not None and mine == out and math.prod(other) < math.prod(mine)


def _is_plain(network: Network, node: ir.Node, index: int) -> bool:
    """Whether an input is absent, or a stored constant, perhaps behind moves: one computed from weights is not."""
    value = node.inputs[index] if index < len(node.inputs) else None
    name = (value.name if value is not None else None) or ""
    if not name:
        return True
    first = name
    while first not in network.tensors:
        producer = network.producer(first)
        if producer is None or first not in network.derived or producer.op_type not in MOVES - REPEATS:
            return False
        source = producer.inputs[0]
        first = (source.name if source is not None else None) or ""
    return name in network.tensors or name in network.concrete.values


def find_roots(network: Network, site: tuple[ir.Node, int]) -> list[Root]:
    """The constants behind an input, each with its way; empty where any part of it is computed in another manner."""
    found: list[Root] = []
    stack: list[tuple[tuple[ir.Node, int], Way]] = [(site, ())]
    while stack:
        (node, index), way = stack.pop()
        value = node.inputs[index]
        name = (value.name if value is not None else None) or ""
        if name in network.tensors:
            found.append((name, (node, index), way))
            continue
        producer = network.producer(name)
        if producer is None or name not in network.derived:
            return []
        entries = [i for i in range(len(producer.inputs)) if carries(network, producer, i)]
        scaled = any(step.node.op_type in SCALES for step in way)
        if not entries or (producer.op_type in CUTS and scaled):
            return []
        output = next(k for k, o in enumerate(producer.outputs) if o.name == name)
        stack += [((producer, i), (Step(producer, i, output), *way)) for i in reversed(entries)]
    return found
