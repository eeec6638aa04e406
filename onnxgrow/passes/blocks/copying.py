"""Copies of residual blocks, with parameters of their own; the last linear layer of each copy holds zeros.

Copying a pre-norm transformer layer with its output projections zero is LLaMA-Pro's block expansion
(https://arxiv.org/abs/2401.02415).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.analysis.network import Network, has_graph
from onnxgrow.concrete.values import dims_of
from onnxgrow.passes.blocks.residuals import LINEAR, NORMS, Residual
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.places import FLOATS, Illegal, Place
from onnxgrow.passes.deepen.signs import never_negative

__all__ = ["Copy", "insert_copy", "moved", "planned_copy"]

MOVES = frozenset("Cast Dropout Expand Flatten Identity Reshape Slice Squeeze Transpose Unsqueeze".split())
PARAMETERS = {**dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), (1, 2)), **dict.fromkeys(NORMS, (1, 2))}
WAYS = frozenset(("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Ops that keep the zeros of a stored weight."""
QUANTISED = ("antize", "Integer", "NBits", "QAttention", "QGemm", "QLinear")
"""Parts of the names of operators on integers that stand for real numbers."""
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


@dataclass(frozen=True)
class Copy:
    """One residual block to copy.

    Attributes:
        residual: The block.
        zeroed: (node, index of its input): what has to be zero.
        copied: Constants of which the copy gets its own; what else it reads is shared.
        remade: Values that are computed from these and other constants alone.
        parameters, flops: Of the copy.
        constants: Numbers that are stored in nodes behind the place, of which it gets nodes of its own.
    """

    residual: Residual
    zeroed: frozenset[tuple[ir.Node, int]]
    copied: frozenset[str]
    remade: frozenset[str]
    parameters: int
    flops: int
    constants: frozenset[str] = frozenset()


def planned_copy(network: Network, residual: Residual) -> Copy:
    """What copying a block takes. Raises Illegal where it cannot be copied."""
    if residual.reason:
        raise Illegal(residual.reason, "copy a block whose sum is read as it is")
    for node in residual.nodes:
        _check(network, node)
    _check_closed(network, residual)
    zeroed = frozenset(_last(network, residual, residual.branch))
    inside = set(residual.nodes)
    copied: set[str] = set()
    for node in residual.nodes:
        for index, name in _indexed(node):
            if name in network.derived:
                for maker in _makers(network, name):
                    _check(network, maker)
                copied |= {r for r in _roots(network, name) if _own(network, inside, r, node, (node, index) in zeroed)}
    for node, index in zeroed:
        value = node.inputs[index]
        assert value is not None
        copied.update(_zero_roots(network, value.name or ""))
    remade = {n for node in residual.nodes for _, name in _indexed(node) for n in _remade(network, name, copied)}
    parameters = sum(math.prod(dims_of(network.tensors[n])) for n in copied)
    flops = sum(_flops(network, n) for n in residual.nodes)
    return Copy(residual, zeroed, frozenset(copied), frozenset(remade), parameters, flops)


def moved(network: Network, copy: Copy, place: Place) -> Copy:
    """A copy that goes behind another value than its block's own. Raises Illegal where it cannot."""
    start = copy.residual.start
    for variant in (network.concrete, network.other):
        here, there = (variant.shapes.get(name) for name in (place.value, start))
        if here is None or here != there:
            raise Illegal(f"it reads values of shape {there}, {place.value} has {here}")
    if network.concrete.dtypes.get(place.value) != network.concrete.dtypes.get(start):
        raise Illegal(f"it reads values of another type than {place.value}")
    if copy.residual.relu is not None and place.value not in never_negative(network):
        raise Illegal(f"a ReLU follows its sum, and {place.value} may be negative")
    positions = {o.name: i for i, n in enumerate(network.model.graph) for o in n.outputs if o.name}
    last = positions.get(place.value, -1)
    own = {o.name for n in copy.residual.nodes for o in n.outputs} | {start} | copy.copied | copy.remade
    makers = {maker for name in copy.remade for maker in _makers(network, name)}
    read = {name for node in (*copy.residual.nodes, *makers) for _, name in _indexed(node)}
    late = {name for name in read - own if positions.get(name, -1) > last}
    for name in sorted(late):
        maker = network.producer(name)
        if maker is not None and maker.op_type != "Constant":
            raise Illegal(f"it reads {name}, which is computed behind {place.value}")
    return replace(copy, constants=frozenset(late))


def _indexed(node: ir.Node) -> Iterator[tuple[int, str]]:
    return ((i, v.name) for i, v in enumerate(node.inputs) if v is not None and v.name)


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node_key(node)}"


