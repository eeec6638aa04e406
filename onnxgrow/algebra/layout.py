"""Where every old index of an axis goes when its atoms grow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
import numpy.typing as npt

from onnxgrow.algebra.terms import Forest, Kind, Term

__all__ = ["Growth", "grown_offset", "grown_size", "grows", "layout", "repeated"]

Growth = Mapping[Term, int]
"""Representative atom → number of indices appended to it (> 0)."""


def grows(forest: Forest, term: Term, growth: Growth) -> bool:
    """Whether any atom of ``term`` grows."""
    return any(leaf in growth for leaf in forest.leaves(term))


def grown_size(forest: Forest, term: Term, growth: Growth) -> int:
    """Number of indices after growth."""
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        return term.size + growth.get(term, 0)
    sizes = [grown_size(forest, p, growth) for p in forest.flat(term, term.kind)]
    return sum(sizes) if term.kind is Kind.CONCAT else prod(sizes)


def layout(
    forest: Forest, term: Term, growth: Growth, picks: Mapping[Term, npt.NDArray[np.int64]] | None = None
) -> npt.NDArray[np.int64]:
    """Old index of every new index, −1 where it is new; int64, shape (grown size,).

    With ``picks`` (for every growing atom, the old index that each new index copies) it is the index copied instead.
    """
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        added = growth.get(term, 0)
        new = np.full(added, -1, np.int64) if picks is None or not added else picks[term]
        return np.concatenate([np.arange(term.size, dtype=np.int64), new])
    if term.kind is Kind.CONCAT:
        pieces = []
        offset = 0
        for part in forest.flat(term, Kind.CONCAT):
            piece = layout(forest, part, growth, picks)
            pieces.append(np.where(piece < 0, -1, piece + offset))
            offset += part.size
        return np.concatenate(pieces)
    out = np.zeros(1, np.int64)
    for part in forest.flat(term, Kind.PRODUCT):
        inner = layout(forest, part, growth, picks)
        joined = out[:, None] * part.size + inner[None, :]
        out = np.where((out[:, None] < 0) | (inner[None, :] < 0), -1, joined).ravel()
    return out


def repeated(forest: Forest, term: Term, growth: Growth, atoms: Collection[Term]) -> npt.NDArray[np.int64]:
    """New index that each new index repeats, where the new ones of ``atoms`` repeat their old ones in order, again and
    again; all others stand for themselves. int64, shape (grown size,).
    """
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        every = np.arange(term.size + growth.get(term, 0), dtype=np.int64)
        return every % term.size if term in atoms else every
    out = np.zeros(0 if term.kind is Kind.CONCAT else 1, np.int64)
    for part in forest.flat(term, term.kind):
        inner = repeated(forest, part, growth, atoms)
        if term.kind is Kind.CONCAT:
            out = np.concatenate([out, inner + out.size])
        else:
            out = (out[:, None] * inner.size + inner[None, :]).ravel()
    return out


def grown_offset(forest: Forest, term: Term, offset: int, growth: Growth) -> int | None:
    """New position of a cut before old index ``offset``; None where it lies inside an atom or a factor that grows."""
    term = forest.find(term)
    if offset == 0:
        return 0
    if offset == term.size:
        return grown_size(forest, term, growth)
    if not grows(forest, term, growth):
        return offset
    if term.kind is Kind.ATOM:
        return None
    if term.kind is Kind.CONCAT:
        at = 0
        for part in forest.flat(term, Kind.CONCAT):
            if offset <= part.size:
                inside = grown_offset(forest, part, offset, growth)
                return None if inside is None else at + inside
            at += grown_size(forest, part, growth)
            offset -= part.size
        return None
    outer = forest.flat(term, Kind.PRODUCT)[0]
    inner = term.size // outer.size
    if offset % inner:
        return None
    position = grown_offset(forest, outer, offset // inner, growth)
    inner_grown = grown_size(forest, term, growth) // grown_size(forest, outer, growth)
    return None if position is None else position * inner_grown
