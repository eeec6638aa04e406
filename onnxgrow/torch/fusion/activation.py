"""Activations that are written as products: both forms of GELU, SiLU, Mish, HardSwish."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import onnx_ir as ir
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.fusion.chain import Facts, Fusion, Site, is_close, made_by, operands
from onnxgrow.torch.registry import Kernel

__all__ = ["gated", "gelu"]

Nodes = tuple[ir.Node, ...]
_TANH_GELU = partial(F.gelu, approximate="tanh")


def gelu(last: ir.Node, facts: Facts) -> Iterator[Fusion]:
    """x · ½ · (1 + erf(x / √2)), and x · ½ · (1 + tanh(√(2/π) (x + 0.044715 x³))), factors in any order.

    Source: Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415
    """
    for side, other in operands(last):
        inner = made_by(last.inputs[side], "Mul")
        if inner is None:
            continue
        sites: list[Site] = [(inner, 0), (inner, 1), (last, other)]
        for half in (site for site in sites if facts.number(_at(site)) == 0.5):
            a, b = (site for site in sites if site is not half)
            for source, gate in ((a, b), (b, a)):
                for kernel, nodes in _gelu_gates(_at(gate), _at(source), facts):
                    yield Fusion(kernel, (source,), (inner, *nodes))


def _at(site: Site) -> ir.Value | None:
    return site[0].inputs[site[1]]


def _gelu_gates(gate: ir.Value | None, x: ir.Value | None, facts: Facts) -> Iterator[tuple[Kernel, Nodes]]:
    """1 + erf(…) and 1 + tanh(…) of the same x."""
    plus = made_by(gate, "Add")
    for side, other in operands(plus) if plus is not None else ():
        assert plus is not None
        curve = made_by(plus.inputs[side], "Erf", "Tanh")
        if curve is None or facts.number(plus.inputs[other]) != 1.0:
            continue
        if curve.op_type == "Erf":
            scale = made_by(curve.inputs[0], "Div", "Mul")
            if scale is None:
                continue
            wanted = math.sqrt(2.0) if scale.op_type == "Div" else math.sqrt(0.5)
            orders = ((0, 1),) if scale.op_type == "Div" else operands(scale)
            if any(scale.inputs[i] is x and is_close(facts.number(scale.inputs[j]), wanted) for i, j in orders):
                yield F.gelu, (plus, curve, scale)
        else:
            for nodes in _scaled(curve.inputs[0], math.sqrt(2 / math.pi), facts):
                for more in _with_cube(nodes[1], x, facts):
                    yield _TANH_GELU, (plus, curve, nodes[0], *more)


def _scaled(value: ir.Value | None, factor: float, facts: Facts) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    """(node, what it multiplies) where a value is a product with that number."""
    node = made_by(value, "Mul")
    for side, other in operands(node) if node is not None else ():
        assert node is not None
        if is_close(facts.number(node.inputs[other]), factor):
            yield node, node.inputs[side]


def _with_cube(value: ir.Value | None, x: ir.Value | None, facts: Facts) -> Iterator[Nodes]:
    """x + 0.044715 x³"""
    add = made_by(value, "Add")
    for side, other in operands(add) if add is not None else ():
        assert add is not None
        if add.inputs[side] is x:
            for scale, cube in _scaled(add.inputs[other], 0.044715, facts):
                for nodes in _cube(cube, x, facts):
                    yield (add, scale, *nodes)


def _cube(value: ir.Value | None, x: ir.Value | None, facts: Facts) -> Iterator[Nodes]:
    power = made_by(value, "Pow")
    if power is not None and power.inputs[0] is x and facts.number(power.inputs[1]) == 3.0:
        yield (power,)
    product = made_by(value, "Mul")
    for side, other in operands(product) if product is not None else ():
        assert product is not None
        square = made_by(product.inputs[side], "Mul", "Pow")
        if square is None or product.inputs[other] is not x or square.inputs[0] is not x:
            continue
        if square.inputs[1] is x if square.op_type == "Mul" else facts.number(square.inputs[1]) == 2.0:
            yield product, square


def gated(last: ir.Node, facts: Facts) -> Iterator[Fusion]:
    """x · sigmoid(x), x · tanh(softplus(x)) and x · hardsigmoid(x)."""
    for side, other in operands(last):
        x = last.inputs[side]
        gate = made_by(last.inputs[other], "Sigmoid", "HardSigmoid", "Tanh")
        if gate is None:
            continue
        if gate.op_type == "Tanh":
            curve = made_by(gate.inputs[0], "Softplus")
            if curve is not None and curve.inputs[0] is x:
                yield Fusion(F.mish, ((last, side),), (gate, curve))
        elif gate.inputs[0] is x and gate.op_type == "Sigmoid":
            yield Fusion(F.silu, ((last, side),), (gate,))
        elif gate.inputs[0] is x:
            slope, offset = (gate.attributes.get(name) for name in ("alpha", "beta"))
            if slope is not None and is_close(slope.as_float(), 1 / 6) and (offset is None or offset.as_float() == 0.5):
                yield Fusion(F.hardswish, ((last, side),), (gate,))
