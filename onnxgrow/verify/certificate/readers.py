"""Reading constant tensors piece by piece, also through the chain of constant ops that a weight may pass.

A linear op does not always read its weight directly: exporters put Transpose, Cast, Reshape,
    DequantizeLinear or a
scaling between the initializer and the op. A reader gives any block of the value that the op really reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from onnxgrow.verify.certificate.blocks import Array, Index, take

__all__ = [
    "ArrayReader",
    "CastReader",
    "DequantizeReader",
    "ElementwiseReader",
    "QuantizeReader",
    "Reader",
    "TransposeReader",
    "broadcast_index",
    "everything",
]


class Reader(Protocol):
    """A constant value, read block by block.

    Attributes:
        shape: Its shape.
        dtype: Its NumPy dtype (ml_dtypes for bfloat16, float8 and sub-byte types).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def read(self, index: Sequence[Index]) -> Array:
        """The block at an orthogonal index: one slice or index array per axis."""
        ...


def everything(reader: Reader) -> tuple[slice, ...]:
    """The index of the whole value."""
    return tuple(slice(0, n) for n in reader.shape)


class ArrayReader:
    """An array, possibly mapped from a file."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape = tuple(array.shape)
        self.dtype = array.dtype

    def read(self, index: Sequence[Index]) -> Array:
        return take(self.array, index)


class TransposeReader:
    """``Transpose`` of another constant."""

    def __init__(self, inner: Reader, perm: Sequence[int]) -> None:
        self.inner = inner
        self.perm = tuple(perm)
        self.shape = tuple(inner.shape[p] for p in self.perm)
        self.dtype = inner.dtype

    def read(self, index: Sequence[Index]) -> Array:
        of_inner: list[Index] = [slice(None)] * len(self.perm)
        for axis, source in enumerate(self.perm):
            of_inner[source] = index[axis]
        return self.inner.read(of_inner).transpose(self.perm)


class CastReader:
    """``Cast`` of another constant; rounds to nearest even, as the spec says."""

    def __init__(self, inner: Reader, dtype: np.dtype[np.generic]) -> None:
        self.inner = inner
        self.shape = inner.shape
        self.dtype = dtype

    def read(self, index: Sequence[Index]) -> Array:
        with np.errstate(all="ignore"):
            return self.inner.read(index).astype(self.dtype)


def broadcast_index(index: Sequence[Index], shape: Sequence[int]) -> list[Index]:
    """The part of a result's index that applies to an operand of ``shape``, by NumPy's broadcasting."""
    own = index[len(index) - len(shape) :]
    return [slice(0, 1) if n == 1 else i for n, i in zip(shape, own, strict=True)]


class ElementwiseReader:
    """An elementwise op with NumPy broadcasting on constants, all of one dtype."""

    def __init__(self, inner: Sequence[Reader], compute: Callable[..., Array]) -> None:
        self.inner = tuple(inner)
        self.compute = compute
        self.shape = np.broadcast_shapes(*(r.shape for r in self.inner))
        self.dtype = self.inner[0].dtype

    def read(self, index: Sequence[Index]) -> Array:
        shape = tuple(
            len(range(*i.indices(n))) if isinstance(i, slice) else len(i)
            for i, n in zip(index, self.shape, strict=True)
        )
        with np.errstate(all="ignore"):
            out = self.compute(*(r.read(broadcast_index(index, r.shape)) for r in self.inner))
        return np.broadcast_to(np.asarray(out, self.dtype), shape)


class _Affine:
    """What DequantizeLinear and QuantizeLinear share: parameters per tensor, per axis or blocked."""

    def __init__(self, x: Reader, axis: int, block: int) -> None:
        self.x = x
        self.axis = axis
        self.block = block
        self.shape = x.shape

    def _parameter(self, reader: Reader, index: Sequence[Index]) -> Array:
        """The scale or zero point for a block, in a shape that broadcasts against it."""
        if not reader.shape:
            return reader.read(())
        along = index[self.axis]
        if isinstance(along, slice):
            along = np.arange(*along.indices(self.shape[self.axis]), dtype=np.int64)
        if self.block:
            own = list(index)
            own[self.axis] = along // self.block
            return reader.read(own)
        shape = [1] * len(self.shape)
        if reader.shape == (1,):
            return reader.read((slice(0, 1),)).reshape(shape)
        shape[self.axis] = -1
        return reader.read((along,)).reshape(shape)


class QuantizeReader(_Affine):
    """``QuantizeLinear`` to 8 bits: x / scale rounded to even, + zero point, within the range of its type."""

    def __init__(self, x: Reader, scale: Reader, zero_point: Reader, axis: int) -> None:
        super().__init__(x, axis, 0)
        self.scale, self.zero_point = scale, zero_point
        self.dtype = zero_point.dtype

    def read(self, index: Sequence[Index]) -> Array:
        with np.errstate(all="ignore"):
            steps = np.rint(np.divide(self.x.read(index), self._parameter(self.scale, index))).astype(np.float64)
        low, high = (0, 255) if self.dtype == np.uint8 else (-128, 127)
        moved = steps + self._parameter(self.zero_point, index).astype(np.float64)
        return np.asarray(np.clip(moved, low, high).astype(self.dtype))


class DequantizeReader(_Affine):
    """``DequantizeLinear``: (x − zero point) · scale; per tensor, per axis or blocked."""

    def __init__(self, x: Reader, scale: Reader, zero_point: Reader | None, axis: int, block: int) -> None:
        super().__init__(x, axis, block)
        self.scale, self.zero_point = scale, zero_point
        self.dtype = scale.dtype

    def read(self, index: Sequence[Index]) -> Array:
        x = self.x.read(index)
        # Differences of 8-bit integers, and of 32-bit ones without a zero point, are exact in float64.
        wide = x.astype(np.float64)
        if self.zero_point is not None:
            wide = wide - self._parameter(self.zero_point, index).astype(np.float64)
        with np.errstate(all="ignore"):
            scaled = wide.astype(self.dtype) * self._parameter(self.scale, index)
        return np.asarray(scaled, self.dtype)
