"""Where values may be infinite: masked attention scores, and whatever is computed from constants that are.

An identity layer multiplies every value by zeros, and 0 · Inf is NaN. A body of control flow is looked through for such
constants as a whole: what it gives out, and when, is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis.network import Network, has_graph
from onnxgrow.concrete.values import constant_of, dims_of

__all__ = ["Infinities"]

CARRIES = frozenset(
    "Abs Add Cast Clip Concat DepthToSpace Div Dropout Expand Flatten Gather GatherElements GatherND Identity "
    "LeakyRelu Max Mean Min Mul Neg Pad PRelu Relu Reshape ScatterElements ScatterND Slice SpaceToDepth Split Squeeze "
    "Sub Sum Tile Transpose Trilu Unsqueeze Where".split()
)
"""Ops that pass an infinity on; behind a pooling over a border of infinities there is none left."""
MASKING = CARRIES - {"Clip", "Div"}
"""Those whose constants may be masks: a limit or a divisor is none."""
SELECTING = frozenset("Add Concat Max Min Mul Sub Sum Where".split())
ENDS = frozenset(("LogSoftmax", "Softmax"))
NEAR = 0.25
"""Part of the largest finite number from which on a constant counts as infinite: a mask of it may overflow."""
LARGEST = {
    **{name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")},
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
}
LIMIT = 1 << 22
"""Entries up to which a constant is looked at: larger ones are weights."""


class Infinities:
    """Knows which values of a network may be infinite, from its graph and constants alone."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def why(self, name: str) -> str:
        """Why a value may be infinite; empty where nothing says so."""
        return self._found.get(name, "")

    @cached_property
    def _found(self) -> dict[str, str]:
        found: dict[str, str] = {}
        before_softmax = self._before_softmax()
        for node in self._network.nodes:
            names = [v.name for v in node.inputs if v is not None and v.name]
            carries = node.op_type in CARRIES or has_graph(node)
            reason = next((found[n] for n in names if n in found), "") if carries else ""
            outputs = [o.name for o in node.outputs if o.name]
            if not reason and outputs:
                reason = self._inside(node, outputs[0])
            if not reason and node.op_type in MASKING:
                data = [n for n in names if n not in self._network.derived]
                huge = next((n for n in names if self._is_huge(n)), None)
                if huge is not None:
                    reason = f"{node.op_type} {node.name or outputs[0]} reads {huge}, which masks with huge numbers"
                elif node.op_type in SELECTING and len(data) > 1 and any(o in before_softmax for o in outputs):
                    reason = f"{node.op_type} {node.name or outputs[0]} may mask what the softmax behind it reads"
            if reason:
                found.update(dict.fromkeys(outputs, reason))
        return found

    def _inside(self, node: ir.Node, output: str) -> str:
        """Why what a node holds itself, a filling or bodies, may make what it gives out infinite."""
        filling = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
        held = [] if filling is None else [filling.as_tensor()]
        held += [t for n in _nodes_inside(node) if (t := constant_of(n)) is not None]
        held += [v.const_value for g in _graphs(node) for v in g.initializers.values() if v.const_value is not None]
        read = sorted({v.name for n in _nodes_inside(node) for v in n.inputs if v is not None and v.name})
        if any(_is_huge(t) for t in held) or any(self._is_huge(n) for n in read):
            return f"{node.op_type} {node.name or output} makes it with huge numbers"
        return ""

    def _before_softmax(self) -> set[str]:
        """Values that reach a softmax through ops that pass infinities on."""
        reached: set[str] = set()
        for node in reversed(self._network.nodes):
            passes = node.op_type in CARRIES and any(o.name in reached for o in node.outputs)
            if node.op_type in ENDS or passes:
                reached.update(v.name for v in node.inputs if v is not None and v.name)
        return reached

    def _is_huge(self, name: str) -> bool:
        tensor = self._network.tensors.get(name)
        if tensor is not None:
            return _is_huge(tensor)
        known = self._network.concrete.values.get(name) if name in self._network.derived else None
        return known is not None and known.dtype.kind == "f" and _reaches(np.asarray(known))


def _is_huge(tensor: ir.TensorProtocol) -> bool:
    floating = tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 16
    return floating and math.prod(dims_of(tensor)) <= LIMIT and _reaches(np.asarray(tensor.numpy()))


def _reaches(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    top = NEAR * LARGEST.get(values.dtype.name, np.inf)
    return bool(values.size) and not bool((np.abs(values.astype(np.float64)) < top).all())


def _graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of a node, at any depth."""
    for inner in [node, *_nodes_inside(node)]:
        for attribute in inner.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield from attribute.as_graphs()


def _nodes_inside(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
            for graph in graphs:
                yield from ir.traversal.RecursiveGraphIterator(graph)
