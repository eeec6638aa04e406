"""Activations of ONNX Runtime's own domain, as its optimiser and some exporters write them.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.elementwise import broadcast
from onnxgrow.rules.registry import register

__all__: list[str] = []


@register("Gelu", "FastGelu", "QuickGelu", domain="com.microsoft")
def activation(op: NodeContext) -> Sequence[Terms | None]:
    """f(x), entry by entry; the certificate knows FastGelu only without its optional bias."""
    if op.has(1):
        raise Unsuitable("a bias")
    return [list(op.terms(0))]


@register("BiasGelu", domain="com.microsoft")
def biased_activation(op: NodeContext) -> Sequence[Terms | None]:
    """f(x + bias), the bias a vector over the last axis."""
    x = op.terms(0)
    if len(op.terms(1)) != 1:
        raise Unsuitable("a bias that is no vector")
    op.fill(1, 0.0)
    return [broadcast(op, [x, op.terms(1)])]
