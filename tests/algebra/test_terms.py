"""Making, freezing and taking back terms."""

from __future__ import annotations

import pytest

from onnxgrow.algebra import Forest, Kind, Term, factor, grown_size, split_at, unify
from onnxgrow.algebra.terms import MAX_REASONS


@pytest.fixture
def forest() -> Forest:
    return Forest()


@pytest.mark.parametrize("size", [0, 1])
def test_axes_of_fewer_than_two_entries_are_frozen(forest: Forest, size: int) -> None:
    assert forest.reasons(forest.atom(size)) == (f"size {size}",)
    assert forest.reasons(forest.atom(size, "why")) == ("why",)


def test_an_axis_has_no_negative_size(forest: Forest) -> None:
    with pytest.raises(ValueError, match="-1"):
        forest.atom(-1)


def test_composites_are_flat_and_drop_what_says_nothing(forest: Forest) -> None:
    a, b, c = forest.atom(2), forest.atom(3), forest.atom(5)
    joined = forest.concat((forest.concat((a, forest.atom(0), b)), c))
    assert joined.size == 10
    assert list(joined.parts) == [a, b, c]
    nested = forest.product((forest.product((a, forest.one())), forest.product((b, c))))
    assert nested.size == 30
    assert list(nested.parts) == [a, b, c]
    assert forest.product((a, forest.one())) is a
    assert forest.concat((forest.atom(0), a)) is a
    assert forest.product(()).size == 1
    assert forest.concat(()).size == 0


def test_a_product_with_an_empty_factor_is_an_empty_frozen_axis(forest: Forest) -> None:
    empty, a = forest.atom(0), forest.atom(5)
    whole = forest.product((empty, a))
    assert whole.kind is Kind.ATOM
    assert whole.size == 0
    assert whole.frozen
    assert not a.frozen
    assert unify(forest, empty, whole)
    assert grown_size(forest, whole, {a: 3}) == 0


def test_reasons_follow_an_axis_into_its_parts_and_to_what_it_is_tied_to(forest: Forest) -> None:
    a = forest.atom(12)
    forest.freeze(a, "first")
    pair = split_at(forest, a, 4)
    assert pair is not None
    inner = factor(forest, pair[1], 2)
    assert inner is not None
    assert [forest.reasons(t) for t in (pair[0], *inner)] == [("first",)] * 3

    b, c = forest.atom(12), forest.atom(12, "second")
    unify(forest, b, c)
    unify(forest, b, a)
    assert set(forest.reasons(inner[1])) == {"first", "second"}
    assert forest.reasons(a) == forest.reasons(b) == forest.reasons(c)


def test_freezing_an_axis_freezes_what_it_was_tied_to_before(forest: Forest) -> None:
    a, parts = forest.atom(6), [forest.atom(2), forest.atom(4)]
    unify(forest, a, forest.concat(parts))
    forest.freeze(a, "late")
    assert [forest.reasons(p) for p in parts] == [("late",), ("late",)]


def test_reasons_are_kept_once_in_order_and_up_to_a_limit(forest: Forest) -> None:
    a = forest.atom(4)
    for reason in ("x", "y", "x"):
        forest.freeze(a, reason)
    assert forest.reasons(a) == ("x", "y")
    for n in range(100):
        unify(forest, a, forest.atom(4, f"reason {n}"))
    assert len(forest.reasons(a)) == MAX_REASONS
    assert len(forest.atom(4, *range(100)).frozen) == MAX_REASONS


def test_an_atom_cannot_stand_for_another_size(forest: Forest) -> None:
    with pytest.raises(ValueError, match="cannot stand for"):
        forest.link(forest.atom(4), forest.atom(5))


def test_an_axis_never_comes_to_contain_itself(forest: Forest) -> None:
    a, b = forest.atom(4), forest.atom(4)
    assert unify(forest, a, forest.product((a, forest.one())))
    assert forest.find(a).kind is Kind.ATOM
    assert not unify(forest, a, forest.concat((a, b)))
    assert not unify(forest, a, forest.product((b, a)))
    assert forest.leaves(a) == [a]


def test_transactions_nest_and_the_outer_one_takes_back_the_inner(forest: Forest) -> None:
    a, b, c = forest.atom(4), forest.atom(4), forest.atom(4)
    with forest.transaction() as outer:
        with forest.transaction() as inner:
            forest.link(forest.find(a), b)
            inner.rollback()
        assert forest.find(a) is a
        with forest.transaction():
            forest.link(a, c)
            forest.freeze(b, "no")
        assert forest.find(a) is c
        outer.rollback()
    assert forest.find(a) is a
    assert not b.frozen


def test_an_exception_takes_a_transaction_back(forest: Forest) -> None:
    a, b = forest.atom(4), forest.atom(4)

    def fail() -> None:
        with forest.transaction():
            forest.link(a, b)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert forest.find(a) is a


def test_rollback_takes_back_path_compression_too(forest: Forest) -> None:
    """A compressed path that outlives the link it jumped over would tie axes that were never tied."""
    a, b, c = (forest.atom(4) for _ in range(3))
    unify(forest, a, b)
    with forest.transaction() as attempt:
        forest.link(b, c)
        assert forest.find(a) is c
        attempt.rollback()
    assert forest.find(a) is b
    assert forest.find(c) is c


def test_a_term_prints_without_a_forest(forest: Forest) -> None:
    term: Term = forest.concat((forest.atom(2), forest.atom(3, "no")))
    assert repr(term).startswith("<concat")
    assert repr(term.parts[1]).startswith("<!atom")
