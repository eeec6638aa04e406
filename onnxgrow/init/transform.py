"""Random bits to uniform and normal values, bit for bit the same on every machine.

Only + − × ÷ √, each a ufunc of its own: IEEE 754 fixes their result to the last bit, while ``log``, ``exp``
and ``pow`` are as exact as the math library of the day. Every value depends on its own draw alone, so a
tensor can be filled in blocks of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["log", "normal", "uniform"]

Float64 = npt.NDArray[np.float64]

# Values per step: the temporaries of a step stay in the processor's cache. It has no influence on the values.
_STEP = 1 << 14

# The normal quantile function, coefficients from the constant term upward.
# M. J. Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution", routine PPND16
# (relative accuracy about 1e-16), https://doi.org/10.2307/2347330.
_CENTRE = 0.425
_NEAR_TAIL = 5.0
_CENTRE_NUMERATOR = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_CENTRE_DENOMINATOR = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_NEAR_NUMERATOR = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_NEAR_DENOMINATOR = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_FAR_NUMERATOR = (
    6.65790464350110377720e0,
    5.46378491116411436990e0,
    1.78482653991729133580e0,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_FAR_DENOMINATOR = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)

# ln 2 in two parts: the first has 21 trailing zero bits, so its product with an exponent is exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_SQRT_HALF = 0.7071067811865476
# log((1+s)/(1−s)) = 2s · Σ s²ᵏ/(2k+1); with |s| ≤ 0.1716 the terms after these twelve are below 1e-18.
_LOG_SERIES = tuple(1.0 / (2 * k + 1) for k in range(12))


def uniform(bits: npt.NDArray[np.uint64]) -> Float64:
    """Uniform values in the open interval (0, 1) from the upper 52 bits of each draw.

    The values are the odd multiples of 2⁻⁵³, symmetric about ½; neither 0 nor 1 can occur.

    Args:
        bits: uint64, any shape.

    Returns:
        float64 of the same shape.
    """
    values = (np.asarray(bits, np.uint64) >> np.uint64(12)).astype(np.float64)
    values += 0.5
    values *= 2.0**-52
    return values


def log(x: Float64) -> Float64:
    """Natural logarithm with the four operations only; relative error about 1e-15.

    Args:
        x: Positive, normal float64 values, any shape.

    Returns:
        float64 of the same shape.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < _SQRT_HALF
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    power = (exponent - small).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(_LOG_SERIES, s * s)
    return power * _LN2_HIGH + (power * _LN2_LOW + (s * 2.0) * series)


def normal(bits: npt.NDArray[np.uint64]) -> Float64:
    """Standard normal values, one per draw, by inversion of the distribution function (AS 241).

    The largest magnitude that can occur is 8.21, at the ends of :func:`uniform`.

    Args:
        bits: uint64, any shape.

    Returns:
        float64 of the same shape; within 1e-15 of the exact quantile, relative.
    """
    flat = np.asarray(bits, np.uint64).reshape(-1)
    out = np.empty(flat.size, np.float64)
    for start in range(0, flat.size, _STEP):
        out[start : start + _STEP] = _quantile(uniform(flat[start : start + _STEP]))
    return out.reshape(np.shape(bits))


def _quantile(p: Float64) -> Float64:
    q = p - 0.5
    r = 0.180625 - q * q
    z = q * (_polynomial(_CENTRE_NUMERATOR, r) / _polynomial(_CENTRE_DENOMINATOR, r))
    tail = np.flatnonzero(np.abs(q) > _CENTRE)
    if tail.size:
        z[tail] = np.where(q[tail] < 0.0, -1.0, 1.0) * _tail(np.minimum(p[tail], 1.0 - p[tail]))
    return z


def _tail(p: Float64) -> Float64:
    """Upper quantile of the tail probability ``p`` < 0.075."""
    r = np.sqrt(-log(p))
    near = r - 1.6
    z = _polynomial(_NEAR_NUMERATOR, near) / _polynomial(_NEAR_DENOMINATOR, near)
    far = np.flatnonzero(r > _NEAR_TAIL)
    if far.size:
        beyond = r[far] - _NEAR_TAIL
        z[far] = _polynomial(_FAR_NUMERATOR, beyond) / _polynomial(_FAR_DENOMINATOR, beyond)
    return z


def _polynomial(coefficients: Sequence[float], x: Float64) -> Float64:
    """Horner's rule; multiply and add stay separate ufuncs, so nothing can fuse them into one rounding."""
    value = np.full(x.shape, coefficients[-1], np.float64)
    for c in reversed(coefficients[:-1]):
        value *= x
        value += c
    return value
