"""How many channels a set gets."""

from __future__ import annotations

import math

import pytest

from onnxgrow.errors import UsageError
from onnxgrow.plan import DEFAULT_FACTOR, Target


@pytest.mark.parametrize(
    ("target", "old", "new"),
    [
        (Target(), 10, 10 * DEFAULT_FACTOR),
        (Target(factor=1.5), 10, 15),
        (Target(factor=1.1), 10, 11),  # 1.1 × 10 is 11.000000000000002 in binary
        (Target(factor=1.1), 30, 33),
        (Target(factor=1.15), 100, 115),
        (Target(factor=1.01), 10, 11),
        (Target(factor=4 / 3), 3, 4),  # its decimal form is just below 4/3
        (Target(factor=1e3), 3, 3000),
        (Target(add=3), 10, 13),
        (Target(to=16), 10, 16),
        (Target(to=10), 10, 10),
        (Target(to=4), 10, 10),
        (Target(add=1, multiple_of=8), 10, 16),
        (Target(to=16, multiple_of=8), 10, 16),
        (Target(factor=1.5, multiple_of=8), 10, 16),
        (Target(factor=2, multiple_of=64), 10, 64),
        (Target(to=10, multiple_of=8), 10, 10),
        (Target(add=2**40), 10, 10 + 2**40),
    ],
)
def test_sizes_are_exact(target: Target, old: int, new: int) -> None:
    assert target.size(old) == new


@pytest.mark.parametrize("tenths", range(11, 40))
def test_decimal_factors_mean_what_they_say(tenths: int) -> None:
    """A factor typed as 1.3 is thirteen tenths, for every size it divides."""
    for old in range(10, 400, 10):
        assert Target(factor=tenths / 10).size(old) == old // 10 * tenths


@pytest.mark.parametrize(
    ("wrong", "subject"),
    [
        ({"factor": 2, "add": 1}, "factor and add"),
        ({"factor": 2, "add": 1, "to": 3}, "factor and add and to"),
        ({"add": 1, "to": 3}, "add and to"),
        ({"factor": 1.0}, "factor"),
        ({"factor": 0.5}, "factor"),
        ({"factor": -2}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"add": 0}, "add"),
        ({"add": -1}, "add"),
        ({"to": 0}, "to"),
        ({"multiple_of": 0}, "multiple-of"),
    ],
)
def test_targets_that_say_nothing_or_too_much_are_refused(wrong: dict[str, float], subject: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(**wrong)  # type: ignore[arg-type]  # numbers of either kind
    assert caught.value.subject == subject


@pytest.mark.parametrize("huge", [{"factor": 1.7e308}, {"add": 10**13}, {"to": 10**20}, {"multiple_of": 2**42}])
def test_sizes_that_no_array_has_are_refused(huge: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="more than"):
        Target(**huge).size(4)  # type: ignore[arg-type]  # numbers of either kind
