"""ONNX Runtime's norms of sums: of two values, and of embeddings that are looked up.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgrow.verify.certificate.checkers.common import agree, broadcast_axes, operand_zero
from onnxgrow.verify.certificate.checkers.normalization import statistics_over_grown
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Proved

_DOMAIN = "com.microsoft"
_EPSILON = 1e-12
"""Where a node states none."""


@register("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def check_skip_normalization(pair: Pair) -> None:
    """A sum, normalised over its last axis; outputs: the result, the mean, one over the deviation, the sum."""
    centred = pair.node.op_type == "SkipLayerNormalization"
    x = pair.input(0)
    bias = 4 if centred else 3
    summands = [x, *(pair.input(i) for i in (1, bias) if i < pair.count() and pair.has(i))]
    parameters = [pair.scaled(i) for i in ((2, 3) if centred else (2,)) if i < pair.count() and pair.has(i)]
    for state in (*summands[1:], *parameters):
        broadcast_axes(state, x.axes, "an operand")
    _normalised(pair, summands, parameters, centred=centred, inverse=2)
    for index, claim in pair.claims.items():
        whole = index in (0, 3)
        require(len(claim.axes) == len(x.axes), "the ranks differ")
        for number, axis in enumerate(claim.axes if whole else claim.axes[:-1]):
            agree(x.axes[number], axis, f"axis {number}")
        require(whole or claim.axes[-1].identity, "a normalised axis of the output grew")
    if 3 in pair.claims:
        axes = pair.claims[3].axes
        pair.zeros[3] = lambda: {
            n: np.logical_and.reduce([operand_zero(s, axes, n) for s in summands]) for n in range(len(axes))
        }


@register("EmbedLayerNormalization", domain=_DOMAIN)
def check_embedding_normalization(pair: Pair) -> None:
    """Embeddings of tokens, positions and segments added up and normalised over their features."""
    tables = [pair.input(i) for i in (2, 3, 4) if i < pair.count() and pair.has(i)]
    parameters = [pair.scaled(i) for i in (5, 6) if i < pair.count() and pair.has(i)]
    require(all(len(t.axes) == 2 and t.axes[0].identity for t in tables), "the number of entries of a table changed")
    features = tables[0].axes[1]
    for state in (*tables, *parameters):
        agree(state.axes[-1], features, "the features of an operand")
    for index in (0, 1, 7, 8):
        if index < pair.count() and pair.has(index):
            require(pair.input(index).identity, f"input {index} grew")
    _normalised(pair, tables, parameters, centred=True, inverse=None)
    for index, claim in pair.claims.items():
        if index == 1:
            require(claim.identity, "the mask index grew")
            continue
        require(len(claim.axes) == 3 and all(a.identity for a in claim.axes[:2]), "the output grew elsewhere")
        agree(claim.axes[2], features, "the features of the output")
    if 2 in pair.claims:
        pair.zeros[2] = lambda: {2: np.logical_and.reduce([t.zero(1) for t in tables])}


def _normalised(
    pair: Pair, summands: Sequence[Proved], parameters: Sequence[Proved], *, centred: bool, inverse: int | None
) -> None:
    if summands[0].axes[-1].identity:
        pair.same_attributes()
        require(all(state.square == 1 for state in parameters), "a parameter is multiplied")
        return
    lasts = [(state, len(state.axes) - 1) for state in summands]
    statistics_over_grown(pair, lasts, parameters, centred=centred, epsilon=_EPSILON, inverse=inverse)
