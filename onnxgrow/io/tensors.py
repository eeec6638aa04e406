"""Tensor data: mapped from files, made dense on demand, and read out in blocks.

The *raw form* of a tensor is what ``TensorProto.raw_data`` would hold: little-endian, row-major, types below
eight bits packed. Spec: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (TensorProto).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.io.guard import DataFile

__all__ = [
    "BLOCK",
    "Blocked",
    "Buffer",
    "InlineTensor",
    "MappedTensor",
    "SparseTensor",
    "blocks",
    "raw_nbytes",
    "strings",
]

BLOCK = 32 << 20
"""Largest number of bytes handed out at once."""

_DENSE_LIMIT = 2**31

Buffer = bytes | memoryview


@runtime_checkable
class Blocked(Protocol):
    """A tensor that can give its raw form piece by piece, so that it never lies in memory as a whole."""

    def raw_blocks(self, size: int) -> Iterator[Buffer]:
        """Consecutive pieces of the raw form, each of at most ``size`` bytes."""
        ...


def raw_nbytes(tensor: ir.TensorProtocol) -> int:
    """Length of the raw form in bytes; for strings, the sum of their lengths."""
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(s) for s in strings(tensor))
    count = 1
    for size in tensor.shape.numpy():
        count *= int(size)
    return (count * tensor.dtype.bitwidth + 7) // 8


def strings(tensor: ir.TensorProtocol) -> list[bytes]:
    """The elements of a string tensor in row-major order, as bytes."""
    if isinstance(tensor, ir.LazyTensor):
        return strings(tensor.raw())
    # NumPy's own byte strings lose zero bytes at the end, so ``numpy()`` is the second choice.
    if isinstance(tensor, ir.StringTensor):
        elements = list(tensor.string_data())
    else:
        elements = np.asarray(tensor.numpy(), dtype=object).reshape(-1).tolist()
    return [element.encode() if isinstance(element, str) else bytes(element) for element in elements]


class MappedTensor(ir.ExternalTensor):
    """A tensor whose bytes lie in a mapped file.

    Unlike its base it shares one mapping with all tensors of the file (a mapping each exhausts the file
    descriptors of a large model), was checked when it was made, and accepts hub caches and hard-linked files.

    Args:
        file: The mapped file.
        location: Where the model says the data is, for those who ask; the data comes from ``file``.
        offset: First byte in the file; the number of bytes follows from type and shape.
    """

    def __init__(
        self,
        file: DataFile,
        location: str,
        offset: int,
        dtype: ir.DataType,
        *,
        shape: ir.Shape,
        name: str | None,
        doc_string: str | None = None,
        metadata_props: dict[str, str] | None = None,
        base_dir: str = "",
    ) -> None:
        count = 1
        for size in shape.numpy():
            count *= int(size)
        super().__init__(
            location,
            offset,
            (count * dtype.bitwidth + 7) // 8,
            dtype,
            shape=shape,
            name=name or "",
            doc_string=doc_string,
            metadata_props=metadata_props,
            base_dir=base_dir,
        )
        self._file = file

    @property
    def view(self) -> memoryview:
        """The raw form, read-only, not copied."""
        start = self.offset or 0
        return self._file.view[start : start + (self.length or 0)]

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A descriptor of the file, ``offset`` counting from its start; None where it cannot be had any more."""
        descriptor = self._file.reopen()
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def raw_blocks(self, size: int) -> Iterator[Buffer]:
        view = self.view
        for start in range(0, len(view), size):
            yield view[start : start + size]

    def numpy(self) -> npt.NDArray[Any]:
        """The values as an array over the mapping; packed types are unpacked into memory."""
        shape = self.shape.numpy()
        if self.dtype.bitwidth < 8:
            packed = np.frombuffer(self.view, np.uint8)
            return np.asarray(ir.PackedTensor(packed, self.dtype, shape=ir.Shape(shape)).numpy())
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        return np.frombuffer(self.view, dtype).reshape(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def tobytes(self) -> bytes:
        return bytes(self.view)

    def tofile(self, file: Any) -> None:
        for block in self.raw_blocks(BLOCK):
            file.write(block)

    def release(self) -> None:
        """Nothing: the mapping is shared, and closes with the last tensor."""


class InlineTensor(MappedTensor):
    """A tensor whose bytes lie in the mapped model file itself, at any byte: its arrays may be unaligned."""


class SparseTensor(ir.LazyTensor):
    """A sparse initializer, made dense when it is read; it is written as it came unless a pass replaces it.

    Spec: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (SparseTensorProto): ``indices`` holds, for
    each of the non-zero values, its flat index or its coordinates.
    """

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        self.proto = proto
        values = proto.values
        super().__init__(
            self._dense,
            dtype=ir.DataType(values.data_type),
            shape=ir.Shape(proto.dims, frozen=True),
            name=values.name,
            doc_string=values.doc_string or None,
        )
        if raw_nbytes(self) > _DENSE_LIMIT:
            raise UnsupportedError(values.name, "this sparse initializer needs more than 2 GB when made dense")

    def _dense(self) -> ir.TensorProtocol:
        dims = tuple(self.proto.dims)
        values = ir.serde.deserialize_tensor(self.proto.values).numpy()
        indices = ir.serde.deserialize_tensor(self.proto.indices).numpy()
        dense = np.zeros(dims, values.dtype)
        try:
            if indices.ndim == 1:
                dense.reshape(-1)[indices] = values
            else:
                dense[tuple(indices.T)] = values
        except (IndexError, ValueError):
            raise BadInputError(str(self.name), "the indices of this sparse initializer do not fit its shape") from None
        return ir.Tensor(dense, dtype=self.dtype, name=self.name)


def blocks(tensor: ir.TensorProtocol, size: int = BLOCK) -> Iterator[Buffer]:
    """The raw form of any tensor in pieces of at most ``size`` bytes; lazy tensors are evaluated and dropped.

    Raises:
        BadInputError: The data does not have the length that type and shape need, or it is a string tensor.
    """
    expected = raw_nbytes(tensor)
    if tensor.dtype == ir.DataType.STRING:
        raise BadInputError(str(tensor.name), "string tensors have no raw form")
    given = 0
    for block in _blocks(tensor, size):
        given += len(block)
        yield block
    if given != expected:
        raise BadInputError(str(tensor.name), f"the tensor gives {given} bytes, its shape and type need {expected}")


def _blocks(tensor: ir.TensorProtocol, size: int) -> Iterator[Buffer]:
    if isinstance(tensor, Blocked):
        yield from tensor.raw_blocks(size)
        return
    if isinstance(tensor, ir.LazyTensor):
        inner = tensor.raw()
        if inner.dtype != tensor.dtype or list(inner.shape.numpy()) != list(tensor.shape.numpy()):
            raise BadInputError(
                str(tensor.name),
                f"the lazy tensor gives {inner.dtype}{inner.shape}, it was declared {tensor.dtype}{tensor.shape}",
            )
        yield from _blocks(inner, size)
        return
    data = memoryview(_raw(tensor))
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _raw(tensor: ir.TensorProtocol) -> Buffer:
    if not isinstance(tensor, ir.Tensor) or tensor.dtype.bitwidth < 8 or sys.byteorder != "little":
        return tensor.tobytes()
    # A view where the array allows it: tobytes would copy.
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data
