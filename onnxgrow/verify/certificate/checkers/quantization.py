"""QuantizeLinear and DequantizeLinear of activations: entry by entry, the scales follow the axis they belong to.

A quantised weight is a constant and is compared as such. Spec:
https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html, https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import input_name
from onnxgrow.verify.certificate.state import Proved


@register("QuantizeLinear", "DequantizeLinear")
def check_quantisation(pair: Pair) -> None:
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) == len(claim.axes), "the rank of the output differs from the input's")
    for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
        agree(a, b, f"axis {number}")
    for index, what in ((1, "the scale"), (2, "the zero point")):
        if index < pair.count() and pair.has(index):
            _parameter(pair, x, pair.input(index), what)
    if _maps_zero_to_zero(pair):
        pair.zeros[0] = lambda: x.zeros


def _parameter(pair: Pair, x: Proved, state: Proved, what: str) -> None:
    """One value for all; one per index of an axis, mapped as that axis; or one per block of an axis."""
    if len(state.axes) < 2 and all(axis.size == axis.old_size == 1 for axis in state.axes):
        return
    number = pair.axis(pair.same_int_attribute("axis", 1), len(x.axes))
    block = pair.same_int_attribute("block_size", 0)
    if not block:
        require(len(state.axes) == 1, f"{what} is not one-dimensional")
        agree(state.axes[0], x.axes[number], f"{what} and axis {number}")
        return
    require(len(state.axes) == len(x.axes), f"{what} has another rank than its data")
    for k, (own, data) in enumerate(zip(state.axes, x.axes, strict=True)):
        if k != number:
            agree(own, data, f"axis {k} of {what}")
            continue
        # Index i of the data reads entry i // block; old ones must read what they read before.
        kept = np.flatnonzero(data.source >= 0)
        require(
            np.array_equal(own.source[kept // block], data.source[kept] // block), f"the blocks of {what} have moved"
        )


def _maps_zero_to_zero(pair: Pair) -> bool:
    name = input_name(pair.node, 2)
    if not name:
        # Without a zero point it is 0.
        return True
    reader = pair.new.reader(name)
    return reader is not None and not np.any(reader.read(tuple(slice(0, n) for n in reader.shape)) != 0)
