"""Rotary embeddings: heads can be appended, and pairs of features that are turned by an angle of their own.

A head of d features has r of them turned: feature i together with feature i + r/2 (or, interleaved, 2i with 2i + 1), by
an angle that the tables of cosines and sines hold for each position and each pair. Old pairs keep their angles. The
other d − r features pass. Specs: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.rules.attention import LAYOUT, MICROSOFT
from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

TURNED = "two features are turned together"
POSITIONS = "it holds or counts positions"


@register("RotaryEmbedding", since_version=23)
@register("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: NodeContext) -> Sequence[Terms | None]:
    """[batch, heads, sequence, size] or [batch, sequence, heads · size]; tables of [positions, pairs]."""
    x = op.terms(0)
    tables = (2, 3) if op.node.domain == MICROSOFT else (1, 2)
    positions = 1 if op.node.domain == MICROSOFT else 3
    pairs = op.terms(tables[0])[-1]
    count, turned = int(op.attr("num_heads", 0)), int(op.attr("rotary_embedding_dim", 0))
    if len(x) not in (3, 4):
        raise Unsuitable("an input of unexpected rank")
    if len(x) == 4:
        size = x[3].size
    else:
        if not count and not turned:
            count = x[2].size // max(1, 2 * pairs.size)
        if not count or x[2].size % count:
            raise Unsuitable("features that do not divide into heads")
        size = x[2].size // count
    if 2 * pairs.size != (turned or size):
        raise Unsuitable("angles that do not fit the head size")
    two = op.fresh(2, TURNED)
    rotated = op.forest.product((pairs, two) if op.attr("interleaved", 0) else (two, pairs))
    head = op.forest.concat([rotated, op.forest.atom(size - turned)]) if turned and turned < size else rotated
    op.unify(op.terms(tables[1])[-1], pairs, "its tables do not line up")
    for index, value in zip(tables, (1.0, 0.0), strict=True):
        op.freeze(op.terms(index)[:-1], POSITIONS)
        op.fill(index, value)
    if op.has(positions):
        op.freeze(op.terms(positions), POSITIONS)
    op.freeze(x[:1], POSITIONS)
    if len(x) == 4:
        op.freeze(x[2:3], POSITIONS, 2)
        op.unify(x[3], head, LAYOUT)
    else:
        op.freeze(x[1:2], POSITIONS, 1)
        heads = op.forest.atom(count)
        op.unify(x[2], op.forest.product((heads, head)), LAYOUT)
        if op.attr("num_heads", 0):
            op.attribute("num_heads", lambda growth: op.size(heads, growth))
    if turned:
        op.attribute("rotary_embedding_dim", lambda growth: op.size(rotated, growth))
    return [list(x)]
