"""Bits to values: the distribution is right and the last bit is fixed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.transform import log, normal, uniform

KEY = Key(seed=7, generation=2, tensor="conv1.weight")
EXACT = statistics.NormalDist()


def kolmogorov_smirnov(values: np.ndarray) -> float:
    """√n times the largest distance to the normal distribution function; above 1.95 in 1 of 1000 samples."""
    expected = np.array([EXACT.cdf(x) for x in np.sort(values).tolist()])
    n = values.size
    rank = np.arange(n)
    return math.sqrt(n) * float(np.maximum(expected - rank / n, (rank + 1) / n - expected).max())


def bits_of(p: float) -> np.ndarray:
    return np.array([int(p * 2.0**52) << 12], np.uint64)


def test_first_values_are_the_recorded_ones() -> None:
    assert [float(x).hex() for x in uniform(raw_bits(KEY, 0, 2))] == [
        "0x1.4e46f85640290p-5",
        "0x1.ef81d775d33a8p-4",
    ]
    assert [float(x).hex() for x in normal(raw_bits(KEY, 0, 5))] == [
        "-0x1.bdcd73afad424p+0",
        "-0x1.2b8dee329d740p+0",
        "0x1.cf5be79e167c2p-1",
        "-0x1.49938e6703fc6p-1",
        "-0x1.ec4f022b6a915p+0",
    ]


def test_uniform_is_open_at_both_ends() -> None:
    ends = uniform(np.array([0, (1 << 64) - 1], np.uint64))
    assert ends.tolist() == [2.0**-53, 1.0 - 2.0**-53]


def test_normal_is_odd_about_the_middle_of_the_bits() -> None:
    bits = raw_bits(KEY, 0, 10_000)
    assert np.array_equal(normal(bits), -normal(~bits))


def test_normal_has_the_moments_of_a_standard_normal() -> None:
    z = normal(raw_bits(KEY, 0, 1_000_000))
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean() - moment) < 4 * math.sqrt(spread / z.size), power


def test_normal_passes_kolmogorov_smirnov() -> None:
    assert kolmogorov_smirnov(normal(raw_bits(KEY, 0, 50_000))) < 1.95


@pytest.mark.parametrize("fault", [lambda z: 1.03 * z, lambda z: z + 0.03, lambda z: np.clip(z, -2, 2)])
def test_kolmogorov_smirnov_catches_a_wrong_distribution(fault: Callable[[np.ndarray], np.ndarray]) -> None:
    assert kolmogorov_smirnov(fault(normal(raw_bits(KEY, 0, 50_000)))) > 1.95


def test_neighbouring_values_are_uncorrelated() -> None:
    z = normal(raw_bits(KEY, 0, 200_000))
    for lag in (1, 2, 3, 4, 64):
        assert abs((z[lag:] * z[:-lag]).mean()) < 4 / math.sqrt(z.size)


@pytest.mark.parametrize(
    "p",
    [2.0**-52, 1e-15, 1e-12, 1.3e-11, 1.5e-11, 1e-6, 0.0749, 0.0751, 0.3, 0.5, 0.7, 0.9249, 0.9251, 1 - 1e-9],
)
def test_normal_is_the_quantile_in_every_branch(p: float) -> None:
    bits = bits_of(p)
    z, exact_p = float(normal(bits)[0]), float(uniform(bits)[0])
    assert z == pytest.approx(EXACT.inv_cdf(exact_p), abs=2e-14)
    # Independent of the approximation: back through the complementary error function.
    tail, sign = (exact_p, 1) if exact_p < 0.5 else (1 - exact_p, -1)
    assert 0.5 * math.erfc(-sign * z / math.sqrt(2)) == pytest.approx(tail, rel=1e-12)


def test_log_is_exact_to_a_few_units_in_the_last_place() -> None:
    x = np.concatenate([2.0 ** np.linspace(-1000, 1000, 9001), 1 + np.linspace(-0.3, 0.5, 1001)])
    expected = np.array([math.log(v) for v in x.tolist()])
    assert np.all(np.abs(log(x) - expected) <= 1e-15 * np.abs(expected))


def test_values_keep_shape_and_do_not_depend_on_their_neighbours() -> None:
    bits = raw_bits(KEY, 0, 40_000)
    whole = normal(bits)
    assert np.array_equal(normal(bits.reshape(200, 200)).reshape(-1), whole)
    for start, stop in [(0, 1), (1, 8), (16_383, 16_385), (39_999, 40_000), (3, 3)]:
        assert np.array_equal(normal(bits[start:stop]), whole[start:stop])
