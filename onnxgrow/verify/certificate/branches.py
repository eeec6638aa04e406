"""Branches that contribute exactly zero: the F of an inserted y = x + F(x), whose last layer holds zeros.

0 · v is zero only where v is finite, so what the layer of zeros reads has to be proved finite
(:mod:`onnxgrow.verify.certificate.ranges`). Behind it only ops may follow that move entries, or add other zeros. A zero
may be −0; x + −0 is x.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.blocks import blocks
from onnxgrow.verify.certificate.ranges import NORMS, Ranges
from onnxgrow.verify.certificate.side import input_name, input_names, output_names

__all__ = ["is_zero_branch"]

MOVES = frozenset(("Cast", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"))
MOVES |= {"Unsqueeze"}
PARAMETERS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    **dict.fromkeys(NORMS, (1, 2)),
}
"""Op → inputs that make its output zero where all of them are: a factor, and what is added (or absent)."""
LAYERS = frozenset((*PARAMETERS, "MatMul"))


def is_zero_branch(ranges: Ranges, name: str) -> bool:
    """Whether a value is zero in every entry, because the last layer it comes from holds zeros.

    Args:
        ranges: Of the model.
        name: The value.
    """
    side = ranges.side
    if side.reader(name) is not None:
        return _is_zeros(ranges, name)
    node = side.producer[name][0] if name in side.producer else None
    if node is None or side.domain(node) or side.is_function(node) or output_names(node)[0] != name:
        return False
    names = input_names(node)
    if node.op_type in MOVES:
        return is_zero_branch(ranges, names[0])
    if node.op_type in ("Add", "Sub"):
        return all(is_zero_branch(ranges, n) for n in names)
    if node.op_type == "MatMul":
        return any(_is_zeros(ranges, a) and ranges.finite(b) for a, b in (names, names[::-1]))
    if node.op_type == "Mul":
        pairs = (names, names[::-1])
        if any(_is_zeros(ranges, a) and _ends_in_layer(ranges, b) for a, b in pairs):
            return True
        return any(side.reader(b) is not None and ranges.finite(b) and is_zero_branch(ranges, a) for a, b in pairs)
    if node.op_type == "Div":
        return ranges.finite(name) and side.reader(names[1]) is not None and is_zero_branch(ranges, names[0])
    if node.op_type in PARAMETERS:
        factor, *added = (input_name(node, i) for i in PARAMETERS[node.op_type])
        scales = (node.attributes.get_float(key, 1.0) for key in ("alpha", "beta"))
        zeros = _is_zeros(ranges, factor) and all(not n or _is_zeros(ranges, n) for n in added)
        return zeros and all(map(math.isfinite, scales)) and ranges.finite(name)
    return False


def _is_zeros(ranges: Ranges, name: str) -> bool:
    reader = ranges.side.reader(name)
    if reader is None:
        return False
    parts = blocks(reader.shape, reader.dtype.itemsize) if reader.shape else [()]
    return all(bool(np.all(reader.read(part) == 0)) for part in parts)


def _ends_in_layer(ranges: Ranges, name: str) -> bool:
    """Whether a value is finite and made by a layer or a norm, up to constants and what moves entries.

    A factor of zeros on any other function has to be proved with the closer bounds of
    :mod:`onnxgrow.verify.certificate.bounded`: it may be a power, which overflows early.
    """
    if not ranges.finite(name):
        return False
    while name in ranges.side.producer:
        node: ir.Node = ranges.side.producer[name][0]
        if node.op_type in LAYERS:
            return True
        constant = [n for n in input_names(node) if ranges.side.reader(n) is not None]
        if node.op_type in ("Div", "Mul") and not constant:
            return _is_normalised(ranges, node)
        data = [n for n in input_names(node) if n not in constant]
        if node.op_type not in (*MOVES, "Add", "Div", "Mul") or len(data) != 1:
            return False
        name = data[0]
    return False


def _is_normalised(ranges: Ranges, node: ir.Node) -> bool:
    """The quotient by a root, or the product with a reciprocal, that norms are written with."""
    makers = [ranges.side.producer[n][0].op_type for n in input_names(node) if n in ranges.side.producer]
    return "Sqrt" in makers if node.op_type == "Div" else bool({"Reciprocal", "Pow", "Div"} & set(makers))
