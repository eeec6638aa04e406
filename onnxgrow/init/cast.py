"""The last step of a fill: from float64 or float32 to the tensor's own type, rounded once and finite."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UnsupportedError

__all__ = ["cast"]

Float64 = npt.NDArray[np.float64]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Type → largest finite value.
_LARGEST = {
    np.dtype(np.float16): 65504.0,
    _BFLOAT16: (2.0 - 2.0**-7) * 2.0**127,
    np.dtype(np.float32): (2.0 - 2.0**-23) * 2.0**127,
    np.dtype(np.float64): (2.0 - 2.0**-52) * 2.0**1023,
}


def cast(values: Float64 | npt.NDArray[np.float32], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Round to nearest, ties to even, once; magnitudes beyond the type's largest finite value become that
    value.

    A weight that overflowed to Inf would turn the zeros that shield it into NaN, hence the clipping.

    Args:
        values: float64 or float32, any shape; infinite values are clipped too.
        dtype: float16, bfloat16 (``ml_dtypes``), float32 or float64.

    Returns:
        An array of the same shape, all entries finite; ``values`` itself where nothing has to change.

    Raises:
        UnsupportedError: Another type, or a NaN among the values.
    """
    kind = np.dtype(dtype)
    if kind not in _LARGEST:
        raise UnsupportedError(str(kind), "new weights cannot be made in this type", "use a floating-point weight")
    single = values.dtype == np.float32
    if single and kind == np.float32 and bool(np.isfinite(values).all()):
        return values
    if bool(np.isnan(values).any()):
        raise UnsupportedError("new weights", "a value is not a number")
    largest = _LARGEST[kind]
    # Clipping first also keeps values just above the largest from rounding to Inf.
    clipped = np.clip(values if single else np.asarray(values, np.float64), -largest, largest)
    if kind == _BFLOAT16 and not single:
        return _round_to_odd_float32(np.asarray(clipped, np.float64)).astype(kind)
    return clipped.astype(kind)


def _round_to_odd_float32(values: Float64) -> npt.NDArray[np.float32]:
    """float32 with the last bit as a sticky bit, so that rounding on to a shorter type rounds only once.

    ``ml_dtypes`` goes from float64 to bfloat16 through float32, which rounds twice. See Boldo and Melquiond
    2008, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd",
    https://doi.org/10.1109/TC.2007.70819.
    """
    near = np.array(values, np.float32)
    back = near.astype(np.float64)
    # Seen as integers, floats of one sign are ordered by magnitude: one more or less is the next float.
    pattern = near.view(np.uint32)
    even = (pattern & np.uint32(1)) == 0
    below = np.abs(back) < np.abs(values)
    above = np.abs(back) > np.abs(values)
    pattern += (even & below).astype(np.uint32)
    pattern -= (even & above).astype(np.uint32)
    return near
