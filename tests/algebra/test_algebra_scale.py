"""Deep nesting and long chains: no recursion limit, no quadratic time."""

from __future__ import annotations

import itertools
import sys
import time

from onnxgrow.algebra import Forest, Kind, factor, grown_offset, grown_size, layout, reshape, split_at, unify

DEEP = 10_000


def test_ten_thousand_axes_in_a_chain_are_one() -> None:
    forest = Forest()
    chain = [forest.atom(8) for _ in range(DEEP)]
    for a, b in itertools.pairwise(chain):
        assert unify(forest, a, b)
    assert forest.find(chain[0]) is forest.find(chain[-1])
    forest.freeze(chain[0], "why")
    assert forest.reasons(chain[DEEP // 2]) == ("why",)


def test_an_axis_cut_off_one_by_one_nests_ten_thousand_deep() -> None:
    forest = Forest()
    whole = rest = forest.atom(2 * DEEP)
    pieces = []
    for _ in range(DEEP - 1):
        pair = split_at(forest, rest, 2)
        assert pair is not None
        pieces.append(pair[0])
        rest = pair[1]
    growth = {pieces[0]: 1, pieces[-1]: 2}
    assert len(layout(forest, whole, growth)) == grown_size(forest, whole, growth) == 2 * DEEP + 3
    assert grown_offset(forest, whole, 2 * DEEP - 2, growth) == 2 * DEEP + 1
    assert len(forest.leaves(whole)) == DEEP
    again = forest.atom(2 * DEEP)
    assert unify(forest, forest.concat((forest.atom(2), forest.atom(2 * DEEP - 2))), whole)
    assert unify(forest, again, whole)
    assert split_at(forest, again, DEEP) is not None


def test_concats_of_concats_stay_flat() -> None:
    forest = Forest()
    whole = forest.atom(2)
    for _ in range(1000):
        whole = forest.concat((whole, forest.atom(2)))
    assert whole.kind is Kind.CONCAT
    assert len(whole.parts) == 1001


def test_factors_taken_off_one_by_one_until_nothing_is_left() -> None:
    forest = Forest()
    whole = rest = forest.atom(2**40)
    inner = []
    for _ in range(39):
        pair = factor(forest, rest, 2)
        assert pair is not None
        rest = pair[0]
        inner.append(pair[1])
    assert grown_size(forest, whole, {inner[-1]: 1}) == 2**39 * 3
    assert len(reshape(forest, [whole], [2] * 40)) == 40


def test_kinds_that_alternate_as_deep_as_they_can() -> None:
    """Concat in product in concat …: each product at least doubles the size, so 60 levels are the most there is."""
    forest = Forest()
    left, right = forest.atom(2), forest.atom(2)
    for _ in range(55):
        left, right = (forest.concat((forest.product((t, forest.atom(2))), forest.atom(2))) for t in (left, right))
    assert unify(forest, left, right)
    leaf = forest.leaves(left)[0]
    assert grown_size(forest, left, {leaf: 1}) == grown_size(forest, right, {leaf: 1}) > left.size


def test_a_failed_unification_of_alternating_kinds_ends() -> None:
    """Mixed kinds have two ways to be tried at each level; a failure at the bottom must not try all combinations."""
    forest = Forest()
    left = forest.product((forest.atom(2), forest.atom(3)))
    right = forest.product((forest.atom(3), forest.atom(2)))
    for n in range(18):
        left = forest.concat((forest.product((left, forest.atom(2))), forest.atom(left.size * 2)))
        factors = (right, forest.atom(2)) if n % 2 else (forest.concat((right, right)),)
        right = forest.product((forest.atom(2), forest.product(factors)))
    assert left.size == right.size
    started = time.perf_counter()
    unify(forest, left, right)
    assert time.perf_counter() - started < 5


def test_time_grows_with_the_number_of_axes_not_with_its_square() -> None:
    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            forest = Forest()
            started = time.perf_counter()
            axes = [forest.atom(8, "frozen") if n % 7 == 0 else forest.atom(8) for n in range(count)]
            for a, b in itertools.pairwise(axes):
                unify(forest, a, b)
            whole = forest.concat(forest.atom(4) for _ in range(count))
            unify(forest, whole, forest.concat(forest.atom(2) for _ in range(2 * count)))
            layout(forest, whole, {})
            best = min(best, time.perf_counter() - started)
        return best

    small, large = seconds(500), seconds(4000)
    assert large < 8 * 4 * small + 0.1


def test_the_recursion_limit_was_not_raised() -> None:
    assert sys.getrecursionlimit() <= 5000
