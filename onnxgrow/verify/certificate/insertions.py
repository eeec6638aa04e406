"""Inserted nodes that give out what they read, proved on one model from its nodes and stored tensors alone.

A convolution whose weight is a single 1 per filter, at a tap that its pads bring to its own position; a product with a
unit matrix, or with ones; a sum with zeros. A zero that stems from a product, 0 · f(x), is a zero only where f(x) is
finite: that is proved, too, for all finite x, from the ops that make f(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.blocks import blocks
from onnxgrow.verify.certificate.bounded import is_finite
from onnxgrow.verify.certificate.branches import is_zero_branch
from onnxgrow.verify.certificate.pair import require
from onnxgrow.verify.certificate.ranges import Ranges
from onnxgrow.verify.certificate.readers import Reader
from onnxgrow.verify.certificate.side import Side, input_name, input_names, output_names
from onnxgrow.verify.certificate.state import ProofError

__all__ = ["PASSING", "passed_on"]

Sourced = Callable[[str], bool]
"""Whether a value is one that the model had before: such are finite by assumption."""


def passed_on(side: Side, node: ir.Node, sourced: Sourced) -> list[str]:
    """The inputs that the first output of a node is proved to equal; for all finite inputs.

    Args:
        side: The model.
        node: One of its nodes, of an op of ``PASSING``.
        sourced: Tells values that may be assumed to be finite.

    Raises:
        ProofError: It passes on none of them, or changes the shape; the text says why.
    """
    require(not side.domain(node) and not side.is_function(node), f"{node.op_type} is no standard operator here")
    found = _CHECKS[node.op_type](side, node, sourced)
    shape = side.shape(output_names(node)[0])
    require(shape is not None, "the shape of its output is not known")
    same = [name for name in found if side.shape(name) == shape]
    require(same, "its output has another shape than what it reads")
    return same


def _reader(side: Side, node: ir.Node, index: int) -> Reader:
    reader = side.reader(input_name(node, index))
    if reader is None:
        raise ProofError(f"{node.op_type}: input {index} is no constant")
    return reader


def _is_filled(reader: Reader, value: float) -> bool:
    """Whether every entry equals ``value``; −0 equals 0."""
    return all(bool(np.all(reader.read(block) == value)) for block in _blocks(reader))


def _blocks(reader: Reader) -> Sequence[tuple[slice, ...]]:
    return list(blocks(reader.shape, reader.dtype.itemsize)) if reader.shape else [()]


def _no_bias(side: Side, node: ir.Node, index: int) -> None:
    if input_name(node, index):
        require(_is_filled(_reader(side, node, index), 0.0), f"{node.op_type}: its bias is not zero")


def _is_unit(reader: Reader) -> bool:
    if len(reader.shape) != 2 or reader.shape[0] != reader.shape[1]:
        return False
    columns = np.arange(reader.shape[1])
    for block in _blocks(reader):
        rows = np.arange(*block[0].indices(reader.shape[0]))
        wanted = rows[:, None] == columns[block[1]][None, :]
        if not bool(np.all(reader.read(block) == wanted)):
            return False
    return True


def _conv(side: Side, node: ir.Node, _: Sourced) -> list[str]:
    weight = _reader(side, node, 1)
    kernel = weight.shape[2:]
    rank = len(kernel)
    outputs, inputs = weight.shape[:2]
    group = node.attributes.get_int("group", 1)
    shape = side.shape(input_name(node, 0))
    require(shape is not None and len(shape) == rank + 2, "Conv: the rank of its input is not that of its weight")
    assert shape is not None
    require(group > 0 and shape[1] == outputs == group * inputs, "Conv: its weight does not fit its channels")
    auto = node.attributes.get("auto_pad")
    require(auto is None or auto.as_string() == "NOTSET", "Conv: its pads are not written down")

    def ints(name: str, default: int, count: int) -> list[int]:
        found = list(node.attributes.get_ints(name, ())) or [default] * count
        require(len(found) == count, f"Conv: attribute {name!r} does not fit its rank")
        return found

    require(ints("kernel_shape", 0, rank) in (list(kernel), [0] * rank), "Conv: kernel_shape is not its weight's")
    require(all(s == 1 for s in ints("strides", 1, rank)), "Conv: it has strides")
    dilations, pads = ints("dilations", 1, rank), ints("pads", 0, 2 * rank)
    tap = _tap(weight, outputs // group)
    for axis, (j, k, d) in enumerate(zip(tap, kernel, dilations, strict=True)):
        require(
            (pads[axis], pads[rank + axis]) == (j * d, (k - 1 - j) * d),
            f"Conv: on spatial axis {axis} its pads do not bring the tap of its 1 to its own position",
        )
    _no_bias(side, node, 2)
    return [input_name(node, 0)]


def _tap(weight: Reader, per_group: int) -> list[int]:
    """The tap at which every filter has its only entry, a 1, on the channel itself. Raises ProofError."""
    first = np.argwhere(weight.read((slice(0, 1), *(slice(0, n) for n in weight.shape[1:])))[0, 0] != 0)
    require(first.shape[0] == 1, "Conv: its first filter has not a single entry on its own channel")
    tap = [int(i) for i in first[0]]
    for block in _blocks(weight):
        ranges = [np.arange(*part.indices(n)) for part, n in zip(block, weight.shape, strict=True)]
        own = ranges[0][:, None] % per_group == ranges[1][None, :]
        wanted = own.reshape(*own.shape, *(1,) * len(tap))
        for axis, j in enumerate(tap):
            line = [1] * len(weight.shape)
            line[axis + 2] = -1
            wanted = wanted & (ranges[axis + 2] == j).reshape(line)
        require(bool(np.all(weight.read(block) == wanted)), "Conv: its weight is no identity")
    return tap


def _gemm(side: Side, node: ir.Node, _: Sourced) -> list[str]:
    require(_is_unit(_reader(side, node, 1)), "Gemm: its weight is no unit matrix")
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    require(alpha == 1.0 and math.isfinite(beta), "Gemm: its factors are not 1")
    require(node.attributes.get_int("transA", 0) == 0, "Gemm: it transposes its input")
    _no_bias(side, node, 2)
    return [input_name(node, 0)]


def _matmul(side: Side, node: ir.Node, _: Sourced) -> list[str]:
    require(_is_unit(_reader(side, node, 1)), "MatMul: its weight is no unit matrix")
    return [input_name(node, 0)]


def _plain(side: Side, node: ir.Node) -> None:
    require(side.opsets.get("", 1) >= 7 and len(node.inputs) == 2, f"{node.op_type}: its form is not known")


def _mul(side: Side, node: ir.Node, _: Sourced) -> list[str]:
    _plain(side, node)
    names = input_names(node)
    found = [a for a, b in (names, names[::-1]) if (r := side.reader(b)) is not None and _is_filled(r, 1.0)]
    require(found, "Mul: neither factor is 1")
    return found


def _add(side: Side, node: ir.Node, sourced: Sourced) -> list[str]:
    _plain(side, node)
    names = input_names(node)
    found = [a for a, b in (names, names[::-1]) if _is_zero(side, b, sourced)]
    require(found, "Add: neither term is proved to be zero")
    return found


def _is_zero(side: Side, name: str, sourced: Sourced) -> bool:
    """Whether a value is zero: stored so, a stored zero times what is finite, or made by a layer of zeros."""
    reader = side.reader(name)
    if reader is not None:
        return _is_filled(reader, 0.0)
    node = side.producer[name][0] if name in side.producer else None
    if node is None or side.domain(node) or side.is_function(node):
        return False
    for a, b in (input_names(node), input_names(node)[::-1]) if node.op_type == "Mul" else ():
        factor = side.reader(a)
        if factor is not None and _is_filled(factor, 0.0) and is_finite(side, b, sourced):
            return True
    return is_zero_branch(Ranges(side, sourced), name)


_CHECKS: dict[str, Callable[[Side, ir.Node, Sourced], list[str]]] = {
    "Add": _add,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _mul,
}
PASSING = frozenset(_CHECKS)
"""Ops that may pass on what they read."""
