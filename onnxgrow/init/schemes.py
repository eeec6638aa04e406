"""Fill a tensor, or a block of one, by a named scheme."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UnsupportedError, UsageError

# The modules register their schemes when they are imported.
from onnxgrow.init import copies, gaussian, orthogonal, zeros  # noqa: F401 (imported for that effect)
from onnxgrow.init.bits import Key
from onnxgrow.init.cast import cast
from onnxgrow.init.gaussian import scaled_normal
from onnxgrow.init.registry import FillRequest, OldWeight, Scheme, find, names
from onnxgrow.init.single import scaled_normals

__all__ = ["fill", "fill_ranges", "is_elementwise", "normal_ranges", "scheme_names"]

Float64 = npt.NDArray[np.float64]

# Values per call of a rule (8 MiB of them); no influence on the values.
_STEP = 1 << 20
# Standard deviations for which float32 is no worse than float64 rounded to it: far from where it underflows.
_SINGLE = (1e-30, 1e30)


def scheme_names() -> tuple[str, ...]:
    """Names that :func:`fill` takes, sorted."""
    return names()


def is_elementwise(scheme: str) -> bool:
    """Whether :func:`fill_ranges` can be used. Raises UsageError for an unknown scheme."""
    return find(scheme).elementwise


def fill(
    scheme: str,
    shape: Sequence[int],
    *,
    fan_in: int,
    fan_out: int,
    gain: float,
    key: Key,
    out_axes: Sequence[int] = (0,),
    old: OldWeight | None = None,
) -> Float64:
    """Values for a whole tensor.

    Args:
        scheme: A name of :func:`scheme_names`.
        shape: Shape of the tensor.
        fan_in: Number of inputs that one output sums over, ≥ 1.
        fan_out: Number of outputs that one input reaches, ≥ 1.
        gain: See :func:`onnxgrow.init.gain.gain`; finite and > 0.
        key: The stream of random bits.
        out_axes: Axes that index output channels; ``orthogonal`` makes rows of them. May be negative.
        old: The weight before it grew; only ``copy`` uses it.

    Returns:
        float64 of ``shape``, C order; the same bytes on every machine.

    Raises:
        UsageError: An unknown scheme or an argument outside its range.
    """
    found = find(scheme)
    request = _request(shape, fan_in, fan_out, gain, key, out_axes, old)
    return _draw(found, request, 0, request.size).reshape(request.shape)


def fill_ranges(
    scheme: str,
    shape: Sequence[int],
    ranges: Sequence[range],
    dtype: npt.DTypeLike,
    *,
    fan_in: int,
    fan_out: int,
    gain: float,
    key: Key,
    out_axes: Sequence[int] = (0,),
    old: OldWeight | None = None,
) -> npt.NDArray[np.generic]:
    """Some values of a tensor of ``dtype``, in ranges of C order.

    Normal values for types of 32 bits and less are drawn in single precision (:mod:`onnxgrow.init.single`); all others
    are those of :func:`fill`, rounded once.

    Args:
        ranges: Consecutive indices of values, inside the tensor.
        dtype: See :func:`onnxgrow.init.cast.cast`.

    Returns:
        The values of one range after the other; shape (sum of lengths,). Each is the same whatever it is asked with.

    Raises:
        UnsupportedError: The scheme is not elementwise (:func:`is_elementwise`), or there are no weights of ``dtype``.
        UsageError: As :func:`fill`, or a range that is not inside the tensor.
    """
    found = find(scheme)
    request = _request(shape, fan_in, fan_out, gain, key, out_axes, old)
    if not found.elementwise:
        raise UnsupportedError(key.tensor, f"{scheme} values depend on the whole tensor", "fill it whole")
    for part in ranges:
        if part.step != 1 or part.start < 0 or part.stop > request.size:
            raise UsageError(key.tensor, f"values {part} of a tensor of {request.size}")
    if found.sigma is not None:
        return normal_ranges(key, ranges, found.sigma(request), dtype)
    values = [_draw(found, request, part.start, len(part)) for part in ranges]
    return cast(np.concatenate([np.zeros(0), *values]), dtype)


def normal_ranges(key: Key, ranges: Sequence[range], sigma: float, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Values of the N(0, ``sigma``²) stream of ``key`` for a tensor of ``dtype``; see :func:`fill_ranges`."""
    if np.dtype(dtype).itemsize <= 4 and _SINGLE[0] < sigma < _SINGLE[1]:
        return cast(scaled_normals(key, ranges, sigma), dtype)
    values = [scaled_normal(key, part.start, len(part), sigma) for part in ranges]
    return cast(np.concatenate([np.zeros(0), *values]), dtype)


def _draw(scheme: Scheme, request: FillRequest, start: int, count: int) -> Float64:
    """The values in steps, so that temporaries stay small where the scheme allows it."""
    step = _STEP if scheme.elementwise else max(count, 1)
    out = np.empty(count, np.float64)
    for at in range(0, count, step):
        part = min(step, count - at)
        out[at : at + part] = scheme.rule(request, start + at, part)
    return out


def _request(
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    gain: float,
    key: Key,
    out_axes: Sequence[int],
    old: OldWeight | None,
) -> FillRequest:
    try:
        sizes = tuple(operator.index(n) for n in shape)
        fans = operator.index(fan_in), operator.index(fan_out)
        axes = tuple(operator.index(a) for a in out_axes)
    except TypeError as e:
        raise UsageError(key.tensor, f"shape, fans and axes are integers: {e}") from e
    if any(n < 0 for n in sizes):
        raise UsageError(key.tensor, f"no tensor has the shape {sizes}")
    if min(fans) < 1:
        raise UsageError(key.tensor, f"fan-in {fans[0]} and fan-out {fans[1]} are at least 1")
    if not (math.isfinite(gain) and gain > 0):
        raise UsageError(key.tensor, f"a gain of {gain} is not positive and finite")
    rank = len(sizes)
    wrapped = tuple(a + rank if a < 0 else a for a in axes)
    if any(not 0 <= a < rank for a in wrapped) or len(set(wrapped)) != len(wrapped):
        raise UsageError(key.tensor, f"out axes {axes} are not distinct axes of a tensor of rank {rank}")
    return FillRequest(sizes, *fans, float(gain), key, wrapped, old)
