"""Near-zero values: their size follows the old weight's, or they are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxgrow.errors import GrowError, UnsupportedError, UsageError
from onnxgrow.init import Key, fill, fill_ranges, near_zero_ranges, scale_to, std

KEY = Key(seed=7, generation=2, tensor="w")
TYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", TYPES)
def test_spread_is_the_scale_times_the_old_spread(dtype: type) -> None:
    old = fill("kaiming", (200, 50), fan_in=50, fan_out=200, gain=1.0, key=KEY)
    sigma = scale_to(std(old), 0.01)
    values = near_zero_ranges(KEY, [range(40_000)], sigma, dtype)
    assert values.dtype == dtype
    values = values.astype(np.float64)
    assert values.std() == pytest.approx(0.01 * old.std(), rel=0.02)
    assert abs(values.mean()) < 4 * sigma / 200


@pytest.mark.parametrize("dtype", TYPES)
def test_ranges_are_slices_of_the_whole(dtype: type) -> None:
    whole = near_zero_ranges(KEY, [range(100)], 0.5, dtype)
    parts = near_zero_ranges(KEY, [range(start, start + 9) for start in range(0, 99, 9)], 0.5, dtype)
    assert np.array_equal(parts, whole[:99])
    assert np.array_equal(
        near_zero_ranges(KEY, [range(7, 8), range(3, 3), range(90, 99)], 0.5, dtype)[1:], whole[90:99]
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_not_those_of_a_scheme_for_the_same_key(dtype: type) -> None:
    scheme = fill_ranges("lecun", (100,), [range(100)], dtype, fan_in=1, fan_out=1, gain=1.0, key=KEY, out_axes=())
    assert not np.any(near_zero_ranges(KEY, [range(100)], 1.0, dtype) == scheme)


@pytest.mark.parametrize(
    ("old_std", "scale", "kind"),
    [
        (1.0, 0.0, UsageError),
        (1.0, -1.0, UsageError),
        (1.0, math.nan, UsageError),
        (1.0, math.inf, UsageError),
        (0.0, 0.1, UnsupportedError),
        (math.nan, 0.1, UnsupportedError),
        (math.inf, 0.1, UnsupportedError),
    ],
)
def test_a_size_that_means_nothing_is_refused(old_std: float, scale: float, kind: type[GrowError]) -> None:
    with pytest.raises(kind, match=r"layer\.w"):
        scale_to(old_std, scale, "layer.w")
