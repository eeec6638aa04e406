"""Linear layers: MatMul and Add. Kernel: :func:`torch.nn.functional.linear`"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.fusion.chain import Facts, Fusion, made_by, operands

__all__ = ["linear"]


def linear(add: ir.Node, facts: Facts) -> Iterator[Fusion]:
    """x W + b for a matrix W and a vector b, the matrix perhaps transposed on its way."""
    for side, other in operands(add):
        product = made_by(add.inputs[side], "MatMul")
        if product is None or facts.rank(add.inputs[other]) != 1:
            continue
        weight, bias = product.inputs[1], (add, other)
        turn = made_by(weight, "Transpose")
        if turn is not None and facts.rank(turn.inputs[0]) == 2 and _order(turn) in (None, (1, 0)):
            yield Fusion(F.linear, ((product, 0), (turn, 0), bias), (product, turn))
        elif facts.rank(weight) == 2:
            yield Fusion(lambda x, w, b: F.linear(x, w.t(), b), ((product, 0), (product, 1), bias), (product,))


def _order(node: ir.Node) -> tuple[int, ...] | None:
    attribute = node.attributes.get("perm")
    return None if attribute is None else tuple(attribute.as_ints())
