"""Pools: each channel on its own, over spatial axes that did not grow."""

from __future__ import annotations

from onnxgrow.verify.certificate.checkers.common import agree, carry_zeros
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register


@register("AveragePool", "LpPool", "MaxPool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")
def check_pool(pair: Pair) -> None:
    pair.same_attributes()
    # The second output of MaxPool counts elements across channels: it changes when channels are added.
    require(set(pair.claims) == {0}, "the indices of MaxPool count the new channels, too")
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) == len(claim.axes) >= 2, "the ranks differ")
    pair.identity(range(2, len(x.axes)), x, "the input")
    require(all(axis.identity for axis in claim.axes[2:]), "a spatial axis of the output grew")
    for number in (0, 1):
        agree(x.axes[number], claim.axes[number], f"axis {number}")
    pair.zeros[0] = lambda: carry_zeros(x, [(0, 0), (1, 1)])
