"""Schemes: size of the values, independence of blocks, refusals."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.init import Key, OldWeight, fill, fill_ranges, is_elementwise, scheme_names
from onnxgrow.init.registry import find, register

KEY = Key(seed=7, generation=2, tensor="conv1.weight")
OLD = OldWeight(np.arange(24.0).reshape(4, 2, 3))

# First eight bytes of the SHA-256 of shape (6, 4, 3), little-endian: a change here changes what users get.
GOLDEN = {
    "copy": "22835fbbd20424b3",
    "kaiming": "aa86c697fb6679f0",
    "lecun": "e878571296384816",
    "orthogonal": "246e31e970199327",
    "xavier": "a2481f0a7eac9dfd",
    "zeros": "1a0295f4bf5986c5",
}


def drawn(scheme: str, shape: tuple[int, ...] = (6, 4, 3), key: Key = KEY, **changes: object) -> np.ndarray:
    arguments: dict[str, object] = {"fan_in": 12, "fan_out": 18, "gain": 2.0, "old": OLD} | changes
    return fill(scheme, shape, key=key, **arguments)  # type: ignore[arg-type]  # a mixed dictionary


def ranges_of(scheme: str, ranges: list[range], dtype: type, **changes: float) -> np.ndarray:
    arguments: dict[str, float] = {"fan_in": 12, "fan_out": 18, "gain": 2.0} | changes
    return fill_ranges(scheme, (6, 4, 3), ranges, dtype, key=KEY, old=OLD, **arguments)  # type: ignore[arg-type]  # a mixed dictionary


def test_every_scheme_has_a_recorded_result() -> None:
    found = {s: hashlib.sha256(drawn(s).astype("<f8").tobytes()).hexdigest()[:16] for s in scheme_names()}
    assert found == GOLDEN


@pytest.mark.parametrize("scheme", scheme_names())
def test_result_is_contiguous_float64_of_the_shape(scheme: str) -> None:
    for shape in [(6, 4, 3), (4, 2, 3), (5, 2, 1 + 2)]:
        values = drawn(scheme, shape)
        assert (values.shape, values.dtype) == (shape, np.float64)
        assert values.flags.c_contiguous
        assert np.isfinite(values).all()


@pytest.mark.parametrize("scheme", ["kaiming", "lecun", "orthogonal", "xavier", "zeros"])
def test_empty_tensors_stay_empty(scheme: str) -> None:
    for shape in [(0, 4), (4, 0), (0,)]:
        assert drawn(scheme, shape, old=None).shape == shape


@pytest.mark.parametrize(
    ("scheme", "sigma"),
    [
        ("kaiming", 2.0 / math.sqrt(300)),
        ("xavier", 2.0 * math.sqrt(2 / (300 + 100))),
        ("lecun", 1.0 / math.sqrt(300)),
        ("orthogonal", 2.0 / math.sqrt(300)),
    ],
)
def test_spread_is_the_papers(scheme: str, sigma: float) -> None:
    values = drawn(scheme, (100, 300), fan_in=300, fan_out=100)
    assert values.std() == pytest.approx(sigma, rel=0.02)
    assert abs(values.mean()) < 4 * sigma / math.sqrt(values.size)


@pytest.mark.parametrize("scheme", [s for s in scheme_names() if is_elementwise(s)])
def test_ranges_of_any_size_are_slices_of_the_whole(scheme: str) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        whole = ranges_of(scheme, [range(72)], dtype)
        assert whole.dtype == dtype
        for size in (1, 5, 7, 32, 72):
            parts = [range(start, min(start + size, 72)) for start in range(0, 72, size)]
            assert np.array_equal(ranges_of(scheme, parts, dtype), whole), size
            assert np.array_equal(np.concatenate([ranges_of(scheme, [p], dtype) for p in parts]), whole), size
        assert ranges_of(scheme, [], dtype).shape == (0,)


@pytest.mark.parametrize("scheme", [s for s in scheme_names() if is_elementwise(s)])
def test_double_values_are_those_of_the_whole_fill_and_single_ones_as_large(scheme: str) -> None:
    double = ranges_of(scheme, [range(72)], np.float64)
    assert np.array_equal(double, drawn(scheme).reshape(-1))
    single = ranges_of(scheme, [range(72)], np.float32).astype(np.float64)
    if scheme in ("copy", "zeros"):
        assert np.array_equal(single, double)
    else:
        assert single.std() == pytest.approx(double.std(), rel=0.4)
        assert not np.any(single == double.astype(np.float32))


@pytest.mark.parametrize("gain", [1e-38, 1e-44, 1e35])
def test_sizes_that_single_precision_cannot_hold_are_drawn_in_double(gain: float) -> None:
    values = ranges_of("kaiming", [range(72)], np.float32, gain=gain)
    assert np.array_equal(values, drawn("kaiming", gain=gain).astype(np.float32).reshape(-1))


@pytest.mark.parametrize("step", [1, 7, 50])
@pytest.mark.parametrize("scheme", scheme_names())
def test_the_inner_step_leaves_no_trace(scheme: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn(scheme)
    monkeypatch.setattr("onnxgrow.init.schemes._STEP", step)
    assert np.array_equal(drawn(scheme), before)


@pytest.mark.parametrize(
    "other", [Key(8, 2, "conv1.weight"), Key(7, 3, "conv1.weight"), Key(7, 2, "conv2.weight")], ids=str
)
@pytest.mark.parametrize("scheme", ["kaiming", "lecun", "orthogonal", "xavier"])
def test_another_key_changes_every_value(scheme: str, other: Key) -> None:
    assert not np.any(drawn(scheme) == drawn(scheme, key=other))


def test_a_scheme_that_needs_the_whole_tensor_gives_no_blocks() -> None:
    assert not is_elementwise("orthogonal")
    with pytest.raises(UnsupportedError, match="whole"):
        ranges_of("orthogonal", [range(1)], np.float32)


@pytest.mark.parametrize("outside", [range(-1, 1), range(73), range(72, 73), range(0, 4, 2)])
def test_a_range_outside_the_tensor_is_refused(outside: range) -> None:
    with pytest.raises(UsageError, match=r"conv1\.weight"):
        ranges_of("zeros", [range(2), outside], np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"fan_in": 0},
        {"fan_out": -1},
        {"fan_in": 1.5},
        {"gain": 0.0},
        {"gain": math.nan},
        {"gain": math.inf},
        {"out_axes": (3,)},
        {"out_axes": (-4,)},
        {"out_axes": (0, 0)},
        {"out_axes": (0, -3)},
        {"shape": (2, -1, 3)},
        {"shape": (2, 1.5, 3)},
    ],
    ids=str,
)
def test_arguments_outside_their_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^USAGE: conv1\.weight: "):
        drawn("kaiming", **changes)  # type: ignore[arg-type]  # the fault under test


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"^USAGE: kaimin: .*kaiming"):
        drawn("kaimin")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(UsageError, match="already"):
        register("zeros", "")(find("zeros").rule)


def test_every_scheme_but_zeros_names_its_paper() -> None:
    assert [s for s in scheme_names() if not find(s).reference_url.startswith("http")] == ["zeros"]
