"""What a weight is computed from: back from the op that uses it to constants, through ops that only compute weights.

A product of two constants is a part of that. A layer whose data is computed by other ops is none, though it is
constant: it grows as layers do, by its own weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrow.analysis.network import Network, Site

__all__ = ["KEPT_BY_ZEROS", "PRODUCTS", "Path", "behind"]

KEPT_BY_ZEROS = frozenset("LpNormalization ReduceL1 ReduceL2 ReduceSum ReduceSumSquare".split())
"""Ops over an axis that zeros add nothing to."""
PRODUCTS = frozenset(("Gemm", "MatMul"))
FACTORS = PRODUCTS | frozenset(
    "Cast CastLike Div Expand Flatten Identity Mul Neg Reshape Squeeze Transpose Unsqueeze".split()
)
"""Ops that the factors of a product may come from: behind others it is a layer, which only reads constants."""
FOLLOWED = (
    FACTORS
    | KEPT_BY_ZEROS
    | frozenset(
        "Abs Add BatchNormalization Clip Concat Max Min Pad Pow Reciprocal ReduceMean Slice Split Sqrt Sub Sum Tile "
        "Where".split()
    )
)
"""Ops that compute weights from constants and products of them."""
PARAMETERS = frozenset("Exp Sigmoid Softplus Tanh".split())
"""Ops that may make a constant what it is used as: positive, or within bounds."""


@dataclass(frozen=True)
class Path:
    """What lies between a constant and the weight that it helps to compute.

    Attributes:
        layer: A product, or a function of single entries; empty where there is neither.
        statistic: Whether it enters through a statistic.
    """

    layer: str = ""
    statistic: bool = False

    def through(self, node: ir.Node) -> tuple[Path, bool]:
        """The path behind a node too, and whether such a node is followed there."""
        inside = FACTORS if self.layer in PRODUCTS else FOLLOWED - PRODUCTS
        allowed = inside if self.layer else FOLLOWED | PARAMETERS
        layer = node.op_type if node.op_type in PRODUCTS | PARAMETERS else self.layer
        return Path(layer, self.statistic or node.op_type.startswith("Reduce")), node.op_type in allowed


def behind(network: Network, site: Site) -> tuple[dict[Site, list[Path]], list[ir.Node], list[ir.Node]]:
    """What a value is computed from.

    Returns:
        The real-valued constants, where they are read; the ops between, in order; and layers, whose other operand is
        computed by itself: they are not looked behind. All empty where one of the ops is not followed.
    """
    found: dict[Site, list[Path]] = {}
    layers: list[ir.Node] = []
    seen: dict[ir.Node, set[Path]] = {}
    stack: list[tuple[Site, Path]] = [(site, Path())]
    while stack:
        (node, index), path = stack.pop()
        value = node.inputs[index]
        name = (value.name if value is not None else None) or ""
        if name in network.tensors:
            found.setdefault((node, index), []).append(path)
            continue
        producer = network.producer(name)
        if producer is None or name not in network.derived or producer.domain not in ("", "ai.onnx"):
            return {}, [], []
        path, followed = path.through(producer)
        if not followed:
            return {}, [], []
        if producer.op_type in PRODUCTS and not all(_is_factor(network, producer, i) for i in range(2)):
            layers.append(producer)
            continue
        if path in seen.setdefault(producer, set()):
            continue
        seen[producer].add(path)
        read = [i for i in range(len(producer.inputs)) if _is_real(network, producer, i)]
        beside = replace(path, statistic=True) if producer.op_type == "BatchNormalization" else path
        stack += [((producer, i), path if i == 0 else beside) for i in reversed(read)]
    order = {node: place for place, node in enumerate(network.nodes)}
    return found, sorted(seen, key=order.__getitem__), list(dict.fromkeys(layers))


def _is_factor(network: Network, node: ir.Node, index: int) -> bool:
    """Whether an operand is made of stored constants by ops that a factor of a product may come from."""
    stack = [(node, index)]
    while stack:
        reader, i = stack.pop()
        value = reader.inputs[i]
        name = (value.name if value is not None else None) or ""
        producer = network.producer(name)
        if name in network.tensors:
            continue
        if producer is None or producer.op_type not in FACTORS or producer.domain not in ("", "ai.onnx"):
            return False
        stack += [(producer, k) for k in range(len(producer.inputs)) if _is_real(network, producer, k)]
    return True


def _is_real(network: Network, node: ir.Node, index: int) -> bool:
    """Whether an input holds real numbers, and not a shape, an axis or a choice."""
    value = node.inputs[index]
    name = (value.name if value is not None else None) or ""
    tensor = network.tensors.get(name)
    dtype = tensor.dtype if tensor is not None else network.concrete.dtypes.get(name)
    return dtype is not None and dtype.is_floating_point()
