"""What of a graph is trained, what is a running statistic, and why the rest is neither.

A floating-point constant is trained when it is used where parameters are (weights, biases, scales, embeddings) and
what it is used on carries data. Numbers such as the √2 of a GELU, masks, and tables of frequencies are not. A weight
may also be written as a ``ConstantOfShape`` of a stored shape: one number in the file, trained entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.values import constant_of, dims_of, filled_of
from onnxgrow.torch.ops.quantization import is_straight_through, quantizer_of
from onnxgrow.torch.registry import Op, find_op

__all__ = ["ROLE_KEY", "Leaf", "Leaves", "Site", "all_graphs", "constant_values", "filled_values", "find_leaves"]

ROLE_KEY = "onnxgrow.role"
"""Metadata of an initializer that says it is a parameter whatever it looks like; its value is the kind."""

Site = tuple[ir.Node, int]
MOVES = frozenset(
    "Identity Cast CastLike Transpose Reshape Squeeze Unsqueeze Flatten Expand Tile Slice Split Pad Dropout".split()
)
NUMBERS = frozenset(["Add", "Sub", "Mul", "Div", "Sum", "Mean", "Pow"])
"""Ops in which a single number is more often a constant than a parameter."""
LINEAR = frozenset(["MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul"])
STATISTICS = {"BatchNormalization": (3, 4)}
DISCRETE = frozenset(
    "Shape Size ArgMax ArgMin NonZero Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor IsNaN IsInf".split()
)
"""Ops whose results are integers or truth values."""
MASKED = -1e4


@dataclass(frozen=True)
class Leaf:
    """A tensor of the module that the graph reads.

    Attributes:
        name: Initializer's name (or the output of the node that makes it), unique. Where uses of one initializer
            were taken apart, the further ones are called after the value or node that they go into.
        value: The constant it starts from.
        tensor: Its data.
        kind: ``parameter`` or ``statistic``.
        sites: Where it is read; None for everywhere.
        role: What its metadata call it, e.g. ``actiswitch``.
    """

    name: str
    value: ir.Value
    tensor: ir.TensorProtocol
    kind: Literal["parameter", "statistic"]
    sites: tuple[Site, ...] | None = None
    role: str = ""


@dataclass
class Leaves:
    """All leaves, and the floating-point constants that are none.

    Attributes:
        leaves: Parameters and statistics, in the order of the graph.
        frozen: Name of a floating-point constant with more than one entry → why it is not trained.
        numbers: Names of those with one entry, or one number that a ConstantOfShape repeats.
    """

    leaves: list[Leaf] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and all that its nodes hold, in a fixed order."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from all_graphs(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from all_graphs(inner)


def constant_values(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Initializers and outputs of Constant nodes of a graph itself."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield value, value.const_value
    for node in graph:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.outputs[0].name:
            tensor = constant_of(node)
            if tensor is not None:
                yield node.outputs[0], tensor


def filled_values(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Outputs of ConstantOfShape nodes whose shape is stored, of a graph itself; those of one entry are numbers."""
    for node in graph:
        if node.op_type == "ConstantOfShape" and node.domain in ("", "ai.onnx") and node.outputs[0].name:
            tensor = filled_of(node)
            if tensor is not None and math.prod(dims_of(tensor)) > 1:
                yield node.outputs[0], tensor


def find_leaves(model: ir.Model, trainable: Sequence[str], frozen: Sequence[str]) -> Leaves:
    """Decide what of a model is trained.

    Args:
        model: The model, functions inlined.
        trainable, frozen: Shell patterns of names that are, or are not, trained whatever the rules say.
    """
    found = Leaves()
    judge = _Judge(model)
    names: set[str] = set()
    for graph in all_graphs(model.graph):
        for value, tensor in (*constant_values(graph), *filled_values(graph)):
            if not tensor.dtype.is_floating_point():
                continue
            name = value.name or ""
            filled = _is_filled(value)
            uses = list(value.uses())
            statistics = [(u.node, u.idx) for u in uses if _is_statistic(u.node, u.idx)]
            for site in statistics:
                found.leaves.append(Leaf(_name(value, site, names), value, tensor, "statistic", (site,)))
            others = [(u.node, u.idx) for u in uses if (u.node, u.idx) not in statistics]
            if statistics and not others:
                continue
            role = value.metadata_props.get(ROLE_KEY) or tensor.metadata_props.get(ROLE_KEY) or ""
            size = math.prod(dims_of(tensor))
            asked = any(fnmatchcase(name, p) for p in frozen)
            if asked:
                reason = "it was asked for"
            elif role or any(fnmatchcase(name, p) for p in trainable):
                reason = ""
            else:
                reason = judge.why_not(value, tensor)
            if reason:
                if size > 1 and (asked or not filled):
                    found.frozen[name] = reason
                else:
                    found.numbers.append(name)
            elif statistics or (len(others) > 1 and size > 1 and (filled or _one_value(np.asarray(tensor.numpy())))):
                # Exporters merge parameters that happen to be equal, such as all-ones scales: taken apart again.
                for site in others:
                    found.leaves.append(Leaf(_name(value, site, names), value, tensor, "parameter", (site,), role))
            else:
                while name in names:  # graphs side by side may use the same names
                    name += "'"
                names.add(name)
                found.leaves.append(Leaf(name, value, tensor, "parameter", None, role))
    return found


