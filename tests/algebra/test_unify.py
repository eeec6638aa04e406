"""Ties that real networks make, and those that cannot be made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxgrow.algebra import Forest, Kind, Term, factor, grown_size, layout, split_at, unify

Build = Callable[[Forest], Term]


def atom(size: int) -> Build:
    return lambda f: f.atom(size)


def concat(*parts: Build) -> Build:
    return lambda f: f.concat([p(f) for p in parts])


def product(*parts: Build) -> Build:
    return lambda f: f.product([p(f) for p in parts])


ALIGNED = [
    ("atom with atom", atom(6), atom(6)),
    ("atom with concat", atom(6), concat(atom(2), atom(4))),
    ("atom with product", atom(6), product(atom(2), atom(3))),
    ("products of the same sizes", product(atom(4), atom(3)), product(atom(4), atom(3))),
    ("products of different sizes", product(atom(4), atom(6)), product(atom(8), atom(3))),
    ("three factors with two", product(atom(2), atom(3), atom(4)), product(atom(6), atom(4))),
    ("concats of the same sizes", concat(atom(4), atom(6)), concat(atom(4), atom(6))),
    ("concats of different sizes", concat(atom(4), atom(6)), concat(atom(6), atom(4))),
    ("three parts with two", concat(atom(2), atom(3), atom(4)), concat(atom(5), atom(4))),
    ("qkv with heads", concat(atom(12), atom(12), atom(12)), product(atom(9), atom(4))),
    ("uneven parts with a multiple of the factor", concat(atom(8), atom(12)), product(atom(5), atom(4))),
    ("parts that are factors", concat(product(atom(3), atom(4)), atom(8)), product(atom(5), atom(4))),
    ("concat under a product", product(concat(atom(4), atom(6)), atom(3)), product(atom(10), atom(3))),
]
MISALIGNED = [
    ("different sizes", atom(6), atom(8)),
    ("coprime factors", product(atom(4), atom(3)), product(atom(3), atom(4))),
    ("a cut through a factor", concat(atom(5), atom(7)), product(atom(3), atom(4))),
]


IN_UNITS = [
    ("groups that straddle the parts", concat(product(atom(4), atom(28)), atom(24)), product(atom(4), atom(34)), 2),
    ("shuffled rows", product(atom(34), atom(4)), product(atom(4), atom(34)), 2),
    ("parts of products", concat(product(atom(5), atom(9)), atom(15)), product(atom(6), atom(10)), None),
    ("parts of products", concat(product(atom(5), atom(9)), atom(15)), product(atom(5), atom(12)), 3),
    ("several factors inside", concat(atom(20), atom(12)), product(atom(4), atom(2), atom(2), atom(2)), 4),
    ("cuts through products", concat(product(atom(4), atom(6)), atom(8)), concat(atom(10), atom(22)), 2),
]


@pytest.mark.parametrize(("a", "b", "unit"), [p[1:] for p in IN_UNITS], ids=[p[0] for p in IN_UNITS])
@pytest.mark.parametrize("swapped", [False, True])
def test_axes_that_do_not_line_up_grow_in_their_common_unit(
    a: Build, b: Build, unit: int | None, swapped: bool
) -> None:
    forest = Forest()
    left, right = a(forest), b(forest)
    assert unify(forest, *((right, left) if swapped else (left, right)), "why") is (unit is not None)
    free = [leaf for leaf in dict.fromkeys(forest.leaves(left)) if not leaf.frozen]
    assert free == [leaf for leaf in dict.fromkeys(forest.leaves(right)) if not leaf.frozen]
    assert unit is None or np.prod([leaf.size for leaf in free]) == unit
    for leaf in free:
        grown = layout(forest, left, {leaf: 1})
        assert len(grown) > left.size
        assert np.array_equal(grown, layout(forest, right, {leaf: 1}))
    frozen = [leaf for t in (left, right) for leaf in forest.leaves(t) if leaf not in free]
    assert frozen
    assert all("why" in leaf.frozen for leaf in frozen)


def test_an_axis_too_long_to_search_is_frozen() -> None:
    forest = Forest()
    left = forest.concat((forest.product((forest.atom(1 << 10), forest.atom(1 << 10))), forest.atom(6)))
    right = forest.product((forest.atom(left.size // 3), forest.atom(3)))
    assert not unify(forest, left, right)


@pytest.mark.parametrize(("a", "b"), [p[1:] for p in ALIGNED], ids=[p[0] for p in ALIGNED])
@pytest.mark.parametrize("swapped", [False, True])
def test_aligned_axes_become_one_that_can_still_grow(a: Build, b: Build, swapped: bool) -> None:
    forest = Forest()
    left, right = a(forest), b(forest)
    assert unify(forest, *((right, left) if swapped else (left, right)))
    atoms = [leaf for leaf in dict.fromkeys(forest.leaves(left)) if not leaf.frozen]
    assert atoms
    assert dict.fromkeys(forest.leaves(left)) == dict.fromkeys(forest.leaves(right))
    for n, leaf in enumerate(atoms):
        growth = {leaf: n + 1}
        grown = layout(forest, left, growth)
        assert len(grown) > left.size
        assert np.array_equal(grown, layout(forest, right, growth))


@pytest.mark.parametrize(("a", "b"), [p[1:] for p in MISALIGNED], ids=[p[0] for p in MISALIGNED])
@pytest.mark.parametrize("swapped", [False, True])
def test_misaligned_axes_stay_apart_and_are_frozen_with_the_reason(a: Build, b: Build, swapped: bool) -> None:
    forest = Forest()
    left, right = a(forest), b(forest)
    leaves = forest.leaves(left), forest.leaves(right)
    assert not unify(forest, *((right, left) if swapped else (left, right)), "why")
    assert (forest.leaves(left), forest.leaves(right)) == leaves
    assert all("why" in leaf.frozen for leaf in (*leaves[0], *leaves[1]))


def test_a_failure_deep_inside_takes_back_the_ties_made_on_the_way() -> None:
    forest = Forest()
    a, b = forest.atom(5), forest.atom(5)
    left = forest.concat((a, forest.product((forest.atom(4), forest.atom(3)))))
    right = forest.concat((b, forest.product((forest.atom(3), forest.atom(4)))))
    assert not unify(forest, left, right)
    assert forest.find(a) is not forest.find(b)


def test_without_a_reason_a_failure_still_says_something() -> None:
    forest = Forest()
    a, b = forest.atom(5), forest.atom(4)
    unify(forest, a, b)
    assert forest.reasons(a) == forest.reasons(b) == ("misaligned axes",)


def test_refinement_reaches_terms_made_before() -> None:
    forest = Forest()
    channels = forest.atom(12)
    flat = forest.product((channels, forest.atom(49)))
    pair = split_at(forest, channels, 4)
    assert pair is not None
    assert grown_size(forest, flat, {pair[0]: 2}) == (12 + 2) * 49


def test_fused_qkv_reshaped_to_heads_grows_each_of_its_parts() -> None:
    """One weight makes q, k and v; each is cut into heads of the same head width."""
    forest = Forest()
    fused = forest.atom(36)
    first = split_at(forest, fused, 12)
    assert first is not None
    second = split_at(forest, first[1], 12)
    assert second is not None
    heads = []
    for part in (first[0], *second):
        pair = factor(forest, part, 4)
        assert pair is not None
        heads.append(pair)
    for outer, inner in heads[1:]:
        assert unify(forest, heads[0][0], outer)
        assert unify(forest, heads[0][1], inner)
    width = forest.find(heads[0][1])
    grown = layout(forest, fused, {width: 1})
    assert grown.tolist()[:10] == [0, 1, 2, 3, -1, 4, 5, 6, 7, -1]
    assert grown_size(forest, fused, {width: 1}) == 3 * 3 * 5
    assert grown_size(forest, fused, {forest.find(heads[0][0]): 1}) == 3 * 4 * 4


def test_fused_qkv_that_is_reshaped_before_it_is_split() -> None:
    """(3·heads·width) → (3, heads, width): three parts of one layout, or a product."""
    forest = Forest()
    fused = forest.concat([forest.atom(12) for _ in range(3)])
    pair = factor(forest, fused, 4)
    assert pair is not None
    assert forest.find(fused).kind is Kind.PRODUCT
    assert grown_size(forest, fused, {forest.find(pair[1]): 1}) == 9 * 5


def test_channel_shuffle_swaps_the_factors() -> None:
    forest = Forest()
    channels = forest.atom(12)
    pair = factor(forest, channels, 6)
    assert pair is not None
    shuffled = forest.product(pair[::-1])
    assert layout(forest, shuffled, {pair[1]: 1}).tolist() == [*range(12), -1, -1]
    assert layout(forest, channels, {pair[1]: 1}).tolist() == [*range(6), -1, *range(6, 12), -1]


def test_an_axis_joined_with_itself_grows_in_both_places() -> None:
    forest = Forest()
    a = forest.atom(3)
    twice = forest.concat((a, a))
    assert layout(forest, twice, {a: 1}).tolist() == [0, 1, 2, -1, 3, 4, 5, -1]
    pair = split_at(forest, twice, 1)
    assert pair is not None
    assert len(forest.leaves(twice)) == 4
    assert forest.leaves(twice)[:2] == forest.leaves(twice)[2:]


@pytest.mark.parametrize("offset", [0, 6, -1, 7])
def test_a_cut_has_to_lie_inside(offset: int) -> None:
    forest = Forest()
    with pytest.raises(ValueError, match="cannot cut"):
        split_at(forest, forest.atom(6), offset)


@pytest.mark.parametrize(
    ("inner", "sizes"), [(1, (12, 1)), (12, (1, 12)), (4, (3, 4)), (5, None), (0, None), (-4, None), (24, None)]
)
def test_factor_sizes(inner: int, sizes: tuple[int, int] | None) -> None:
    forest = Forest()
    a = forest.atom(12)
    pair = factor(forest, a, inner)
    assert (pair and (pair[0].size, pair[1].size)) == sizes
    assert forest.reasons(a) == ()


def test_a_product_is_cut_only_between_its_rows() -> None:
    forest = Forest()
    rows = forest.product((forest.atom(5), forest.atom(4)))
    assert split_at(forest, rows, 6) is None
    assert forest.find(rows).kind is Kind.PRODUCT
    pair = split_at(forest, rows, 8)
    assert pair is not None
    assert (pair[0].size, pair[1].size) == (8, 12)
