"""Normal values in single precision, several times as fast as the double ones of :mod:`onnxgrow.init.transform`.

For weights of 32 bits and less. As there, only + − × ÷ √ and integer arithmetic, each a ufunc of its own, so that the
bytes are the same on every machine; and every value depends on its own draw alone.

Method: G. E. P. Box and M. E. Muller 1958, "A note on the generation of random normal deviates",
https://doi.org/10.1214/aoms/1177706645: one draw of 64 bits gives a radius and an angle, and these two values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxgrow.init.bits import Key, raw_bits

__all__ = ["normal_pairs", "scaled_normals"]

Float32 = npt.NDArray[np.float32]

# Draws per step: the temporaries of a step stay in the processor's cache. It has no influence on the values.
_STEP = 1 << 14

_BELOW_2_32 = 4294967040.0  # the largest float32 below 2³²
_SQRT_HALF_BITS = 0x3F3504F3  # of √½ as float32
_TWO_LN2 = 1.3862943611198906
# 2·log(m) = s · Σ 4/(2k+1)·s²ᵏ with s = (m−1)/(m+1); |s| ≤ 0.1716, so the terms after these are below 1e-9.
_TWO_LOG = (4.0, 4.0 / 3.0, 4.0 / 5.0, 4.0 / 7.0, 4.0 / 9.0)
# sin(πt/2)/t and cos(πt/2) in t² for |t| ≤ 1, by interpolation at Chebyshev points: within 7e-9 and 5e-8.
_SINE = (1.5707963200386017, -0.6459637595835451, 0.07968991832904397, -0.004674143838168328, 0.00015167170367036756)
_COSINE = (0.9999999530275131, -1.2336982006223702, 0.25365067442467686, -0.020810515199815142, 0.0008581344670936261)


def scaled_normals(key: Key, ranges: Sequence[range], sigma: float) -> Float32:
    """The values of some ranges of the N(0, ``sigma``²) stream of ``key``, one range after the other.

    The key's purpose is marked, so that these values do not follow the double ones of the same key.

    Args:
        ranges: Consecutive indices ≥ 0 each; value 2i and 2i + 1 come from draw i.
        sigma: Of a size that float32 can hold.

    Returns:
        float32, shape (sum of lengths,).
    """
    marked = replace(key, purpose=f"{key.purpose}/single")
    draws = [(r.start // 2, (r.stop + 1) // 2) for r in ranges]
    drawn = [raw_bits(marked, first, last - first) for first, last in draws]
    values = normal_pairs(drawn[0] if len(drawn) == 1 else np.concatenate([np.zeros(0, np.uint64), *drawn]))
    values *= np.float32(sigma)
    # Ranges that begin or end in the middle of a draw leave a value over.
    parts, at = [], 0
    for wanted, (first, last) in zip(ranges, draws, strict=True):
        parts.append(values[at + wanted.start - 2 * first : at + wanted.stop - 2 * first])
        at += 2 * (last - first)
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])


def normal_pairs(bits: npt.NDArray[np.uint64]) -> Float32:
    """Standard normal values, two for each draw; the largest magnitude that can occur is 6.77.

    Args:
        bits: uint64, shape (n,).

    Returns:
        float32, shape (2n,); each within 2e-6 of what exact functions give for its draw rounded to float32.
    """
    out = np.empty(2 * bits.size, np.float32)
    scratch = np.empty((4, min(bits.size, _STEP)), np.float32)
    whole = np.empty((2, scratch.shape[1]), np.int32)
    for start in range(0, bits.size, _STEP):
        part = bits[start : start + _STEP]
        _pairs(part, scratch[:, : part.size], whole[:, : part.size], out[2 * start : 2 * (start + part.size)])
    return out


def _pairs(bits: npt.NDArray[np.uint64], scratch: Float32, whole: npt.NDArray[np.int32], out: Float32) -> None:
    x, y, z, radius = scratch
    exponent, other = whole
    halves = bits.astype("<u8", copy=False).view("<u4")

    # −2·log of a uniform value in (0, 1): the upper half as 2³² of it, split into mantissa and exponent.
    np.copyto(x, halves[1::2])
    x += 0.5
    np.minimum(x, _BELOW_2_32, out=x)
    pattern = x.view(np.int32)
    np.subtract(pattern, _SQRT_HALF_BITS, out=exponent)
    np.right_shift(exponent, 23, out=exponent)
    np.left_shift(exponent, 23, out=other)
    pattern -= other
    np.subtract(32, exponent, out=exponent)
    np.copyto(radius, exponent)
    radius *= _TWO_LN2
    x -= 1.0
    np.add(x, 2.0, out=y)
    x /= y
    np.multiply(x, x, out=y)
    _polynomial(_TWO_LOG, y, z)
    z *= x
    radius -= z
    np.sqrt(radius, out=radius)

    # The lower half: which side of the circle, and an angle on it.
    angle = other.view(np.uint32)
    np.bitwise_and(halves[0::2], 0x80000000, out=angle)
    signed = radius.view(np.uint32)
    signed |= angle
    np.left_shift(halves[0::2], 1, out=angle)
    np.copyto(x, other)
    x *= 2.0**-31
    np.multiply(x, x, out=y)
    _polynomial(_COSINE, y, z)
    np.multiply(z, radius, out=out[0::2])
    _polynomial(_SINE, y, z)
    z *= x
    np.multiply(z, radius, out=out[1::2])


def _polynomial(coefficients: Sequence[float], x: Float32, out: Float32) -> None:
    """Horner's rule; multiply and add stay separate ufuncs, so nothing can fuse them into one rounding."""
    np.multiply(x, coefficients[-1], out=out)
    out += coefficients[-2]
    for c in reversed(coefficients[:-2]):
        out *= x
        out += c
