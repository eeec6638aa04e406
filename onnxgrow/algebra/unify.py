"""Unification with refinement: say that two axes are the same axis.

Unifying an atom with a composite refines the atom everywhere. Axes whose boundaries do not line up are still whole
multiples of a common *unit* where one divides every piece on both sides: 112 and 24 joined channels read in groups
of 34 are 56 + 12 pairs read in groups of 17 pairs. Then every pair can be widened, while the numbers of pairs stay. A
unification without even that changes nothing but the frozen state: the atoms of both sides are frozen with the reason.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import isqrt

from onnxgrow.algebra.terms import Forest, Kind, Term

__all__ = ["factor", "split_at", "unify"]

LONGEST = 1 << 20
"""Axes above this length are not searched for a common unit, which takes the square root of the length."""


def unify(forest: Forest, a: Term, b: Term, *why: Hashable) -> bool:
    """Make ``a`` and ``b`` one axis; whether there is anything left of them that could grow.

    Where they do not line up, they are tied in their largest common unit, and the atoms that count the units are frozen
    with ``why``. Where they have none, nothing is tied, and all atoms of both are frozen.
    """
    with forest.transaction() as attempt:
        done = _unify(forest, a, b)
        if not done:
            attempt.rollback()
    if done:
        return True
    reasons = why or ("misaligned axes",)
    counts = _common_unit(forest, a, b)
    for term in counts or (a, b):
        forest.freeze(term, *reasons)
    return counts is not None


def split_at(forest: Forest, term: Term, offset: int) -> tuple[Term, Term] | None:
    """Cut ``term`` before index ``offset`` (0 < offset < size), refining it everywhere; None where it cannot be cut.

    A product can be cut only at a multiple of the size of its inner factors.
    """
    with forest.transaction() as attempt:
        cut = _split(forest, term, offset)
        if cut is None:
            attempt.rollback()
    return cut


def factor(forest: Forest, term: Term, inner: int) -> tuple[Term, Term] | None:
    """Write ``term`` as outer × inner (row-major) with ``inner`` indices inside; None where it cannot be."""
    with forest.transaction() as attempt:
        factors = _factor(forest, term, inner)
        if factors is None:
            attempt.rollback()
    return factors


def _split(forest: Forest, term: Term, offset: int) -> tuple[Term, Term] | None:
    term = forest.find(term)
    if not 0 < offset < term.size:
        raise ValueError(f"cannot cut {term.size} indices at {offset}")
    if term.kind is Kind.ATOM:
        left, right = forest.atom(offset), forest.atom(term.size - offset)
        forest.link(term, forest.concat((left, right)))
        return left, right
    if term.kind is Kind.CONCAT:
        parts = forest.flat(term, Kind.CONCAT)
        at = 0
        for i, part in enumerate(parts):
            if at == offset:
                return forest.concat(parts[:i]), forest.concat(parts[i:])
            if at < offset < at + part.size:
                cut = _split(forest, part, offset - at)
                if cut is None:
                    return None
                return forest.concat((*parts[:i], cut[0])), forest.concat((cut[1], *parts[i + 1 :]))
            at += part.size
        return None
    outer, *rest = forest.flat(term, Kind.PRODUCT)
    inner = term.size // outer.size
    if offset % inner:
        return None
    cut = _split(forest, outer, offset // inner)
    if cut is None:
        return None
    halves = forest.product((cut[0], *rest)), forest.product((cut[1], *rest))
    forest.rewrite(term, forest.concat(halves))
    return halves


def _factor(forest: Forest, term: Term, inner: int) -> tuple[Term, Term] | None:
    term = forest.find(term)
    if inner == 1:
        return term, forest.one()
    if inner == term.size:
        return forest.one(), term
    if inner <= 0 or term.size % inner:
        return None
    if term.kind is Kind.ATOM:
        outside, inside = forest.atom(term.size // inner), forest.atom(inner)
        forest.link(term, forest.product((outside, inside)))
        return outside, inside
    if term.kind is Kind.PRODUCT:
        return _factor_product(forest, term, inner)
    parts = forest.flat(term, Kind.CONCAT)
    if any(p.size % inner for p in parts):
        return None
    outers = []
    common: Term | None = None
    for part in parts:
        pair = _factor(forest, part, inner)
        if pair is None:
            return None
        outers.append(pair[0])
        if common is None:
            common = pair[1]
        elif not _unify(forest, common, pair[1]):
            return None
    assert common is not None
    outside = forest.concat(outers)
    term = forest.find(term)
    if term.kind is not Kind.CONCAT:
        return _factor(forest, term, inner)
    forest.rewrite(term, forest.product((outside, common)))
    return outside, common


def _factor_product(forest: Forest, term: Term, inner: int) -> tuple[Term, Term] | None:
    """Take factors from the right until they make up ``inner``, factoring the one that straddles."""
    remaining = forest.flat(term, Kind.PRODUCT)
    taken: list[Term] = []
    need = inner
    while need > 1:
        last = remaining.pop()
        if need % last.size == 0:
            taken.insert(0, last)
            need //= last.size
        elif last.size % need == 0:
            pair = _factor(forest, last, need)
            if pair is None:
                return None
            remaining.append(pair[0])
            taken.insert(0, pair[1])
            need = 1
        else:
            return None
    return forest.product(remaining), forest.product(taken)


def _unify(forest: Forest, a: Term, b: Term) -> bool:
    a, b = forest.find(a), forest.find(b)
    if a is b:
        return True
    if a.size != b.size:
        return False
    if a.kind is Kind.ATOM:
        forest.link(a, b)
        return True
    if b.kind is Kind.ATOM:
        forest.link(b, a)
        return True
    if a.kind is b.kind:
        done = _unify_parts(forest, a, b, a.kind)
    else:
        concat, product = (a, b) if a.kind is Kind.CONCAT else (b, a)
        done = _unify_mixed(forest, concat, product)
    if not done:
        return False
    a, b = forest.find(a), forest.find(b)
    forest.rewrite(b, a)
    return True


def _common_unit(forest: Forest, a: Term, b: Term) -> tuple[Term, Term] | None:
    """Write both as a count × one unit, the largest that divides every piece; gives the two counts."""
    if a.size != b.size or a.size > LONGEST:
        return None
    for size in _proper_divisors(a.size):
        if not (_divisible(forest, a, size) and _divisible(forest, b, size)):
            continue
        with forest.transaction() as attempt:
            first, second = _factor(forest, a, size), _factor(forest, b, size)
            if first is not None and second is not None and _unify(forest, first[1], second[1]):
                return first[0], second[0]
            attempt.rollback()
    return None


def _proper_divisors(number: int) -> list[int]:
    """From the largest on, without the number itself and without 1."""
    small = [d for d in range(2, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)}, reverse=True)


def _divisible(forest: Forest, term: Term, size: int) -> bool:
    """Whether ``term`` can be written as something × ``size``, judged by the sizes of its parts alone."""
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        return term.size % size == 0
    if term.kind is Kind.CONCAT:
        return all(_divisible(forest, p, size) for p in forest.flat(term, Kind.CONCAT))
    for part in reversed(forest.flat(term, Kind.PRODUCT)):
        if size % part.size:
            return _divisible(forest, part, size)
        size //= part.size
    return size == 1


def _unify_parts(forest: Forest, a: Term, b: Term, kind: Kind) -> bool:
    """Match factors from the right, parts of concatenations from the left; of two sizes the bigger one is divided."""
    divide, step = (_factor, 1) if kind is Kind.PRODUCT else (_split, -1)
    left, right = forest.flat(a, kind)[::step], forest.flat(b, kind)[::step]
    while left and right:
        x, y = forest.find(left[-1]), forest.find(right[-1])
        if x.kind is kind:
            left[-1:] = forest.flat(x, kind)[::step]
            continue
        if y.kind is kind:
            right[-1:] = forest.flat(y, kind)[::step]
            continue
        if x.size == y.size:
            if not _unify(forest, x, y):
                return False
            left.pop()
            right.pop()
            continue
        if x.size < y.size:
            left, right = right, left
            x, y = y, x
        divided = divide(forest, x, y.size)
        if divided is None:
            return False
        left[-1:] = divided[::step]
    return not left and not right


def _unify_mixed(forest: Forest, concat: Term, product: Term) -> bool:
    """Cut the product at each boundary of the concatenation; failing that, factor the concatenation."""
    with forest.transaction() as attempt:
        done = _cut_product(forest, concat, product)
        if not done:
            attempt.rollback()
    if done:
        return True
    concat, product = forest.find(concat), forest.find(product)
    if concat.kind is not Kind.CONCAT or product.kind is not Kind.PRODUCT:
        return False
    inner = forest.flat(product, Kind.PRODUCT)[-1].size
    pair = _factor(forest, concat, inner)
    if pair is None or forest.find(concat).kind is Kind.CONCAT:
        return False
    return _unify(forest, concat, product)


def _cut_product(forest: Forest, concat: Term, product: Term) -> bool:
    offset = 0
    for part in forest.flat(concat, Kind.CONCAT)[:-1]:
        offset += part.size
        if forest.find(product).size != concat.size or _split(forest, product, offset) is None:
            return False
    if forest.find(product).kind is not Kind.CONCAT:
        return False
    return _unify(forest, concat, product)
