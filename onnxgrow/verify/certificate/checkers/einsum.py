"""Einsum: a letter is an axis; summed letters must add no new term to an old output.

Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray, Mask
from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.compare import nonzero
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Proved


@register("Einsum")
def check_einsum(pair: Pair) -> None:
    pair.same_attributes()
    equation = pair.node.attributes.get_string("equation", "").replace(" ", "")
    require("." not in equation and equation, "an ellipsis is not known")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        every = "".join(terms)
        result = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    require(len(terms) == pair.count(), "the equation does not fit the number of inputs")
    claim = pair.claim()
    states = [pair.input(i) for i in range(len(terms))]
    axes: dict[str, Axis] = {}
    for letters, state in zip(terms, states, strict=True):
        require(len(letters) == len(state.axes) == len(set(letters)), "a letter stands twice, or the rank differs")
        for letter, axis in zip(letters, state.axes, strict=True):
            agree(axis, axes.setdefault(letter, axis), f"axis {letter!r}")
    require(len(result) == len(claim.axes), "the rank of the output does not follow from the equation")
    for letter, axis in zip(result, claim.axes, strict=True):
        agree(axis, axes[letter], f"axis {letter!r} of the output")
    for letter, axis in axes.items():
        if letter not in result and not axis.identity:
            _closed(pair, letter, axis, terms, states, result)


def _closed(pair: Pair, letter: str, axis: Axis, terms: list[str], states: list[Proved], result: str) -> None:
    """At every new index of a summed letter some factor of each old output's terms is zero."""
    open_terms: Mask = axis.new.copy()
    for index, (letters, state) in enumerate(zip(terms, states, strict=True)):
        if letter not in letters:
            continue
        own = letters.index(letter)
        open_terms &= ~state.zero(own)
        reader = pair.reader(index)
        left = np.flatnonzero(open_terms)
        if not left.size:
            continue
        if reader is None:
            if pair.is_zero(index, own, left):
                open_terms[:] = False
            continue
        keep: dict[int, IntArray] = {own: left}
        for number, other in enumerate(letters):
            if other in result and not state.axes[number].identity:
                keep[number] = np.flatnonzero(state.axes[number].source >= 0)
        found = nonzero(reader, keep, pair.tally)
        place = sorted(keep).index(own)
        open_terms[left] = found.any(axis=tuple(k for k in range(found.ndim) if k != place))
    if open_terms.any():
        where = int(np.flatnonzero(open_terms)[0])
        require(False, f"old outputs read new index {where} of {letter!r}: no factor is zero there")