def _check(network: Network, node: ir.Node) -> None:
    if has_graph(node):
        raise Illegal(f"{_label(node)} in it holds a subgraph")
    if node.domain not in ("", "ai.onnx", "com.microsoft") or node.op_type in {
        f.name for f in network.model.functions.values() if f.domain == node.domain
    }:
        raise Illegal(f"{_label(node)} in it is no standard operator")
    if any(word in node.op_type for word in QUANTISED):
        raise Illegal(f"{_label(node)} in it is quantised", "copy blocks before quantising")
    if node.op_type in RANDOM:
        raise Illegal(f"{_label(node)} in it draws random numbers")


def _check_closed(network: Network, residual: Residual) -> None:
    """What is made inside is read inside only; sizes and other known numbers may be shared."""
    inside = {*residual.nodes, residual.sum}
    outputs = {v.name for v in network.model.graph.outputs}
    for node in residual.nodes:
        for name in (o.name for o in node.outputs if o.name):
            if name in outputs:
                raise Illegal(
                    f"{name}, made inside it, is an output of the network, as the cache of keys and values is"
                )
            floating = network.concrete.dtypes.get(name) in FLOATS and name not in network.concrete.values
            if floating and (name in network.captured or any(n not in inside for n, _ in network.uses(name))):
                raise Illegal(f"{name}, made inside it, is read outside, too")
    inputs = {v.name for v in network.model.graph.inputs}
    for node in residual.nodes:
        for _, name in _indexed(node):
            only = name in inputs and name != residual.start and name not in network.derived
            if only and network.concrete.dtypes.get(name) in FLOATS and all(n in inside for n, _ in network.uses(name)):
                raise Illegal(f"it alone reads the input {name}, as the cache of keys and values is")


def _last(network: Network, residual: Residual, name: str) -> Iterator[tuple[ir.Node, int]]:
    """The inputs that have to be zero for a value of the block to be zero. Raises Illegal."""
    node = network.producer(name)
    if node is None or node not in residual.nodes:
        raise Illegal(f"{name}, a part of its sum, is made outside it")
    constant = [(i, n) for i, n in _indexed(node) if n in network.derived]
    data = [n for _, n in _indexed(node) if n not in network.derived]
    scalar = len(constant) == 1 and math.prod(network.shape(constant[0][1]) or (2,)) == 1
    if node.op_type in MOVES or (
        node.op_type in ("Mul", "Div") and scalar and len(data) == 1 and data[0] == _first(node)
    ):
        yield from _last(network, residual, _first(node))
    elif node.op_type == "Mul" and scalar and len(data) == 1:
        yield from _last(network, residual, data[0])
    elif node.op_type == "Add" and data:
        yield from ((node, i) for i, _ in constant)
        for part in data:
            yield from _last(network, residual, part)
    elif node.op_type in PARAMETERS and all(n not in data for i, n in _indexed(node) if i in PARAMETERS[node.op_type]):
        yield from ((node, i) for i, _ in constant if i in PARAMETERS[node.op_type])
    elif node.op_type in ("MatMul", "Mul") and len(constant) == 1:
        yield node, constant[0][0]
    else:
        raise Illegal(f"it ends in {_label(node)}, which is no layer that can hold zeros")


def _first(node: ir.Node) -> str:
    return node.inputs[0].name or "" if node.inputs and node.inputs[0] is not None else ""


