"""A slow second opinion on the algebra: random operations, each remembered as an equation between label arrays.

Nothing here calls ``layout`` to judge ``layout``: the labels of a term are enumerated entry by entry from its
structure, and what an operation promised is stated in numpy over those labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as cartesian
from math import prod

import numpy as np

from onnxgrow.algebra import Forest, Kind, Term, factor, reshape, split_at, unify

Structure = tuple[object, ...]
Step = tuple[str, int, int, int]
Operation = Callable[[int, int, int], None]

MAX_SIZE = 48


def resolve(forest: Forest, term: Term) -> Structure:
    """What a term is made of right now, all the way down; recursion ends because parts get smaller."""
    term = forest.find(term)
    assert term.parent is None
    assert all(forest.find(p).size < term.size for p in term.parts)
    if term.kind is Kind.ATOM:
        return ("atom", term.serial, term.size)
    return (term.kind.value, *(resolve(forest, p) for p in term.parts))


def labels(forest: Forest, term: Term, growth: dict[Term, int]) -> np.ndarray:
    """Old index or −1 of every entry, enumerated from the structure of the term."""
    term = forest.find(term)
    if term.kind is Kind.ATOM:
        return np.array([*range(term.size), *[-1] * growth.get(term, 0)], int)
    parts = [labels(forest, p, growth) for p in term.parts]
    sizes = [p.size for p in term.parts]
    if term.kind is Kind.CONCAT:
        starts = np.cumsum([0, *sizes])
        return np.array([-1 if e < 0 else e + s for p, s in zip(parts, starts, strict=False) for e in p], int)
    return np.array([flat_index(entry, sizes) for entry in cartesian(*parts)], int)


def flat_index(entry: Sequence[int], sizes: Sequence[int]) -> int:
    """Row-major position of an index tuple; −1 where any part of it is new."""
    return -1 if min(entry, default=0) < 0 else int(np.ravel_multi_index(tuple(entry), tuple(sizes)) if sizes else 0)


def joined(parts: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Labels of a tensor with these axes, read row by row."""
    return np.array([flat_index(entry, sizes) for entry in cartesian(*parts)], int)


