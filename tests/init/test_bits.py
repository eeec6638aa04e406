"""The stream of raw bits: its values are part of the format, its address space has no seams."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrow.errors import UsageError
from onnxgrow.init.bits import Key, raw_bits

KEY = Key(seed=7, generation=2, tensor="conv1.weight")
WORD = (1 << 64) - 1


def philox4x64(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10 from the paper's definition, on Python integers."""
    c = [(counter >> 64 * i) & WORD for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k0, high & WORD, (low >> 64) ^ c[3] ^ k1, low & WORD]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & WORD, (k1 + 0xBB67AE8584CAA73B) & WORD
    return c


def test_first_bits_are_the_recorded_ones() -> None:
    assert [hex(int(x)) for x in raw_bits(KEY, 0, 5)] == [
        "0xa7237c2b2014552",
        "0x1ef81d775d33ab03",
        "0xd13865799eba6a1a",
        "0x4287bd8824c932a9",
        "0x6f8dee77c8b3f09",
    ]


@pytest.mark.parametrize("block", [0, 1, 2, 12345, (1 << 58) - 1])
def test_bits_are_philox_by_a_second_implementation(block: int) -> None:
    # NumPy increments the counter before it uses it.
    expected = philox4x64(KEY.words(), block + 1)
    assert raw_bits(KEY, 4 * block, 4).tolist() == expected


def test_any_range_is_the_slice_of_the_whole() -> None:
    whole = raw_bits(KEY, 0, 50)
    for start in range(50):
        for count in (0, 1, 2, 3, 4, 5, 50 - start):
            part = raw_bits(KEY, start, min(count, 50 - start))
            assert np.array_equal(part, whole[start : start + count]), (start, count)


@pytest.mark.parametrize(
    "other",
    [
        Key(8, 2, "conv1.weight"),
        Key(-7, 2, "conv1.weight"),
        Key(7, 3, "conv1.weight"),
        Key(7, 2, "conv1.bias"),
        Key(7, 2, "conv1.weight", "x"),
        Key(7, 2, "conv1.weigh", "t"),
        Key(72, 2, "conv1.weight"),
        Key(7 + (1 << 64), 2, "conv1.weight"),
        Key(7, 2, "cönv1.weight"),
        Key(7, 2, "conv1.weight\ud800"),
    ],
    ids=str,
)
def test_every_field_of_the_key_changes_every_bit_stream(other: Key) -> None:
    assert not np.intersect1d(raw_bits(KEY, 0, 1000), raw_bits(other, 0, 1000)).size


def test_equal_keys_give_equal_bits_whatever_integer_type_the_seed_has() -> None:
    same = Key(np.int64(7), np.uint8(2), "conv1.weight")  # type: ignore[arg-type]  # what callers may hand over
    assert np.array_equal(raw_bits(KEY, 0, 10), raw_bits(same, 0, 10))


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1)])
def test_a_negative_range_is_refused(start: int, count: int) -> None:
    with pytest.raises(UsageError, match=r"conv1\.weight"):
        raw_bits(KEY, start, count)


def test_a_seed_that_is_no_integer_is_refused() -> None:
    with pytest.raises(UsageError, match="integers"):
        raw_bits(Key(1.5, 1, "w"), 0, 1)  # type: ignore[arg-type]  # the fault under test