def _makers(network: Network, name: str) -> set[ir.Node]:
    """The nodes that compute a value from constants alone."""
    found: set[ir.Node] = set()
    pending = [name]
    while pending:
        maker = network.producer(pending.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            pending += [n for _, n in _indexed(maker)]
    return found


def _roots(network: Network, name: str) -> set[str]:
    """The stored constants that a value is computed from."""
    read = {name}.union(*({n for _, n in _indexed(maker)} for maker in _makers(network, name)))
    return {n for n in read if n in network.tensors}


def _remade(network: Network, name: str, copied: set[str]) -> Iterator[str]:
    """The values on the way from copied constants to a value computed from constants."""
    maker = network.producer(name) if name in network.derived and name not in network.tensors else None
    if maker is not None and _roots(network, name) & copied:
        yield name
        for _, part in _indexed(maker):
            yield from _remade(network, part, copied)


def _zero_roots(network: Network, name: str) -> set[str]:
    """The one constant behind a weight that has to be zero. Raises Illegal."""
    current = name
    while current not in network.tensors:
        maker = network.producer(current)
        if maker is None or maker.op_type not in WAYS:
            raise Illegal(f"the weight {name} of its last layer is computed from other constants")
        current = _first(maker)
    return {current}


def _own(network: Network, inside: set[ir.Node], name: str, reader: ir.Node, zeroed: bool) -> bool:
    """Whether the copy gets its own of a constant. Raises Illegal for a parameter that is tied to other layers."""
    tensor = network.tensors[name]
    if tensor.dtype not in FLOATS or name not in network.model.graph.initializers:
        return zeroed or (tensor.dtype in FLOATS and math.prod(dims_of(tensor)) > 1)
    outside = [n for n in _readers(network, name) if n not in inside]
    if not outside or zeroed:
        return True
    if math.prod(dims_of(tensor)) == 1:
        return False
    if not network.is_tied(name):
        return True
    if reader.op_type in LINEAR or reader.op_type in NORMS:
        raise Illegal(f"its weight {name} is shared with {outside[0].name or node_key(outside[0])}")
    return False


def _readers(network: Network, name: str) -> set[ir.Node]:
    """The nodes that read a constant, through what is computed from constants alone."""
    found: set[ir.Node] = set()
    for node, _ in network.uses(name):
        key = node_key(node)
        found |= _readers(network, key) if key in network.derived else {node}
    return found


def _flops(network: Network, node: ir.Node) -> int:
    """2 per multiply-add of a linear layer."""
    made, read = network.shape(node_key(node)), network.shape(_first(node))
    if node.op_type not in LINEAR or made is None or not read:
        return 0
    if node.op_type in ("Gemm", "MatMul"):
        return 2 * math.prod(made) * read[-1]
    weight = network.shape(next(n for i, n in _indexed(node) if i == 1))
    return 2 * math.prod(made) * math.prod(weight[1:]) if weight else 0


def insert_copy(build: Builder, place: Place, copies: tuple[Copy, ...], value: str, scope: str) -> str:
    """Insert copies of consecutive blocks behind ``value``; returns what the readers are to read.

    Args:
        build: Of the copied model.
        place: Behind the last of the blocks.
        copies: The blocks, in network order.
        value: What stands for the place's value.
        scope: What the names of the copies start with.
    """
    for copy in copies:
        clerk = _Clerk(build, place, copy, value, scope)
        branch = clerk.branch()
        residual = copy.residual
        value = build.node(place, "Add", [value, branch], clerk.named(residual.name), of=place.value)
        if residual.relu is not None:
            name = residual.relu.name or node_key(residual.relu)
            value = build.node(place, "Relu", [value], clerk.named(name), of=place.value)
    return value


class _Clerk:
    """Copies the nodes of one block."""

    def __init__(self, build: Builder, place: Place, copy: Copy, value: str, scope: str) -> None:
        self._build, self._place, self._copy, self._scope = build, place, copy, scope
        self._names = {copy.residual.start: value}
        self._tensors: dict[tuple[str, bool], str] = {}

    def named(self, name: str) -> str:
        return f"/{self._scope}{name}" if name.startswith("/") else f"{self._scope}.{name}"

    def branch(self) -> str:
        """Copy F; returns its result."""
        for node in self._copy.residual.nodes:
            inputs = [
                self._input(v.name, (node, i) in self._copy.zeroed) if v is not None and v.name else ""
                for i, v in enumerate(node.inputs)
            ]
            made = self._build.clone(self._place, node, inputs, self.named)
            self._names.update(made)
        return self._names[self._copy.residual.branch]

    def _input(self, name: str, zero: bool) -> str:
        if name in self._names:
            return self._names[name]
        rewriter = self._build.rewriter
        if name in self._copy.copied:
            return self._tensor(name, zero)
        if name in self._copy.constants:
            maker = rewriter.value(name).producer()
            assert maker is not None
            self._names.update(self._build.clone(self._place, maker, [], self.named))
            return self._names[name]
        if name in self._copy.remade:
            maker = rewriter.value(name).producer()
            assert maker is not None
            inputs = [self._input(n, zero and i == 0) for i, n in _indexed(maker)]
            return self._build.clone(self._place, maker, inputs, self.named)[name]
        return self._build.instead.get(name, name)

    def _tensor(self, name: str, zero: bool) -> str:
        if (name, zero) not in self._tensors:
            tensor = self._build.constant(name)
            wanted = self.named(name)
            if zero:
                made = self._build.filled(0.0, dims_of(tensor), tensor.dtype, wanted)
            else:
                made = self._build.copied(name, wanted)
            self._tensors[name, zero] = made
        return self._tensors[name, zero]
