"""Rotary embeddings: old features are turned with the features that they were turned with, by the same angles.

Specs: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.pairs import turned
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Zeros

_MICROSOFT = "com.microsoft"


@register("RotaryEmbedding")
@register("RotaryEmbedding", domain=_MICROSOFT)
def check_rotary_embedding(pair: Pair) -> None:
    """Heads, pairs of features with an angle of their own, and features that are not turned may be new."""
    pair.same_attributes("num_heads", "rotary_embedding_dim")
    x, claim = pair.input(0), pair.claim()
    rank, last = len(x.axes), len(x.axes) - 1
    require(rank == len(claim.axes), "the rank of the output differs from the input's")
    for number, (a, b) in enumerate(zip(x.axes, claim.axes, strict=True)):
        agree(a, b, f"axis {number}")
    pair.identity((0, rank - 2), x, "the input")
    own = bool(pair.new.domain(pair.node))
    tables, positions = ((2, 3), 1) if own else ((1, 2), 3)
    if pair.has(positions):
        require(pair.input(positions).identity, "the positions grew")
    cosines, sines = (pair.input(i) for i in tables)
    angles = cosines.axes[-1]
    agree(angles, sines.axes[-1], "cosines and sines")
    for state in (cosines, sines):
        pair.identity(range(len(state.axes) - 1), state, "a table of angles")
    new, old = turned(pair.new, pair.node), turned(pair.old, pair.original)
    kept = np.flatnonzero(x.axes[last].source >= 0)
    before = x.axes[last].source[kept]
    read = np.where(new.angle[kept] < 0, -1, angles.source[new.angle[kept]])
    require(np.array_equal(new.angle[kept] < 0, old.angle[before] < 0), "other features are turned")
    require(np.array_equal(read, old.angle[before]), "old features are turned by other angles")
    require(np.array_equal(new.second[kept], old.second[before]), "old features changed their places in a pair")
    partners = x.axes[last].source[new.partner[kept]]
    require(np.array_equal(partners, old.partner[before]), "old features are turned together with others")

    def zeros() -> Zeros:
        found = {n: mask for n, mask in x.zeros.items() if n != last}
        mask = x.zero(last)
        found[last] = mask & mask[new.partner]
        return found

    pair.zeros[0] = zeros