class World:
    """A pool of axes, what was promised about them, and every axis ever made."""

    def __init__(self) -> None:
        self.forest = Forest()
        self.terms: list[Term] = []
        self.promises: list[Callable[[dict[Term, int]], bool]] = []
        self.failures = 0
        self.operations: dict[str, Operation] = {
            "atom": self.atom,
            "concat": self.concat,
            "product": self.product,
            "unify": self.unify,
            "split": self.split,
            "factor": self.factor,
            "reshape": self.reshape,
            "freeze": self.freeze,
        }

    # ---- helpers

    def pick(self, number: int) -> Term:
        if not self.terms:
            self.terms.append(self.forest.atom(12))
        return self.terms[number % len(self.terms)]

    def partner(self, term: Term, number: int) -> Term:
        """An axis of the same size, if there is another one, so that most unifications mean something."""
        fitting = [t for t in self.terms if t.size == term.size and t is not term]
        return fitting[number % len(fitting)] if fitting else self.pick(number)

    def labels(self, term: Term, growth: dict[Term, int]) -> np.ndarray:
        return labels(self.forest, term, growth)

    def snapshot(self) -> list[Structure]:
        return [resolve(self.forest, t) for t in self.terms]

    def add(self, *terms: Term) -> None:
        self.terms += terms

    def failed(self, before: list[Structure]) -> None:
        self.failures += 1
        assert self.snapshot() == before, "a failed operation changed the structure"

    # ---- operations

    def atom(self, i: int, j: int, k: int) -> None:
        self.add(self.forest.atom((2, 3, 4, 6, 8, 12, 24, 1)[i % 8]))

    def concat(self, i: int, j: int, k: int) -> None:
        parts = [self.pick(n) for n in (i, j, k)[: 2 + k % 2]]
        if sum(p.size for p in parts) > MAX_SIZE:
            return
        whole = self.forest.concat(parts)
        starts = np.cumsum([0] + [p.size for p in parts])

        def promise(growth: dict[Term, int]) -> bool:
            pieces = [self.labels(p, growth) for p in parts]
            pieces = [np.where(p < 0, -1, p + s) for p, s in zip(pieces, starts, strict=False)]
            return np.array_equal(self.labels(whole, growth), np.concatenate(pieces))

        self.promises.append(promise)
        self.add(whole)

    def product(self, i: int, j: int, k: int) -> None:
        parts = [self.pick(n) for n in (i, j)]
        if prod(p.size for p in parts) > MAX_SIZE:
            return
        whole = self.forest.product(parts)
        self.promise_regrouped(parts, [whole])
        self.add(whole)

    def promise_regrouped(self, ins: Sequence[Term], outs: Sequence[Term]) -> None:
        def promise(growth: dict[Term, int]) -> bool:
            a, b = ([self.labels(t, growth) for t in ts] for ts in (ins, outs))
            return np.array_equal(joined(a, [t.size for t in ins]), joined(b, [t.size for t in outs]))

        self.promises.append(promise)

    def unify(self, i: int, j: int, k: int) -> None:
        a = self.pick(i)
        b = self.partner(a, j)
        before = self.snapshot()
        if unify(self.forest, a, b, f"unify {a.serial} {b.serial}"):
            self.promises.append(lambda growth: np.array_equal(self.labels(a, growth), self.labels(b, growth)))
            return
        self.failed(before)
        assert all(leaf.frozen for t in (a, b) for leaf in self.forest.leaves(t))

    def split(self, i: int, j: int, k: int) -> None:
        term = self.pick(i)
        if term.size < 2:
            return
        before = self.snapshot()
        offset = 1 + j % (term.size - 1)
        pair = split_at(self.forest, term, offset)
        if pair is None:
            self.failed(before)
            return
        assert (pair[0].size, pair[1].size) == (offset, term.size - offset)

        def promise(growth: dict[Term, int]) -> bool:
            left, right = (self.labels(t, growth) for t in pair)
            right = np.where(right < 0, -1, right + offset)
            return np.array_equal(self.labels(term, growth), np.concatenate([left, right]))

        self.promises.append(promise)
        self.add(*pair)

    def factor(self, i: int, j: int, k: int) -> None:
        term = self.pick(i)
        divisors = [d for d in range(1, term.size + 1) if term.size % d == 0]
        before = self.snapshot()
        pair = factor(self.forest, term, divisors[j % len(divisors)])
        if pair is None:
            self.failed(before)
            return
        self.promise_regrouped([term], pair)
        self.add(*pair)

    def reshape(self, i: int, j: int, k: int) -> None:
        ins = [self.pick(n) for n in (i, j)[: 1 + k % 2]]
        total = prod(t.size for t in ins)
        if total > 2 * MAX_SIZE:
            return
        sizes = []
        for number in (j, k):
            divisors = [d for d in range(1, total + 1) if total % d == 0]
            sizes.append(divisors[number % len(divisors)])
            total //= sizes[-1]
        sizes.append(total)
        outs = reshape(self.forest, ins, sizes, "reshape")
        assert [t.size for t in outs] == sizes
        self.promise_regrouped(ins, outs)
        self.add(*(t for t in outs if t.size <= MAX_SIZE))

    def freeze(self, i: int, j: int, k: int) -> None:
        if j % 4 == 0:
            self.forest.freeze(self.pick(i), f"frozen {i % 5}")

    # ---- judgement

    def run(self, steps: Sequence[Step]) -> None:
        for name, i, j, k in steps:
            sizes = [(t, t.size) for t in self.terms]
            frozen = [set(self.forest.leaves(t)) for t in self.terms if all(x.frozen for x in self.forest.leaves(t))]
            self.operations[name](i, j, k)
            assert all(self.forest.find(t).size == n for t, n in sizes)
            assert all(x.frozen for group in frozen for x in group), "a frozen axis came loose"
            if len(self.terms) > 24:
                del self.terms[0 : len(self.terms) - 24]

    def growable(self) -> list[Term]:
        leaves = {leaf: None for t in self.terms for leaf in self.forest.leaves(t)}
        return [leaf for leaf in leaves if not leaf.frozen]

    def growths(self) -> list[dict[Term, int]]:
        atoms = self.growable()
        return [{a: 1 + n % 3 for n, a in enumerate(atoms)}, *({a: 2} for a in atoms[:3])]
