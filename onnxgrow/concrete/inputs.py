"""Valid sample inputs: floats of both signs with edge values; ids, masks and lengths in the allowed ranges.

Every input has a stream of its own, keyed by seed, variant and name, of raw Philox bits that only + − × turn
into numbers: the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.domains import Domain, Facts, domain_of
from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.pin import real_inputs
from onnxgrow.errors import UnsupportedError

__all__ = ["sample_inputs"]

Array = npt.NDArray[np.generic]

_EDGES = (0.0, 1.0, -1.0, 0.5, -0.5, 4.0, -4.0, 16.0, -16.0)
# One edge value per this many elements: enough to exercise saturation, too few to dominate a norm's
# statistics.
_EDGE_EVERY = 16


def sample_inputs(
    model: ir.Model,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    seed: int = 0,
    variant: int = 0,
    positive: bool = False,
    concrete: Concrete | None = None,
) -> dict[str, Array]:
    """Make one valid value for every real graph input.

    Floats are bell-shaped around 0 with standard deviation 1 and carry the edge values 0, ±½, ±1, ±4 and ±16.
    Integers, booleans and strings respect what the model does with them (see
    :mod:`onnxgrow.concrete.domains`).

    Args:
        model: The model; not modified.
        input_shapes: Shape of every real graph input.
        seed, variant: Key of the stream: another one gives other values.
        positive: Floats are made non-negative, for models that take a root or logarithm of their input.
        concrete: The result of ``concretize(model, input_shapes)`` where the caller has it already.

    Raises:
        UnsupportedError: An input has a dtype that NumPy cannot hold.
    """
    facts = Facts(lambda: concrete or concretize(model, input_shapes))
    feeds: dict[str, Array] = {}
    for value in real_inputs(model):
        name = value.name or ""
        domain = domain_of(model, value, facts)
        stream = _Stream(f"{seed}/{variant}/{name}")
        shape = tuple(int(d) for d in input_shapes[name])
        feeds[name] = _fill(value, shape, domain, stream, positive)
    return feeds


class _Stream:
    """Uniform numbers from raw Philox bits under a key; the same on every machine and NumPy version."""

    def __init__(self, key: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """``count`` numbers in [0, 1)."""
        raw = self._bits.random_raw(count)
        uniform: npt.NDArray[np.float64] = np.right_shift(raw, np.uint64(11)).astype(np.float64) * 2.0**-53
        return uniform

    def integers(self, low: int, high: int, count: int) -> npt.NDArray[np.int64]:
        """``count`` integers in low … high (inclusive)."""
        return np.floor(self.uniform(count) * (high - low + 1) + low).astype(np.int64)

    def bell(self, count: int) -> npt.NDArray[np.float64]:
        """Sums of four uniforms, mean 0 and standard deviation 1, within ±3.5."""
        a, b, c, d = self.uniform(4 * count).reshape(4, count)
        return (a + b + c + d - 2.0) * math.sqrt(3.0)


def _fill(value: ir.Value, shape: tuple[int, ...], domain: Domain, stream: _Stream, positive: bool) -> Array:
    dtype = value.dtype or ir.DataType.FLOAT
    count = math.prod(shape)
    if dtype == ir.DataType.STRING:
        return _strings(shape, domain, stream)
    try:
        target = dtype.numpy()
    except TypeError as error:
        raise UnsupportedError(f"input {value.name!r}", f"dtype {dtype.name} cannot be sampled") from error
    if domain.role:
        numbers = _restricted(shape, domain, stream)
    elif dtype.is_floating_point() or dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        numbers = _floats(count, stream)
        if positive:
            numbers = np.abs(numbers)
    elif dtype == ir.DataType.BOOL:
        numbers = _restricted(shape, Domain("mask"), stream)
    elif dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        low = 0 if dtype == ir.DataType.UINT8 else -128
        numbers = stream.integers(low, low + 255, count).astype(np.float64)
    else:
        # Nothing is known of these integers: counts, durations, ids of a small alphabet. 1 is valid for most.
        numbers = (stream.integers(1, 3, count) if count > 1 else np.ones(count)).astype(np.float64)
    return numbers.astype(target).reshape(shape)


def _floats(count: int, stream: _Stream) -> npt.NDArray[np.float64]:
    numbers = stream.bell(count)
    if count >= _EDGE_EVERY:
        where = stream.integers(0, count - 1, count // _EDGE_EVERY)
        numbers[where] = np.resize(np.array(_EDGES), where.size)
    return numbers


def _restricted(shape: tuple[int, ...], domain: Domain, stream: _Stream) -> npt.NDArray[np.float64]:
    count = math.prod(shape)
    if domain.role == "index":
        numbers = stream.integers(0, domain.high - 1, count)
        # Both ends of the table are read where there is room for them.
        if count > 2:
            numbers[stream.integers(0, count - 1, 1)] = domain.high - 1
            numbers[0] = 0
        return numbers.astype(np.float64)
    if domain.role == "length":
        high = domain.high or 1
        numbers = stream.integers(max(1, high // 2), high, count)
        numbers[:1] = high
        return numbers.astype(np.float64)
    if domain.role == "positions":
        last = shape[-1] if shape else 1
        return np.resize(np.arange(last, dtype=np.float64), count)
    if domain.role == "choice":
        options = np.array([float(c) for c in domain.choices if not isinstance(c, str)])
        return options[stream.integers(0, options.size - 1, count)]
    # A mask: every row keeps at least its first half, so that no position set is empty; the first row is
    # full.
    last = shape[-1] if shape else 1
    rows = max(count // last, 1) if last else 0
    valid = stream.integers((last + 1) // 2, last, rows)
    valid[:1] = last
    return (np.arange(last)[None, :] < valid[:, None]).astype(np.float64).ravel()


def _strings(shape: tuple[int, ...], domain: Domain, stream: _Stream) -> Array:
    words = [c for c in domain.choices if isinstance(c, str)] or ["a", "b", "c"]
    chosen = [words[i] for i in stream.integers(0, len(words) - 1, math.prod(shape))]
    return np.array(chosen, dtype=object).reshape(shape)