def _is_filled(value: ir.Value) -> bool:
    """Whether a ConstantOfShape makes a value."""
    producer = value.producer()
    return producer is not None and producer.op_type == "ConstantOfShape"


def _name(value: ir.Value, site: Site, taken: set[str]) -> str:
    """The constant's own name at its first use; behind an Identity, the name that the exporter gave the copy."""
    node, _ = site
    output = node.outputs[0].name or ""
    name = output if node.op_type == "Identity" else value.name or ""
    if name in taken:
        name = f"{value.name}@{output}"
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _is_statistic(node: ir.Node, index: int, depth: int = 0) -> bool:
    if node.op_type == "Identity" and depth < 8:
        return any(_is_statistic(u.node, u.idx, depth + 1) for u in node.outputs[0].uses())
    return index in STATISTICS.get(node.op_type, ())


def _one_value(array: npt.NDArray[Any]) -> bool:
    flat = array.reshape(-1)
    return bool((flat == flat[0]).all())


class _Judge:
    """Why a constant is not trained; knows of every value how much data it carries.

    Levels: 0 none (constants, shapes), 1 integers or what was computed of them, 2 floating-point data, embeddings.
    """

    def __init__(self, model: ir.Model) -> None:
        self.opsets = {("" if d == "ai.onnx" else d): v for d, v in model.opset_imports.items()}
        self.level: dict[ir.Value, int] = {}
        for graph in all_graphs(model.graph):
            for value in graph.inputs:
                if value.name not in graph.initializers:
                    integer = value.dtype is not None and not value.dtype.is_floating_point()
                    self.level[value] = 1 if integer and graph is model.graph else 2
        for graph in all_graphs(model.graph):
            for node in graph:
                level = self._level(node)
                for output in node.outputs:
                    self.level[output] = level
        self.live = _live(model)

    def _level(self, node: ir.Node) -> int:
        if node.op_type in ("Shape", "Size", "Constant"):
            return 0
        if node.op_type in ("If", "Loop", "Scan"):
            return 2
        first = node.inputs[0] if node.inputs else None
        if node.op_type == "Gather" and first is not None and _is_table(first):
            return 2
        return max((self.of(v) for v in node.inputs), default=0)

    def of(self, value: ir.Value | None) -> int:
        return 0 if value is None else self.level.get(value, 0)

    def why_not(self, value: ir.Value, tensor: ir.TensorProtocol) -> str:
        """Why a floating-point constant is not trained; empty when it is."""
        if value not in self.live and any(True for _ in value.uses()):
            return "only integers are computed of it"
        reason = "nothing reads it"
        filled = _is_filled(value)
        stack, seen = [value], {value}
        while stack:
            current = stack.pop()
            for use in current.uses():
                if filled and not self._is_for_weights(use.node, use.idx):
                    reason = "a number"  # such as what pads a sequence, an empty cache, what a table is scattered into
                    continue
                verdict = self._at(use.node, use.idx, tensor)
                if verdict == "":
                    return ""
                if verdict is None:
                    stack += [o for o in use.node.outputs if o not in seen]
                    seen.update(use.node.outputs)
                else:
                    reason = verdict
        return reason

    def _is_for_weights(self, node: ir.Node, index: int) -> bool:
        """Whether an input is a place of weights (of a product, a norm) and not of numbers, or only moved."""
        op = self._op(node)
        place = op is not None and (op.weights is None or index in op.weights)
        return node.op_type in MOVES or (place and node.op_type not in NUMBERS)

    def _op(self, node: ir.Node) -> Op | None:
        return find_op(node.domain, node.op_type, self.opsets.get("" if node.domain == "ai.onnx" else node.domain, 1))

    def _at(self, node: ir.Node, index: int, tensor: ir.TensorProtocol) -> str | None:
        """Empty: a parameter; a reason: none; None: what the node computes of it decides."""
        if index == 0 and node.op_type in ("Expand", "Tile") and math.prod(dims_of(tensor)) <= 1:
            return "a number"  # such as the zero that initial states are filled with
        if (index == 0 and node.op_type in MOVES) or node.op_type == "Concat":
            return None
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and index > 0:
            # Runtimes fuse only where the scale of a bias is the product of two others, or nearly so.
            return "a scale of quantisation"
        if node.op_type == "QuantizeLinear" and not is_straight_through(node):
            return "no gradient passes the integers of QuantizeLinear"
        op = self._op(node)
        is_parameter = op is not None and (op.weights is None or index in op.weights)
        others = max((self.of(v) for i, v in enumerate(node.inputs) if i != index), default=0)
        if not is_parameter:
            return None if others == 0 and op is not None else f"input {index} of {node.op_type} is no parameter"
        if node.op_type == "Gather":
            return "" if len(dims_of(tensor)) > 1 else "a list that is looked up in"
        if node.op_type in NUMBERS:
            reason = self._number(node, index, tensor)
            if reason:
                return reason
        elif op is not None and op.weights is not None and node.op_type not in ("MatMul", "Gemm"):
            return ""
        if others == 0:
            return "a table of frequencies" if _into_waves(node) else None
        return "a table of frequencies" if others == 1 and _into_waves(node) else ""

    def _number(self, node: ir.Node, index: int, tensor: ir.TensorProtocol) -> str:
        if math.prod(dims_of(tensor)) <= 1:
            other = node.inputs[1 - index] if node.op_type == "Add" and len(node.inputs) == 2 else None
            producer = other.producer() if other is not None else None
            linear = producer is not None and producer.op_type in LINEAR
            behind_weight = producer is not None and any(_is_constant(v) for v in producer.inputs)
            return "" if linear and behind_weight and dims_of(tensor) else "a number"
        flat = np.asarray(tensor.numpy()).reshape(-1)
        if not np.isfinite(flat).all() or float(flat.min()) <= MASKED:
            return "a mask: it holds very negative or infinite values"
        zero, one = flat == 0, flat == 1
        if zero.any() and one.any() and bool((zero | one).all()):
            return "a mask of zeros and ones"
        return ""


