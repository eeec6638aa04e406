"""Casting: rounded once, finite always."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from onnxgrow.errors import UnsupportedError
from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.cast import cast
from onnxgrow.init.transform import normal

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
SHORT = {np.dtype(np.float16): np.uint16, BFLOAT16: np.uint16, np.dtype(np.float32): np.uint32}


def is_nearest(value: float, result: np.ndarray) -> bool:
    """Whether the scalar array ``result`` is the nearest of its type, an even last bit where two are."""
    kind = SHORT[result.dtype]
    pattern = int(result.view(kind)[0])
    around = [np.array([p], kind).view(result.dtype) for p in (pattern - 1, pattern + 1) if p & 0x7FFFFFFF]
    distance = abs(Fraction(float(result[0])) - Fraction(value))
    for other in around:
        gap = abs(Fraction(float(other[0])) - Fraction(value))
        if gap < distance or (gap == distance and pattern & 1):
            return False
    return True


@pytest.mark.parametrize("kind", list(SHORT), ids=str)
def test_every_value_is_the_nearest_of_its_type(kind: np.dtype) -> None:
    ordinary = normal(raw_bits(Key(0, 1, "w"), 0, 300))
    digits = {np.dtype(np.float16): 10, BFLOAT16: 7, np.dtype(np.float32): 23}[kind]
    halfway = 1.0 + 2.0 ** -(digits + 1)
    # Just beside a tie by less than float32 can tell: rounding twice gets these wrong.
    awkward = [s * (halfway + k * 2.0**-digits + d) for s in (1, -1) for k in (0, 1) for d in (-1e-14, 0, 1e-14)]
    for value in [*ordinary.tolist(), *awkward]:
        assert is_nearest(value, cast(np.array([value]), kind)), value


def test_rounding_through_float32_would_be_wrong() -> None:
    value = np.array([1.0 + 2.0**-8 + 1e-14])
    twice = value.astype(np.float32).astype(BFLOAT16)
    assert not is_nearest(float(value[0]), twice)
    assert cast(value, BFLOAT16) != twice


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_values_beyond_the_range_become_the_largest_finite_one(kind: np.dtype) -> None:
    largest = float(ml_dtypes.finfo(kind).max)
    beyond = [np.inf, 1.7976931348623157e308, largest, largest * (1 + 1e-9) if largest < 1e300 else np.inf]
    out = cast(np.array([*beyond, *(-x for x in beyond)]), kind).astype(np.float64)
    assert out.tolist() == [largest] * 4 + [-largest] * 4


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_shape_type_and_zero_are_kept(kind: np.dtype) -> None:
    out = cast(np.zeros((2, 0, 3)), kind)
    assert (out.shape, out.dtype) == ((2, 0, 3), kind)
    assert not np.signbit(cast(np.zeros((), np.float64), kind)).any()


def test_a_cast_is_a_copy() -> None:
    values = np.ones(3)
    cast(values, np.float64)[0] = 5
    assert values[0] == 1


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_nan_is_refused(kind: np.dtype) -> None:
    with pytest.raises(UnsupportedError, match="not a number"):
        cast(np.array([0.0, np.nan]), kind)


@pytest.mark.parametrize("kind", [np.int8, ml_dtypes.float8_e4m3fn, np.complex64, np.bool_])
def test_other_types_are_refused(kind: type) -> None:
    with pytest.raises(UnsupportedError, match="cannot be made"):
        cast(np.zeros(1), kind)
