"""Orthogonal values: orthonormal, uniform, and laid out by the out axes."""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
import pytest

from onnxgrow.init import Key, fill, normal, raw_bits
from onnxgrow.init.orthogonal import orthonormal_rows

KEY = Key(seed=7, generation=2, tensor="w")


def drawn(shape: tuple[int, ...], out_axes: tuple[int, ...] = (0,), gain: float = 1.0, key: Key = KEY) -> np.ndarray:
    return fill("orthogonal", shape, fan_in=1, fan_out=1, gain=gain, key=key, out_axes=out_axes)


def error(rows: np.ndarray) -> float:
    return float(np.abs(rows @ rows.T - np.eye(len(rows))).max())


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (5, 5), (16, 17), (17, 16), (40, 300), (100, 256), (257, 257), (30, 513)]
)
def test_rows_are_orthonormal_in_groups_as_large_as_they_can_be(shape: tuple[int, int]) -> None:
    matrix = drawn(shape)
    for first in range(0, shape[0], shape[1]):
        assert error(matrix[first : first + shape[1]]) <= 1e-12


def test_rows_wider_than_a_tile_are_the_recorded_ones() -> None:
    assert hashlib.sha256(drawn((5, 700)).astype("<f8").tobytes()).hexdigest()[:16] == "c1902e90e6b47f15"


def test_the_error_measure_catches_rows_that_are_only_normalised() -> None:
    rows = normal(raw_bits(KEY, 0, 40 * 300)).reshape(40, 300)
    assert error(rows / np.linalg.norm(rows, axis=1, keepdims=True)) > 1e-2


def test_whole_groups_have_orthogonal_columns_and_differ() -> None:
    matrix = drawn((24, 8))
    assert error(matrix.T / math.sqrt(3)) <= 1e-12
    assert not np.any(matrix[:8] == matrix[8:16])


@pytest.mark.parametrize(
    ("shape", "out_axes"),
    [((20, 5, 3), (1,)), ((20, 5, 3), (-2,)), ((5, 40, 4), (2, 0)), ((3, 3, 2, 6), (3,)), ((7,), ())],
)
def test_rows_are_the_out_axes(shape: tuple[int, ...], out_axes: tuple[int, ...]) -> None:
    moved = np.moveaxis(drawn(shape, out_axes), out_axes, range(len(out_axes)))
    rows = moved.reshape(math.prod(moved.shape[: len(out_axes)]), -1)
    assert error(rows) <= 1e-12


def test_gain_scales_the_rows() -> None:
    assert np.array_equal(drawn((4, 8), gain=2.0), 2.0 * drawn((4, 8)))


def test_entries_are_distributed_as_on_a_random_sphere() -> None:
    # Over many draws each entry of a 3 × 4 matrix has mean 0 and variance 1/4, and entries are uncorrelated.
    samples = np.array([drawn((3, 4), key=Key(seed, 1, "w")) for seed in range(1000)]).reshape(1000, 12)
    second = samples.T @ samples / len(samples)
    assert np.abs(samples.mean(axis=0)).max() < 5 * 0.5 / math.sqrt(1000)
    assert np.abs(second - np.eye(12) / 4).max() < 5 * 0.25 / math.sqrt(1000)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_neither_block_nor_threads_change_a_bit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = normal(raw_bits(KEY, 0, 50 * 300)).reshape(50, 300)
    before = orthonormal_rows(draws)
    monkeypatch.setattr("onnxgrow.init.orthogonal._ROWS", rows)
    for processors in (1, 5, None):
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        assert np.array_equal(orthonormal_rows(draws), before)
