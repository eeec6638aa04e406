"""Layer normalisation before it was an op (opset 17), as exporters write it out.

Source: Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.concrete.values import constant_of
from onnxgrow.torch.fusion.chain import Facts, Fusion, Site, made_by, operands
from onnxgrow.torch.registry import Kernel

__all__ = ["layer_norm"]

Nodes = tuple[ir.Node, ...]


def layer_norm(last: ir.Node, facts: Facts) -> Iterator[Fusion]:
    """(x − mean) / √(variance + ε) over the last axis, perhaps times a vector, perhaps plus one."""
    bias: tuple[Site, ...] = ()
    weight: tuple[Site, ...] = ()
    for scaled, nodes, bias in _without(last, "Add", facts):
        for quotient, more, weight in _without(scaled, "Mul", facts):
            for site, epsilon, core in _standardised(quotient, facts):
                absorbed = tuple(n for n in (*nodes, *more, quotient, *core) if n is not last)
                yield Fusion(_kernel(epsilon, bool(weight), bool(bias)), (site, *weight, *bias), absorbed)


def _without(node: ir.Node, op_type: str, facts: Facts) -> Iterator[tuple[ir.Node, Nodes, tuple[Site, ...]]]:
    """(node before, nodes, where the vector is read) for an operation with a vector; and the node itself without it."""
    if node.op_type != op_type:
        yield node, (), ()
        return
    for side, other in operands(node):
        before = made_by(node.inputs[side], "Mul", "Div")
        if before is not None and facts.rank(node.inputs[other]) == 1:
            yield before, (node, before), ((node, other),)


def _kernel(epsilon: float, weighted: bool, biased: bool) -> Kernel:
    def run(x: Tensor, *vectors: Tensor) -> Tensor:
        shape = x.shape[-1:]
        w = vectors[0] if weighted else None
        b = vectors[-1] if biased else None
        if all(v.shape == shape and v.dtype == x.dtype for v in vectors):
            return F.layer_norm(x, shape, w, b, epsilon)
        y = F.layer_norm(x, shape, None, None, epsilon)  # vectors of one entry, or of more than x has
        y = y if w is None else torch.mul(y, w)
        return y if b is None else torch.add(y, b)

    return run


def _standardised(quotient: ir.Node, facts: Facts) -> Iterator[tuple[Site, float, Nodes]]:
    """(where x is read, ε, inner nodes) of (x − mean) / √(mean((x − mean)²) + ε)."""
    if quotient.op_type != "Div":
        return
    root = made_by(quotient.inputs[1], "Sqrt")
    centred = made_by(quotient.inputs[0], "Sub")
    shifted = made_by(root.inputs[0], "Add") if root is not None else None
    if root is None or centred is None or shifted is None:
        return
    x = centred.inputs[0]
    for side, other in operands(shifted):
        epsilon, variance = facts.number(shifted.inputs[other]), made_by(shifted.inputs[side], "ReduceMean")
        if epsilon is None or variance is None or not _over_last_axis(variance):
            continue
        square = made_by(variance.inputs[0], "Pow", "Mul")
        if square is None:
            continue
        pair = [square.inputs[0]] if square.op_type == "Pow" else list(square.inputs)
        if square.op_type == "Pow" and facts.number(square.inputs[1]) != 2.0:
            continue
        deviations = [_deviation(value, x) for value in (quotient.inputs[0], *pair)]
        if all(deviations):
            yield (centred, 0), epsilon, (root, shifted, variance, square, *(n for d in deviations for n in d))


def _deviation(value: ir.Value | None, x: ir.Value | None) -> Nodes:
    """The nodes of x − mean(x), which exporters may write twice; none if it is something else."""
    node = made_by(value, "Sub")
    mean = made_by(node.inputs[1], "ReduceMean") if node is not None and node.inputs[0] is x else None
    return (
        (node, mean) if node is not None and mean is not None and mean.inputs[0] is x and _over_last_axis(mean) else ()
    )


def _over_last_axis(node: ir.Node) -> bool:
    attribute, keep = node.attributes.get("axes"), node.attributes.get("keepdims")
    if keep is not None and not keep.as_int():
        return False
    if attribute is not None:
        axes = list(attribute.as_ints())
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        producer = given.producer() if given is not None else None
        tensor = constant_of(producer) if producer is not None else given.const_value if given is not None else None
        if tensor is None:
            return False
        axes = [int(a) for a in tensor.numpy().reshape(-1)]
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return axes == [-1] or (shape is not None and axes == [len(shape) - 1])
