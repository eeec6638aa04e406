"""Convolutions: any rank, grouped and depthwise.

The channels of a grouped convolution are a product: groups × channels of a group. Whole groups can be appended,
or every group widened. Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.algebra import Growth, Term
from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

SPATIAL = "a convolution slides over it"
KERNEL = "it is a kernel axis"
WHOLE_GROUPS = "it counts the groups of a transposed convolution"


@register("Conv")
def conv(op: NodeContext) -> Sequence[Terms | None]:
    """Weight [M, C/group, k…]: Y[m] = Σ_c W[m, c] ∗ X[group of m, c] + B[m]."""
    x, w, groups = _parts(op)
    channels, filters = op.shape(0)[1], op.shape(1)[0]
    depthwise = groups > 1 and groups == channels
    if groups == 1:
        op.unify(x[1], w[1], "its channels do not line up")
        op.linear(1, [0], [1], data=0)
    elif depthwise:
        multiplier = op.forest.atom(filters // channels)
        op.unify(w[0], op.forest.product((x[1], multiplier)), "its channels do not line up")
        op.linear(1, [0], [], data=0)
        _follow_groups(op, x[1])
    else:
        group = op.forest.atom(groups)
        op.unify(x[1], op.forest.product((group, w[1])), "its channels do not divide into groups")
        op.unify(w[0], op.forest.product((group, op.forest.atom(filters // groups))), "its filters do not divide")
        op.linear(1, [0], [1], data=0)
        _follow_groups(op, group)
    return [_output(op, x, w[0])]


@register("ConvTranspose")
def conv_transpose(op: NodeContext) -> Sequence[Terms | None]:
    """Weight [C, M/group, k…]: the axes of Conv, swapped."""
    x, w, groups = _parts(op)
    op.unify(x[1], w[0], "its channels do not line up")
    if groups == 1:
        out = w[1]
        op.linear(1, [1], [0], data=0)
    else:
        channels = op.shape(1)[0]
        # A weight [C, M/group] sums a row over its own group only, which in_axes cannot say unless a group is a row.
        group = op.forest.atom(groups) if channels == groups else op.fresh(groups, WHOLE_GROUPS, 0)
        op.unify(w[0], op.forest.product((group, op.forest.atom(channels // groups))), "its channels do not divide")
        out = op.forest.product((group, w[1]))
        op.linear(1, [1], [] if channels == groups else [0], data=0)
        _follow_groups(op, group)
    return [_output(op, x, out)]


def _parts(op: NodeContext) -> tuple[Terms, Terms, int]:
    x, w = op.terms(0), op.terms(1)
    if not op.is_constant(1):
        raise Unsuitable("a weight that is computed")
    groups = int(op.attr("group", 1))
    if len(x) < 3 or len(x) != len(w) or groups < 1:
        raise Unsuitable("operands of unexpected rank")
    op.freeze(x[2:], SPATIAL, 2)
    op.freeze(w[2:], KERNEL, 2)
    return x, w, groups


def _follow_groups(op: NodeContext, group: Term) -> None:
    def update(growth: Growth) -> int:
        return op.size(group, growth)

    op.attribute("group", update)


def _output(op: NodeContext, x: Terms, channels: Term) -> Terms:
    if op.has(2):
        op.unify(op.terms(2)[0], channels, "its bias does not line up")
        op.fill(2, 0.0)
    return [x[0], channels, *op.fresh_all(op.out_shape()[2:], SPATIAL, 2)]
