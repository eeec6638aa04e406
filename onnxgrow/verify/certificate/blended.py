"""a·x + b·ReLU(x) with a + b = 1 is x above zero and a·x below: a leaky ReLU of slope a."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.verify.certificate.pair import require
from onnxgrow.verify.certificate.side import Side, input_name, input_names
from onnxgrow.verify.certificate.state import ProofError

__all__ = ["LEAKY", "blended"]

LEAKY = frozenset(("LeakyRelu", "PRelu"))
Array = npt.NDArray[np.float64]


def blended(new: Side, node: ir.Node, old: Side, of: str) -> str:
    """The x of which a value of the original is such a blend, with the slope that a leaky ReLU has.

    Args:
        new, node: The result, and its LeakyRelu or PRelu.
        old, of: The original, and the value that the node stands for.

    Raises:
        ProofError: It is no such blend, or another one.
    """
    require(not new.domain(node) and not new.is_function(node), f"{node.op_type} is no standard operator here")
    total = _standard(old, of, "Add")
    sides = [_product(old, name) for name in input_names(total)]
    for (a, x), (b, curved) in (sides, sides[::-1]) if len(sides) == 2 else ():
        relu = old.producer[curved][0] if curved in old.producer else None
        if relu is None or relu.op_type != "Relu" or old.domain(relu) or input_name(relu, 0) != x:
            continue
        slope = _slope(new, node)
        require(a.shape == b.shape and bool(np.all(a + b == 1.0)), "its factors do not sum to 1")
        require(slope.shape in ((), a.shape) and bool(np.all(slope == a)), f"{node.op_type}: its slope is not a")
        require(old.shape(x) == old.shape(of), "the blend has another shape than x")
        return x
    raise ProofError(f"{of!r} is no blend of a value and its ReLU")


def _standard(side: Side, name: str, op_type: str) -> ir.Node:
    node = side.producer[name][0] if name in side.producer else None
    if node is None or node.op_type != op_type or side.domain(node) or side.is_function(node):
        raise ProofError(f"{name!r} is not made by {op_type}")
    require(side.opsets.get("", 1) >= 7 and len(node.inputs) == 2, f"{op_type}: its form is not known")
    return node


def _product(side: Side, name: str) -> tuple[Array, str]:
    """The constant and the other factor of a product."""
    node = _standard(side, name, "Mul")
    for own, other in (input_names(node), input_names(node)[::-1]):
        reader = side.reader(own)
        if reader is not None:
            entries = reader.read(tuple(slice(0, n) for n in reader.shape))
            return np.asarray(entries).astype(np.float64), other
    raise ProofError(f"{name!r} is no product with a constant")


def _slope(side: Side, node: ir.Node) -> Array:
    if node.op_type == "LeakyRelu":
        return np.asarray(node.attributes.get_float("alpha", 0.01), np.float64)
    reader = side.reader(input_name(node, 1))
    if reader is None:
        raise ProofError("PRelu: its slope is no constant")
    return np.asarray(reader.read(tuple(slice(0, n) for n in reader.shape))).astype(np.float64)
