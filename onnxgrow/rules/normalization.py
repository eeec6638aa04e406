"""Normalisations. An axis over which statistics are taken cannot simply grow by appending; the others can.

Spec: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.elementwise import broadcast
from onnxgrow.rules.registry import register

__all__: list[str] = []

NORMALISED = "it is normalised over"


@register("BatchNormalization")
def batch_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Per channel (axis 1): scale, shift, mean, variance."""
    x = op.terms(0)
    channel = x[1] if len(x) > 1 else x[0]
    if not op.attr("spatial", 1):
        raise Unsuitable("statistics per position (spatial = 0)")
    if op.attr("training_mode", 0) or len(op.node.outputs) > 1:
        for axis in range(len(x)):
            if axis != 1:
                op.statistic(0, axis, NORMALISED)
    for i, value in enumerate((1.0, 0.0, 0.0, 1.0), start=1):
        op.unify(channel, op.terms(i)[0], "its parameters do not line up")
        op.fill(i, value)
    return [list(x)] + [[channel] for _ in op.node.outputs[1:]]


@register("InstanceNormalization")
def instance_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Per channel and sample, over the spatial axes."""
    x = op.terms(0)
    for i, value in enumerate((1.0, 0.0), start=1):
        op.unify(x[1], op.terms(i)[0], "its parameters do not line up")
        op.fill(i, value)
    for axis in range(2, len(x)):
        op.statistic(0, axis, NORMALISED)
    return [list(x)]


@register("GroupNormalization")
def group_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Over the channels of each group and the spatial axes: whole groups can be appended."""
    x = op.terms(0)
    groups = int(op.attr("num_groups"))
    channels = op.shape(0)[1]
    for axis in range(2, len(x)):
        op.statistic(0, axis, NORMALISED)
    group = op.forest.atom(groups)
    inside = op.forest.atom(channels // groups)
    op.statistic(0, 1, NORMALISED, inside)
    op.unify(x[1], op.forest.product((group, inside)), "its channels do not divide into groups")
    for i, value in enumerate((1.0, 0.0), start=1):
        per_group = op.shape(i)[0] == groups != channels
        op.unify(op.terms(i)[0], group if per_group else x[1], "its parameters do not line up")
        op.fill(i, value)
    op.attribute("num_groups", lambda growth: op.size(group, growth))
    return [list(x)]


@register("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Over the axes from ``axis`` on."""
    x = op.terms(0)
    first = op.axis(int(op.attr("axis", -1)), len(x))
    for axis in range(first, len(x)):
        op.statistic(0, axis, NORMALISED)
    for i, value in ((1, 1.0), (2, 0.0)):
        if op.has(i):
            broadcast(op, [op.terms(i), x])
            op.fill(i, value)
    statistics = [*x[:first], *[op.forest.one() for _ in x[first:]]]
    return [list(x)] + [list(statistics) for _ in op.node.outputs[1:]]


@register("LRN")
def lrn(op: NodeContext) -> Sequence[Terms | None]:
    """Over neighbouring channels."""
    op.freeze_axis(op.terms(0), 1, NORMALISED)
    return [list(op.terms(0))]


@register("MeanVarianceNormalization")
def mean_variance_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Over ``axes``."""
    x = op.terms(0)
    for axis in op.attr("axes", (0, 2, 3)):
        op.statistic(0, op.axis(int(axis), len(x)), NORMALISED)
    return [list(x)]


@register("LpNormalization")
def lp_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """Over one axis."""
    x = op.terms(0)
    op.statistic(0, op.axis(int(op.attr("axis", -1)), len(x)), NORMALISED)
    return [list(x)]


@register("Softmax", "LogSoftmax", "Hardmax")
def softmax(op: NodeContext) -> Sequence[Terms | None]:
    """Over one axis; before opset 13 over all axes from ``axis`` on."""
    x = op.terms(0)
    if op.version < 13:
        first = op.axis(int(op.attr("axis", 1)), len(x)) if len(x) > 1 else 0
        op.freeze(x[first:], NORMALISED, first)
    else:
        op.freeze_axis(x, op.axis(int(op.attr("axis", -1)), len(x)), NORMALISED)
    return [list(x)]
