"""Copies: old entries where they were, new ones from old ones, no twins before they are unavoidable."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrow.errors import UsageError
from onnxgrow.init import Key, OldWeight, copied_indices, fill

KEY = Key(seed=7, generation=2, tensor="w")


def drawn(shape: tuple[int, ...], old: OldWeight | None, key: Key = KEY) -> np.ndarray:
    return fill("copy", shape, fan_in=1, fan_out=1, gain=3.0, key=key, old=old)


def test_new_channels_are_old_channels_unscaled() -> None:
    old = np.arange(20.0).reshape(5, 4).astype(np.float32)
    new = drawn((8, 4), OldWeight(old))
    assert np.array_equal(new[:5], old)
    assert np.array_equal(new[5:], old[copied_indices(KEY, 0, 5, 3)])


def test_the_map_of_an_axis_says_where_the_old_entries_are() -> None:
    old = np.arange(6.0).reshape(3, 2)
    rows, columns = np.array([-1, 0, 1, -1, 2]), np.array([1, -1, 0])
    new = drawn((5, 3), OldWeight(old, {0: rows, 1: columns}))
    assert np.array_equal(new[np.ix_([1, 2, 4], [2, 0])], old)
    row, column = copied_indices(KEY, 0, 3, 2), copied_indices(KEY, 1, 2, 1)
    assert np.array_equal(new[np.ix_([0, 3], [1])], old[np.ix_(row, column)])


@pytest.mark.parametrize(("old", "new"), [(10, 10), (10, 7), (10, 25), (1, 4), (1000, 1500)])
def test_no_channel_is_copied_again_before_all_were(old: int, new: int) -> None:
    taken = np.bincount(copied_indices(KEY, 0, old, new), minlength=old)
    assert taken.sum() == new
    assert taken.max() - taken.min() <= 1


def test_the_choice_depends_on_key_and_axis_and_is_no_fixed_order() -> None:
    choices = [
        copied_indices(KEY, 0, 100, 100).tolist(),
        copied_indices(KEY, 1, 100, 100).tolist(),
        copied_indices(Key(7, 3, "w"), 0, 100, 100).tolist(),
        list(range(100)),
    ]
    assert len({tuple(c) for c in choices}) == 4


def test_every_channel_is_chosen_about_equally_often() -> None:
    first = [int(copied_indices(Key(seed, 1, "w"), 0, 5, 1)[0]) for seed in range(2000)]
    assert np.abs(np.bincount(first, minlength=5) - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("shape", "old"),
    [
        ((4, 2), None),
        ((4, 2), OldWeight(np.ones(4))),
        ((4, 2), OldWeight(np.ones((0, 2)))),
        ((4, 2), OldWeight(np.ones((5, 2)))),
        ((4, 2), OldWeight(np.ones((3, 2)), {0: np.array([0, 1, -1])})),
        ((4, 2), OldWeight(np.ones((3, 2)), {0: np.array([0, 1, 3, -1])})),
    ],
    ids=["none", "rank", "empty", "larger", "short map", "map beyond the old weight"],
)
def test_an_old_weight_that_does_not_fit_is_refused(shape: tuple[int, ...], old: OldWeight | None) -> None:
    with pytest.raises(UsageError, match="USAGE: w: "):
        drawn(shape, old)
