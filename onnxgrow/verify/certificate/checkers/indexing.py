"""Gather and Scatter by element or by tuple, OneHot: indexed axes may not have grown, the others pass through.

Specs: https://onnx.ai/onnx/operators/onnx__GatherND.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.verify.certificate.axis import Axis
from onnxgrow.verify.certificate.checkers.common import agree, carry_zeros
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register


def _same(axes: Sequence[Axis], expected: Sequence[Axis], what: str) -> None:
    require(len(axes) == len(expected), f"the rank of {what} does not follow from the inputs")
    for number, (a, b) in enumerate(zip(axes, expected, strict=True)):
        agree(a, b, f"axis {number} of {what}")


@register("GatherElements")
def check_gather_elements(pair: Pair) -> None:
    pair.same_attributes()
    data, indices = pair.input(0), pair.input(1)
    require(len(data.axes) == len(indices.axes), "data and indices have different ranks")
    axis = pair.axis(pair.same_int_attribute("axis", 0), len(data.axes))
    pair.identity((axis,), data, "the data")
    for number, (a, b) in enumerate(zip(data.axes, indices.axes, strict=True)):
        # Indices may cover only the beginning of an axis: then nothing may have grown there.
        if number != axis and not (a.identity and b.identity):
            agree(a, b, f"axis {number} of data and indices")
    _same(pair.claim().axes, indices.axes, "the output")


@register("ScatterElements", "Scatter")
def check_scatter_elements(pair: Pair) -> None:
    pair.same_attributes()
    data, indices, updates = (pair.input(i) for i in range(3))
    require(len(data.axes) == len(indices.axes) == len(updates.axes), "the operands have different ranks")
    axis = pair.axis(pair.same_int_attribute("axis", 0), len(data.axes))
    for state, what in ((data, "the data"), (indices, "the indices"), (updates, "the updates")):
        pair.identity((axis,), state, what)
    for number in range(len(data.axes)):
        a, b, c = data.axes[number], indices.axes[number], updates.axes[number]
        if not (a.identity and b.identity and c.identity):
            agree(a, b, f"axis {number} of data and indices")
            agree(a, c, f"axis {number} of data and updates")
    _same(pair.claim().axes, data.axes, "the output")


@register("GatherND")
def check_gather_nd(pair: Pair) -> None:
    pair.same_attributes()
    data, indices = pair.input(0), pair.input(1)
    batch = pair.same_int_attribute("batch_dims", 0)
    last = len(indices.axes) - 1
    require(0 <= batch <= last, "there are more batch axes than axes")
    depth = indices.axes[last].size
    pair.identity((last,), indices, "the indices")
    for number in range(batch):
        agree(data.axes[number], indices.axes[number], f"batch axis {number}")
    pair.identity(range(batch, batch + depth), data, "the data")
    _same(pair.claim().axes, [*indices.axes[:last], *data.axes[batch + depth :]], "the output")
    first = batch + depth
    pair.zeros[0] = lambda: carry_zeros(data, ((n, n - first + last) for n in range(first, len(data.axes))))


@register("ScatterND")
def check_scatter_nd(pair: Pair) -> None:
    pair.same_attributes()
    data, indices, updates = (pair.input(i) for i in range(3))
    last = len(indices.axes) - 1
    depth = indices.axes[last].size
    require(indices.identity, "the indices grew")
    pair.identity(range(depth), data, "the data")
    _same(updates.axes, [*indices.axes[:last], *data.axes[depth:]], "the updates")
    _same(pair.claim().axes, data.axes, "the output")


@register("OneHot")
def check_one_hot(pair: Pair) -> None:
    pair.same_attributes()
    indices, claim = pair.input(0), pair.claim()
    require(pair.input(1).identity and pair.input(2).identity, "the depth or the values grew")
    axis = pair.axis(pair.same_int_attribute("axis", -1), len(claim.axes))
    require(claim.axes[axis].identity, "the axis of classes grew")
    rest = [a for number, a in enumerate(claim.axes) if number != axis]
    _same(rest, indices.axes, "the output")


@register("ConstantOfShape")
def check_constant_of_shape(pair: Pair) -> None:
    """One value everywhere: whatever grew, an old index holds the old value. The shapes themselves are concrete."""
    pair.same_attributes()
    pair.fixed(0)
    pair.shapes(pair.claim())
