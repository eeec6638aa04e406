"""Normal values in single precision: exact operations, the right distribution, no seams."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.single import normal_pairs, scaled_normals

KEY = Key(seed=7, generation=2, tensor="conv1.weight")


def test_values_are_the_recorded_ones() -> None:
    values = scaled_normals(KEY, [range(1000)], 0.5)
    assert values.dtype == np.float32
    # A change here changes what users get.
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16] == "845009a996ace551"


def test_values_are_those_of_the_method_in_exact_arithmetic() -> None:
    bits = raw_bits(KEY, 0, 50_000)
    upper, lower = (bits >> np.uint64(32)).astype(np.float64), bits & np.uint64(0xFFFFFFFF)
    rounded = (upper.astype(np.float32) + np.float32(0.5)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log(rounded / 2.0**32)) * np.where(lower >> np.uint64(31), -1.0, 1.0)
    angle = (lower.astype(np.uint32) << np.uint32(1)).view(np.int32) * (math.pi / 2.0**32)
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    np.testing.assert_allclose(normal_pairs(bits), expected, rtol=0, atol=2e-6)


def test_values_are_normal_and_independent() -> None:
    values = scaled_normals(KEY, [range(1 << 20)], 1.0).astype(np.float64)
    places = np.linspace(-4.5, 4.5, 301)
    expected = np.array([0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in places])
    found = np.searchsorted(np.sort(values), places) / values.size
    # Kolmogorov: a larger distance has probability 1e-5.
    assert np.abs(found - expected).max() < 2.5 / math.sqrt(values.size)
    for order, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
        powers = values**order
        assert abs(powers.mean() - moment) < 5 * powers.std() / math.sqrt(values.size)
    for step in (1, 2, 3):
        for f in (np.array, np.square):
            assert abs(np.corrcoef(f(values[:-step]), f(values[step:]))[0, 1]) < 5 / math.sqrt(values.size)


def test_the_extreme_draws_give_finite_values() -> None:
    extremes = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2**32, 2**64 - 1]
    values = normal_pairs(np.array(extremes, np.uint64))
    assert np.isfinite(values).all()
    assert 6.7 < np.abs(values).max() < 6.77
    assert (np.abs(values).reshape(-1, 2).max(axis=1) > 1e-4).all(), "no draw may make a pair of zeros"


@pytest.mark.parametrize("step", [1, 3, 64])
def test_the_inner_step_leaves_no_trace(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = raw_bits(KEY, 0, 100)
    before = normal_pairs(bits)
    monkeypatch.setattr("onnxgrow.init.single._STEP", step)
    assert normal_pairs(bits).tobytes() == before.tobytes()
    assert np.concatenate([normal_pairs(bits[i : i + 1]) for i in range(100)]).tobytes() == before.tobytes()
