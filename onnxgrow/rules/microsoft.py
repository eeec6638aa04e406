"""Operators of ONNX Runtime's own domain, as its optimiser and some exporters write them; attention has its own file.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.conv import conv
from onnxgrow.rules.elementwise import broadcast
from onnxgrow.rules.indexing import LOOKED_UP
from onnxgrow.rules.linear import gemm
from onnxgrow.rules.normalization import NORMALISED
from onnxgrow.rules.registry import register

__all__: list[str] = []

DOMAIN = "com.microsoft"


@register("Gelu", "QuickGelu", domain=DOMAIN)
def activation(op: NodeContext) -> Sequence[Terms | None]:
    """f(x), entry by entry."""
    return [list(op.terms(0))]


@register("BiasGelu", "FastGelu", domain=DOMAIN)
def biased_activation(op: NodeContext) -> Sequence[Terms | None]:
    """f(x + bias), the bias a vector over the last axis; FastGelu may have none."""
    x = op.terms(0)
    if not op.has(1):
        return [list(x)]
    if len(op.terms(1)) != 1:
        raise Unsuitable("a bias that is no vector")
    op.fill(1, 0.0)
    return [broadcast(op, [x, op.terms(1)])]


@register("FusedMatMul", domain=DOMAIN)
def fused_matmul(op: NodeContext) -> Sequence[Terms | None]:
    """α · A' · B', the last two axes of each transposed on request."""
    a, b = list(op.terms(0)), list(op.terms(1))
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0) or len(a) < 2 or len(b) < 2:
        raise Unsuitable("transposed batch axes, or a vector")
    row, inner_a = (len(a) - 1, len(a) - 2) if op.attr("transA", 0) else (len(a) - 2, len(a) - 1)
    inner_b, column = (len(b) - 1, len(b) - 2) if op.attr("transB", 0) else (len(b) - 2, len(b) - 1)
    op.unify(a[inner_a], b[inner_b], "its contracted axes do not line up")
    batch = broadcast(op, [a[:-2], b[:-2]]) if len(a) > 2 or len(b) > 2 else []
    if op.is_constant(1):
        op.linear(1, [column], [inner_b], data=0)
    elif op.is_constant(0):
        op.linear(0, [row], [inner_a], data=1)
    else:
        op.contraction((0, inner_a), (1, inner_b))
    return [[*batch, a[row], b[column]]]


@register("FusedGemm", domain=DOMAIN)
def fused_gemm(op: NodeContext) -> Sequence[Terms | None]:
    """Gemm and an activation."""
    return gemm(op)


@register("FusedConv", domain=DOMAIN)
def fused_conv(op: NodeContext) -> Sequence[Terms | None]:
    """Conv, a sum with a fourth input, and an activation."""
    (out,) = conv(op)
    if out is not None and op.has(3):
        for mine, other in zip(out, op.terms(3), strict=True):
            op.unify(mine, other, "its sum does not line up")
        op.fill(3, 0.0)
    return [out]


@register("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """A sum (of two values, and perhaps a bias), normalised over its last axis; the sum is the fourth output."""
    x = op.terms(0)
    op.statistic(0, len(x) - 1, NORMALISED)
    for i in range(1, len(op.inputs)):
        if op.has(i):
            broadcast(op, [op.terms(i), x])
            op.fill(i, 1.0 if i == 2 else 0.0)
    statistics = [*x[:-1], op.forest.one()]
    whole: list[Terms | None] = [list(x), list(statistics), list(statistics), list(x)]
    return whole[: len(op.node.outputs)]


@register("EmbedLayerNormalization", domain=DOMAIN)
def embedding_normalization(op: NodeContext) -> Sequence[Terms | None]:
    """The sum of two or three embeddings by index, normalised over their features; the sum may be the third output."""
    tables = [i for i in (2, 3, 4) if op.has(i)]
    if not all(op.is_constant(i) and len(op.terms(i)) == 2 for i in tables):
        raise Unsuitable("a table that is computed, or of unexpected rank")
    features = op.terms(2)[1]
    op.statistic(2, 1, NORMALISED)
    for i in tables:
        op.freeze_axis(op.terms(i), 0, LOOKED_UP)
        op.unify(op.terms(i)[1], features, "its embeddings do not line up")
        op.linear(i, [1], [], data=-1)
    for i, value in ((5, 1.0), (6, 0.0)):
        if op.has(i):
            op.unify(op.terms(i)[0], features, "its parameters do not line up")
            op.fill(i, value)
    for i in (0, 1, 7, 8):
        if op.has(i):
            op.freeze(op.terms(i), "it holds or counts positions")
    tokens = op.terms(0)
    counts = op.out_shapes[1] if len(op.node.outputs) > 1 else None
    whole: list[Terms | None] = [
        [*tokens, features],
        None if counts is None else op.fresh_all(counts, "it holds or counts positions"),
        [*tokens, features],
    ]
    return whole[: len(op.node.outputs)]
