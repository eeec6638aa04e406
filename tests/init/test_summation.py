"""Sums in a fixed order, and the spread of a weight."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from onnxgrow.errors import UnsupportedError
from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.summation import fold, std, tree_sum
from onnxgrow.init.transform import normal


def test_fold_adds_halves_and_carries_an_odd_entry() -> None:
    big = 2.0**53
    # ((a + c) + (b + d)) + e, where every other order rounds differently.
    assert float(fold(np.array([big, 1.0, 1.0, 1.0, -big]))) == ((big + 1.0) + (1.0 + 1.0)) + -big
    assert float(fold(np.array([1.0, big, 1.0, -big]))) == 2.0


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 65_535, 65_536, 65_537, 200_001])
def test_tree_sum_agrees_with_an_exact_sum(n: int) -> None:
    values = normal(raw_bits(Key(0, 1, "w"), 0, n))
    assert tree_sum(values) == pytest.approx(math.fsum(values.tolist()), abs=1e-11)


def test_the_order_of_a_long_sum_is_the_recorded_one() -> None:
    values = normal(raw_bits(Key(0, 1, "w"), 0, 200_001))
    assert tree_sum(values).hex() == "0x1.4aadbf9d2e493p+9"
    assert std(values).hex() == "0x1.ffa9e19e35cd7p-1"


def test_fold_sums_over_the_first_axis_only() -> None:
    assert fold(np.arange(12.0).reshape(3, 4)).tolist() == [12.0, 15.0, 18.0, 21.0]
    assert fold(np.zeros((0, 2))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_std_is_the_population_standard_deviation_in_float64(dtype: type) -> None:
    values = (3 + normal(raw_bits(Key(0, 1, "w"), 0, 100_000))).astype(dtype).reshape(100, 1000)
    assert std(values) == pytest.approx(statistics_of(values), rel=1e-12)


def statistics_of(values: np.ndarray) -> float:
    flat = [float(v) for v in values.reshape(-1)]
    mean = math.fsum(flat) / len(flat)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in flat) / len(flat))


def test_std_of_one_entry_is_zero() -> None:
    assert std(np.array([5.0])) == 0.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [1, math.nan], [1, math.inf], [math.inf, -math.inf], [1e300, -1e300]])
def test_std_refuses_what_has_no_finite_spread(values: list[float]) -> None:
    with pytest.raises(UnsupportedError, match=r"^UNSUPPORTED: layer\.w: "):
        std(np.array(values, np.float64), "layer.w")
