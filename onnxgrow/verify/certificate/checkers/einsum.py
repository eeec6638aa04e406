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
from onnxgrow.verify.equation import letters


@register("Einsum")
def check_einsum(pair: Pair) -> None:
    pair.same_attributes()
    terms, result = letters(pair.node)
    require("." not in result and not any("." in t for t in terms), "an ellipsis is not known")
    require(len(terms) == pair.count(), "the equation does not fit the number of inputs")
    claim = pair.claim()
    states = [pair.input(i) for i in range(len(terms))]
    axes: dict[str, Axis] = {}
    for term, state in zip(terms, states, strict=True):
        require(len(term) == len(state.axes) == len(set(term)), "a letter stands twice, or the rank differs")
        for letter, axis in zip(term, state.axes, strict=True):
            agree(axis, axes.setdefault(letter, axis), f"axis {letter!r}")
    require(len(result) == len(claim.axes), "the rank of the output does not follow from the equation")
    for letter, axis in zip(result, claim.axes, strict=True):
        agree(axis, axes[letter], f"axis {letter!r} of the output")
    for letter, axis in axes.items():
        if letter not in result and not axis.identity:
            _closed(pair, letter, axis, terms, states, result)
    pair.zeros[0] = lambda: {i: _zeros(pair, letter, axes[letter], terms, states) for i, letter in enumerate(result)}


def _zeros(pair: Pair, letter: str, axis: Axis, terms: list[str], states: list[Proved]) -> Mask:
    """Where along a letter of the result every product has a factor that is zero, in old terms and in new ones."""
    holders = [i for i, term in enumerate(terms) if letter in term]
    zero: Mask = np.logical_or.reduce([states[i].zero(terms[i].index(letter)) for i in holders])
    for index in holders:
        reader, left = pair.reader(index), np.flatnonzero(axis.new & ~zero)
        if reader is None or not left.size:
            continue
        own = terms[index].index(letter)
        keep: dict[int, IntArray] = {own: left}
        for number, other in enumerate(terms[index]):
            read = [states[i].zero(t.index(other)) for i, t in enumerate(terms) if other in t and i != index]
            if number != own and read:
                keep[number] = np.flatnonzero(~np.logical_or.reduce(read))
        found = nonzero(reader, keep, pair.tally)
        place = sorted(keep).index(own)
        zero[left] = ~found.any(axis=tuple(k for k in range(found.ndim) if k != place))
    return zero


def _closed(pair: Pair, letter: str, axis: Axis, terms: list[str], states: list[Proved], result: str) -> None:
    """At every new index of a summed letter some factor of each old output's terms is zero."""
    open_terms: Mask = axis.new.copy()
    for index, (term, state) in enumerate(zip(terms, states, strict=True)):
        if letter not in term:
            continue
        own = term.index(letter)
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
        for number, other in enumerate(term):
            if other in result and not state.axes[number].identity:
                keep[number] = np.flatnonzero(state.axes[number].source >= 0)
        found = nonzero(reader, keep, pair.tally)
        place = sorted(keep).index(own)
        open_terms[left] = found.any(axis=tuple(k for k in range(found.ndim) if k != place))
    if open_terms.any():
        where = int(np.flatnonzero(open_terms)[0])
        require(False, f"old outputs read new index {where} of {letter!r}: no factor is zero there")
