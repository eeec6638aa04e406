"""The dimension algebra against a slow enumeration, over random sequences of operations."""

from __future__ import annotations

import numpy as np
import pytest
from algebra_world import Step, World, joined, labels, resolve
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxgrow.algebra import Forest, Term, grown_offset, grown_size, grows, layout, reshape

NUMBER = st.integers(0, 10_000)
NAMES = ["atom", "atom", "concat", "product", "unify", "unify", "unify", "split", "factor", "reshape", "freeze"]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(NAMES), NUMBER, NUMBER, NUMBER), min_size=3, max_size=22
)


@settings(max_examples=200)
@given(STEPS)
def test_every_promise_of_every_operation_holds_for_every_growth(steps: list[Step]) -> None:
    """Unify, split, factor, reshape, concat and product keep what they said; failures change no structure."""
    world = World()
    world.run(steps)
    for growth in world.growths():
        assert all(promise(growth) for promise in world.promises)


@settings(max_examples=120)
@given(STEPS)
def test_layout_agrees_with_enumeration_and_keeps_old_entries_in_order(steps: list[Step]) -> None:
    world = World()
    world.run(steps)
    forest = world.forest
    for growth in world.growths():
        for term in world.terms:
            found = layout(forest, term, growth)
            assert found.dtype == np.int64
            assert np.array_equal(found, labels(forest, term, growth))
            assert len(found) == grown_size(forest, term, growth)
            assert np.array_equal(found[found >= 0], np.arange(term.size))
            assert grows(forest, term, growth) == (len(found) > term.size)


@settings(max_examples=120)
@given(STEPS)
def test_grown_offset_is_where_the_layout_puts_the_cut(steps: list[Step]) -> None:
    world = World()
    world.run(steps)
    for growth in world.growths():
        for term in world.terms:
            found = layout(world.forest, term, growth)
            for offset in range(term.size + 1):
                at = grown_offset(world.forest, term, offset, growth)
                if at is not None:
                    assert set(found[:at].tolist()) - {-1} == set(range(offset))
                    assert (found[at:][:1] >= 0).all(), "appended entries belong to what is before the cut"


@settings(max_examples=100)
@given(STEPS, NUMBER, NUMBER)
def test_a_split_axis_can_always_be_cut_where_it_was_split(steps: list[Step], i: int, j: int) -> None:
    world = World()
    world.run(steps)
    term = world.pick(i)
    made = len(world.terms)
    world.split(i, j, 0)
    if len(world.terms) == made:
        return
    left = world.terms[-2]
    for growth in world.growths():
        assert grown_offset(world.forest, term, left.size, growth) == grown_size(world.forest, left, growth)


@settings(max_examples=100)
@given(STEPS)
def test_rolled_back_transaction_leaves_no_trace_at_all(steps: list[Step]) -> None:
    half = len(steps) // 2
    world = World()
    world.run(steps[:half])
    before, marks = world.snapshot(), [world.forest.reasons(t) for t in world.terms]
    kept = list(world.terms)
    with world.forest.transaction() as attempt:
        world.run(steps[half:])
        attempt.rollback()
    assert [resolve(world.forest, t) for t in kept] == before
    assert [world.forest.reasons(t) for t in kept] == marks


@settings(max_examples=100)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4), st.integers(0, 500), st.integers(0, 500))
def test_reshape_and_its_inverse_give_axes_that_grow_alike(sizes: list[int], i: int, j: int) -> None:
    total = int(np.prod(sizes))
    first = [d for d in range(1, total + 1) if total % d == 0][i % sum(total % d == 0 for d in range(1, total + 1))]
    rest = total // first
    second = [d for d in range(1, rest + 1) if rest % d == 0][j % sum(rest % d == 0 for d in range(1, rest + 1))]
    forest = Forest()
    axes = [forest.atom(n) for n in sizes]
    there = reshape(forest, axes, [first, second, rest // second])
    back = reshape(forest, there, sizes)
    leaves = [leaf for t in axes for leaf in forest.leaves(t) if not leaf.frozen]
    growth: dict[Term, int] = {leaf: 1 + n for n, leaf in enumerate(dict.fromkeys(leaves))}
    for a, b in zip(axes, back, strict=True):
        assert np.array_equal(layout(forest, a, growth), layout(forest, b, growth))


def test_the_enumeration_itself_tells_axes_apart() -> None:
    """Negative control: the same sizes in another order are other labels."""
    forest = Forest()
    a, b = forest.atom(2), forest.atom(3)
    growth = {a: 1}
    ab, ba = forest.product((a, b)), forest.product((b, a))
    assert not np.array_equal(labels(forest, ab, growth), labels(forest, ba, growth))
    assert not np.array_equal(
        labels(forest, forest.concat((a, b)), growth), labels(forest, forest.concat((b, a)), growth)
    )
    assert np.array_equal(
        joined([labels(forest, a, growth), labels(forest, b, growth)], [2, 3]), labels(forest, ab, growth)
    )


@pytest.mark.parametrize("fault", ["concat", "unify"])
def test_the_property_test_sees_a_broken_algebra(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: an algebra that ties axes only on one side, or joins in the wrong order, breaks promises."""
    import algebra_world

    if fault == "unify":
        monkeypatch.setattr(algebra_world, "unify", lambda *_: True)
    else:
        original = Forest.concat
        monkeypatch.setattr(Forest, "concat", lambda self, terms: original(self, list(terms)[::-1]))
    world = World()
    world.run([("atom", 1, 0, 0), ("atom", 1, 0, 0), ("atom", 2, 0, 0), ("unify", 0, 0, 0), ("concat", 0, 2, 0)])
    grown = {world.forest.find(world.terms[0]): 1}
    assert not all(promise(grown) for promise in world.promises)
