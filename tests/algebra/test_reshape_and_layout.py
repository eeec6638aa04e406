"""Reshapes that networks do, and layouts of grown axes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrow.algebra import Forest, Term, grown_offset, grown_size, layout, repeated, reshape


def atoms(forest: Forest, *sizes: int) -> list[Term]:
    return [forest.atom(n) for n in sizes]


GROWABLE = [
    # name, sizes in, sizes out, input axis that grows, sizes out afterwards
    ("flatten", (2, 6, 7, 7), (2, 294), 1, [2, 343]),
    ("unflatten", (2, 294), (2, 6, 7, 7), None, None),
    ("heads", (2, 5, 12), (2, 5, 3, 4), 2, None),
    ("rows joined", (2, 5, 12), (10, 12), 2, [10, 13]),
    ("axes of size one", (6, 4), (1, 6, 1, 4, 1), 0, [1, 7, 1, 4, 1]),
    ("size one dropped", (1, 6, 1, 4), (6, 4), 1, [7, 4]),
    ("unchanged", (6, 4), (6, 4), 1, [6, 5]),
    ("groups", (2, 12, 9), (2, 3, 4, 9), None, None),
    ("across a boundary that lines up", (6, 4), (2, 12), None, None),
]


@pytest.mark.parametrize(("ins", "outs", "axis", "after"), [g[1:] for g in GROWABLE], ids=[g[0] for g in GROWABLE])
def test_reshape_keeps_axes_growable_that_line_up(
    ins: tuple[int, ...], outs: tuple[int, ...], axis: int | None, after: list[int] | None
) -> None:
    forest = Forest()
    x = atoms(forest, *ins)
    out = reshape(forest, x, outs)
    assert [t.size for t in out] == list(outs)
    growable = [leaf for t in x for leaf in forest.leaves(t) if not leaf.frozen]
    assert {leaf for t in out for leaf in forest.leaves(t) if not leaf.frozen} == set(growable) != set()
    if axis is not None and after is not None:
        growth = {forest.find(x[axis]): 1}
        assert [grown_size(forest, t, growth) for t in out] == after
    for leaf in growable:
        growth = {leaf: 2}
        assert np.prod([grown_size(forest, t, growth) for t in x]) == np.prod(
            [grown_size(forest, t, growth) for t in out]
        )


@pytest.mark.parametrize(
    ("ins", "outs"), [((4, 3), (3, 4)), ((6, 35), (10, 21)), ((5, 4), (2, 10)), ((2, 3, 5), (5, 6))]
)
def test_a_reshape_that_does_not_line_up_freezes_both_sides(ins: tuple[int, ...], outs: tuple[int, ...]) -> None:
    forest = Forest()
    x = atoms(forest, *ins)
    out = reshape(forest, x, outs, "why")
    assert [t.size for t in out] == list(outs)
    assert all("why" in leaf.frozen for t in (*x, *out) for leaf in forest.leaves(t))
    assert [forest.leaves(t) for t in x] == [[t] for t in x], "the failed attempt was taken back"


def test_only_the_block_that_does_not_line_up_is_frozen() -> None:
    forest = Forest()
    x = atoms(forest, 7, 4, 3)
    reshape(forest, x, (7, 3, 4), "why")
    assert not x[0].frozen
    assert x[1].frozen == ("why",)


@pytest.mark.parametrize(("ins", "outs"), [((0, 4), (4, 0)), ((2, 0), (0,)), ((0,), (0, 3))])
def test_a_tensor_without_entries_is_frozen(ins: tuple[int, ...], outs: tuple[int, ...]) -> None:
    forest = Forest()
    x = atoms(forest, *ins)
    out = reshape(forest, x, outs, "why")
    assert [t.size for t in out] == list(outs)
    assert all(leaf.frozen for t in (*x, *out) for leaf in forest.leaves(t))


def test_reshape_to_a_scalar_and_back() -> None:
    forest = Forest()
    assert reshape(forest, atoms(forest, 1, 1), ()) == []
    assert [t.size for t in reshape(forest, [], (1, 1))] == [1, 1]


@pytest.mark.parametrize(("ins", "outs"), [((4,), (5,)), ((2, 3), (3, 3)), ((2, 3), ())])
def test_a_reshape_that_loses_entries_is_no_reshape(ins: tuple[int, ...], outs: tuple[int, ...]) -> None:
    forest = Forest()
    with pytest.raises(ValueError, match="cannot reshape"):
        reshape(forest, atoms(forest, *ins), outs)


def test_channel_shuffle_comes_back_with_the_factors_swapped() -> None:
    forest = Forest()
    x = atoms(forest, 2, 12, 5)
    groups = reshape(forest, x, (2, 3, 4, 5))
    back = reshape(forest, [groups[0], groups[2], groups[1], groups[3]], (2, 12, 5))
    growth = {forest.find(groups[2]): 1}
    assert layout(forest, x[1], growth).tolist() == [0, 1, 2, 3, -1, 4, 5, 6, 7, -1, 8, 9, 10, 11, -1]
    assert layout(forest, back[1], growth).tolist() == [*range(12), -1, -1, -1]


def test_picks_name_the_entry_that_each_new_one_copies() -> None:
    forest = Forest()
    a, b = atoms(forest, 3, 2)
    picks = {a: np.array([2, 0]), b: np.array([1])}
    growth = {a: 2, b: 1}
    assert layout(forest, a, growth, picks).tolist() == [0, 1, 2, 2, 0]
    assert layout(forest, forest.concat((a, b)), growth, picks).tolist() == [0, 1, 2, 2, 0, 3, 4, 4]
    copied = layout(forest, forest.product((a, b)), growth, picks)
    assert copied.reshape(5, 3).tolist() == [[0, 1, 1], [2, 3, 3], [4, 5, 5], [4, 5, 5], [0, 1, 1]]
    assert (copied >= 0).all()


def test_repeated_names_the_new_index_that_each_one_repeats() -> None:
    """Along one factor or part; entries that are new for other reasons stand for themselves."""
    forest = Forest()
    a, b = atoms(forest, 2, 3)
    growth = {a: 2, b: 1}
    assert repeated(forest, a, growth, {a}).tolist() == [0, 1, 0, 1]
    side_by_side = repeated(forest, forest.concat((b, a)), growth, {a})
    assert side_by_side.tolist() == [0, 1, 2, 3, 4, 5, 4, 5]
    product = forest.product((a, b))
    inner = repeated(forest, product, growth, {b}).reshape(4, 4)
    assert inner.tolist() == [[0, 1, 2, 0], [4, 5, 6, 4], [8, 9, 10, 8], [12, 13, 14, 12]]
    every = layout(forest, product, growth)[repeated(forest, product, growth, {a, b})]
    picks = {a: np.array([0, 1]), b: np.array([0])}
    np.testing.assert_array_equal(every, layout(forest, product, growth, picks))


def test_picks_are_needed_only_for_what_grows() -> None:
    forest = Forest()
    a, b = atoms(forest, 3, 2)
    assert layout(forest, forest.concat((a, b)), {a: 1}, {a: np.array([1])}).tolist() == [0, 1, 2, 1, 3, 4]


def test_cuts_move_with_what_grows_before_them() -> None:
    forest = Forest()
    a, b, c = atoms(forest, 3, 4, 5)
    whole = forest.concat((a, forest.product((b, c))))
    growth = {a: 1, c: 2}
    assert [grown_offset(forest, whole, n, growth) for n in (0, 2, 3, 4, 8, 13, 23)] == [0, None, 4, None, 11, 18, 32]
    assert grown_offset(forest, whole, 2, {c: 1}) == 2
    assert grown_offset(forest, whole, 8, {b: 1}) is None
