"""Residual blocks of a network, found from its graph: s_out = s_in + F(s_in), and layers made of several of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrow.analysis import node_key
from onnxgrow.analysis.network import Network
from onnxgrow.concrete.values import dims_of
from onnxgrow.passes.deepen.places import FLOATS
from onnxgrow.passes.deepen.unary import Activations

__all__ = ["LINEAR", "NORMS", "Residual", "find_residuals", "grouped"]

LINEAR = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
NORMS = frozenset(
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization RMSNormalization "
    "SimplifiedLayerNormalization".split()
)
SIZES = frozenset(("Shape", "Size"))
WRITTEN_OUT = frozenset("Add Cast Div Mul Pow ReduceMean Sub".split())
"""Ops that read the input of a norm which is written out."""


@dataclass(frozen=True)
class Residual:
    """One block.

    Attributes:
        start: s_in.
        end: s_out; where a ReLU follows the sum, what that makes.
        sum: The Add.
        branch: F(s_in).
        nodes: Those of F, producers first.
        relu: The ReLU behind the sum.
        reason: Why s_out is no place for another block; empty where it is one.
    """

    start: str
    end: str
    sum: ir.Node
    branch: str
    nodes: tuple[ir.Node, ...]
    relu: ir.Node | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        return self.sum.name or node_key(self.sum)

    @property
    def handles(self) -> Iterator[str]:
        """Names by which it can be meant."""
        for node in (*self.nodes, self.sum, *([self.relu] if self.relu else [])):
            yield from (h for h in (node.name, *(o.name for o in node.outputs)) if h)


def find_residuals(network: Network) -> list[Residual]:
    """All residual blocks with a linear layer in them, in network order."""
    positions = {n: i for i, n in enumerate(network.nodes)}
    activations = Activations(network)
    found = [r for n in network.nodes if n.op_type == "Add" and (r := _residual(network, positions, n)) is not None]
    found = [_behind(network, activations, residual) for residual in found]
    ends = {r.end for r in found}
    return [_normalised(network, r) if r.start not in ends else r for r in found]


def _names(node: ir.Node) -> list[str]:
    return [v.name for v in node.inputs if v is not None and v.name]


def _residual(network: Network, positions: dict[ir.Node, int], add: ir.Node) -> Residual | None:
    names = _names(add)
    shape = network.shape(node_key(add))
    if len(names) != 2 or shape is None or any(network.shape(n) != shape or n in network.derived for n in names):
        return None
    for given, branch in (names, names[::-1]):
        start = _stream(network, given)
        nodes = _without_shared(network, add, start, _between(network, positions, start, branch))
        if any(n.op_type in LINEAR and any(name in network.derived for name in _names(n)[1:]) for n in nodes):
            return Residual(start, node_key(add), add, branch, nodes)
    return None


def _stream(network: Network, name: str) -> str:
    """The value that another one equals, through casts to its own type that an exporter left."""
    dtypes = network.concrete.dtypes
    maker = network.producer(name)
    while maker is not None and maker.op_type in ("Cast", "Identity"):
        before = _names(maker)[0]
        if before in network.derived or dtypes.get(before) is None or dtypes.get(before) != dtypes.get(name):
            break
        name, maker = before, network.producer(before)
    return name


def _between(network: Network, positions: dict[ir.Node, int], start: str, end: str) -> tuple[ir.Node, ...]:
    """Nodes on the ways from one value to another; none where there is no way."""
    maker = network.producer(start)
    first = positions[maker] if maker is not None else -1
    seen: set[ir.Node] = set()
    pending = [end]
    while pending:
        name = pending.pop()
        node = network.producer(name) if name != start and name not in network.derived else None
        if node is not None and node not in seen and positions[node] > first:
            seen.add(node)
            pending += _names(node)
    reached = {start}
    ways = []
    for node in sorted(seen, key=positions.__getitem__):
        if any(n in reached for n in _names(node)):
            reached.update(o.name for o in node.outputs if o.name)
            ways.append(node)
    return tuple(ways) if end in reached and end != start else ()


def _without_shared(network: Network, add: ir.Node, start: str, nodes: tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
    """The nodes without those that know no more of the stream than its sizes and make what others read, too.

    An exporter makes a mask once, from the shape of the first block's input; a copy has the same sizes and reads the
    same mask.
    """
    carried = {start}
    for node in nodes:
        if node.op_type not in SIZES and any(n in carried for n in _names(node)):
            carried.update(o.name for o in node.outputs if o.name)
    sizes = [n for n in nodes if not any(o.name in carried for o in n.outputs)]
    kept = set(nodes)
    dtypes, known = network.concrete.dtypes, network.concrete.values

    def is_shared(node: ir.Node) -> bool:
        names = [o.name for o in node.outputs if o.name]
        readers = [n for name in names for n, _ in network.uses(name)]
        floating = any(dtypes.get(name) in FLOATS and name not in known for name in names)
        outside = [n for n in readers if n not in kept and n is not add]
        return (floating and bool(outside)) or (len(outside) == len(readers) > 0)

    for node in reversed(sizes):
        if is_shared(node):
            kept.discard(node)
    return tuple(n for n in nodes if n in kept)


def _behind(network: Network, activations: Activations, residual: Residual) -> Residual:
    """With the ReLU that follows the sum; another activation there is a reason."""
    readers = [n for n, _ in network.uses(residual.end)]
    if len(readers) == 1 and readers[0].op_type == "Relu" and not readers[0].domain:
        return replace(residual, relu=readers[0], end=node_key(readers[0]))
    for activation in activations.all() if readers else ():
        if activation.input == residual.end and all(n in activation.nodes for n in readers):
            last = next(n for n in activation.nodes if activation.output in (o.name for o in n.outputs))
            name = last.name or activation.output
            return replace(residual, reason=f"its sum goes through an activation ({name}) that twice is not once")
    return residual


def _normalised(network: Network, residual: Residual) -> Residual:
    """A post-norm block has a reason: LN(x + 0) is not x."""
    readers = [n for n, _ in network.uses(residual.end)]
    inside = [n for n in residual.nodes if residual.start in _names(n)]
    if readers and _only_norms(readers) and not _only_norms(inside):
        norm = readers[0].name or node_key(readers[0])
        return replace(residual, reason=f"it is post-norm: its sum is normalised ({norm}) before anything reads it")
    return residual


def _only_norms(readers: Iterable[ir.Node]) -> bool:
    kinds = {n.op_type for n in readers}
    return kinds <= NORMS or (kinds <= WRITTEN_OUT and bool(kinds & {"ReduceMean", "Pow"}))


def grouped(network: Network, residuals: list[Residual]) -> list[tuple[Residual, ...]]:
    """Layers: as many residual blocks of a chain as repeat themselves, such as attention and MLP; in network order."""
    by_start = {r.start: r for r in residuals}
    ends = {r.end for r in residuals}
    layers = []
    for first in (r for r in residuals if r.start not in ends):
        chain = [first]
        while chain[-1].end in by_start and by_start[chain[-1].end] not in chain:
            chain.append(by_start[chain[-1].end])
        period = _period([_signature(network, r) for r in chain])
        layers += [tuple(chain[i : i + period]) for i in range(0, len(chain), period)]
    order = {r.end: i for i, r in enumerate(residuals)}
    return sorted(layers, key=lambda layer: order[layer[0].end])


def _signature(network: Network, residual: Residual) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
    """Its layers, with the shapes of what they hold."""
    found = []
    for node in residual.nodes:
        held = [n for n in _names(node)[1:] if n in network.derived] if node.op_type in LINEAR else []
        if held:
            tensor = network.tensors.get(held[0])
            found.append((node.op_type, dims_of(tensor) if tensor is not None else network.shape(held[0])))
    return tuple(found)


def _period(items: list[tuple[tuple[str, tuple[int, ...] | None], ...]]) -> int:
    """The shortest stretch that the whole list repeats, at least twice; 1 where there is none."""
    lengths = range(1, math.floor(len(items) / 2) + 1)
    return next((p for p in lengths if len(items) % p == 0 and items[p:] == items[:-p]), 1)