def _live(model: ir.Model) -> set[ir.Value]:
    """Values of which an output that is no integer is computed by way of floating-point numbers."""
    stack = [v for g in all_graphs(model.graph) for v in g.outputs if g is not model.graph or not _is_discrete(v)]
    live = set(stack)
    while stack:
        producer = stack.pop().producer()
        if producer is None:
            continue
        quantizer = quantizer_of(producer)
        for value in (*producer.inputs, *(quantizer.inputs[:1] if quantizer is not None else ())):
            if value is not None and value not in live and not _is_discrete(value):
                live.add(value)
                stack.append(value)
    return live


def _is_discrete(value: ir.Value) -> bool:
    """Whether a value is known to hold integers or truth values."""
    node = value.producer()
    if value.dtype is not None:
        return not value.dtype.is_floating_point()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    to = node.attributes.get("to") if node.op_type == "Cast" else None
    return node.op_type in DISCRETE or (to is not None and not ir.DataType(to.as_int()).is_floating_point())


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or one whose entries were moved."""
    while value is not None and (producer := value.producer()) is not None and producer.op_type in MOVES:
        value = producer.inputs[0]
    return value is not None and (value.const_value is not None or value.is_initializer())


def _is_table(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and len(dims_of(tensor)) > 1


def _into_waves(node: ir.Node) -> bool:
    """Whether all that a node computes goes, moved or scaled, into sines and cosines."""
    stack = list(node.outputs)
    found, seen = False, set(stack)
    while stack:
        for use in stack.pop().uses():
            if use.node.op_type in ("Sin", "Cos"):
                found = True
            elif use.node.op_type in MOVES | {"Concat", "Mul"}:
                stack += [o for o in use.node.outputs if o not in seen]
                seen.update(use.node.outputs)
            else:
                return False
    return found
