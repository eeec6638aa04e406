"""How axes regroup when a tensor is reshaped."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from onnxgrow.algebra.terms import Forest, Kind, Term
from onnxgrow.algebra.unify import factor

__all__ = ["blocks", "reshape"]


def reshape(forest: Forest, inputs: Sequence[Term], sizes: Sequence[int], *why: Hashable) -> list[Term]:
    """Terms of the axes of ``Reshape(x, sizes)`` for ``x`` with the axes ``inputs``.

    Axes are grouped into minimal blocks of equal cumulative product; inside a block the outputs are filled from the
    right with the factors of the inputs. A block that does not align is frozen with ``why`` on both sides.
    """
    reasons = why or ("misaligned reshape",)
    if 0 in sizes or any(t.size == 0 for t in inputs):
        for term in inputs:
            forest.freeze(term, *reasons)
        return [forest.atom(size, *reasons) for size in sizes]
    out: list[Term] = []
    for ins, outs in blocks([t.size for t in inputs], sizes):
        block = [inputs[i] for i in range(*ins)]
        wanted = list(sizes[outs[0] : outs[1]])
        out += _fill(forest, block, wanted, reasons)
    return out


def blocks(ins: Sequence[int], outs: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of input and output axes that form minimal blocks of equal product."""
    found = []
    i = j = 0
    while i < len(ins) or j < len(outs):
        i0, j0 = i, j
        a = b = 1
        if i < len(ins):
            a, i = ins[i], i + 1
        if j < len(outs):
            b, j = outs[j], j + 1
        while a != b:
            if a < b and i < len(ins):
                a, i = a * ins[i], i + 1
            elif b < a and j < len(outs):
                b, j = b * outs[j], j + 1
            else:
                raise ValueError(f"cannot reshape {list(ins)} to {list(outs)}")
        found.append(((i0, i), (j0, j)))
    return found


def _fill(forest: Forest, block: list[Term], sizes: list[int], reasons: tuple[Hashable, ...]) -> list[Term]:
    if len(block) == 1 and len(sizes) == 1:
        return [forest.find(block[0])]
    with forest.transaction() as attempt:
        terms = _distribute(forest, block, sizes)
        if terms is None:
            attempt.rollback()
    if terms is not None:
        return terms
    for term in block:
        forest.freeze(term, *reasons)
    return [forest.atom(size, *reasons) for size in sizes]


def _distribute(forest: Forest, block: list[Term], sizes: list[int]) -> list[Term] | None:
    factors = [f for t in block for f in forest.flat(t, Kind.PRODUCT) if f.size != 1]
    out: list[Term] = []
    for size in reversed(sizes):
        need = size
        parts: list[Term] = []
        while need > 1:
            if not factors:
                return None
            last = forest.find(factors.pop())
            if last.kind is Kind.PRODUCT:
                factors += forest.flat(last, Kind.PRODUCT)
            elif need % last.size == 0:
                parts.insert(0, last)
                need //= last.size
            elif last.size % need == 0:
                pair = factor(forest, last, need)
                if pair is None:
                    return None
                factors.append(pair[0])
                parts.insert(0, pair[1])
                need = 1
            else:
                return None
        out.insert(0, forest.product(parts))
    return None if factors else out
