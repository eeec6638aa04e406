"""Tensors between ``onnx_ir`` and PyTorch, bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from onnxgrow.errors import UnsupportedError

__all__ = ["DTYPES", "dtype_of", "from_torch", "to_torch"]

DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    # Packed types are unpacked into the smallest type that holds them.
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
}


def dtype_of(dtype: ir.DataType | int, subject: str) -> torch.dtype:
    """The PyTorch type of an ONNX type. Raises UnsupportedError where there is none."""
    kind = ir.DataType(dtype)
    if kind not in DTYPES:
        raise UnsupportedError(subject, f"PyTorch has no computing type for {kind.name}")
    return DTYPES[kind]


def to_torch(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A copy of a tensor. Raises UnsupportedError for strings and types without a PyTorch type."""
    dtype = dtype_of(tensor.dtype, str(tensor.name))
    array: npt.NDArray[Any] = np.asarray(tensor.numpy())
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.array(array.view(np.uint16), order="C")).view(torch.bfloat16)
    if tensor.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        array = array.astype(np.int8 if tensor.dtype == ir.DataType.INT4 else np.uint8)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def from_torch(value: torch.Tensor, like: ir.TensorProtocol) -> ir.Tensor[Any]:
    """A tensor in the type, and with the name and metadata, of the one it takes the place of."""
    plain = value.detach().to("cpu", dtype_of(like.dtype, str(like.name))).contiguous()
    if like.dtype == ir.DataType.BFLOAT16:
        array = plain.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = plain.numpy()
    return ir.Tensor(
        array.copy(),
        dtype=like.dtype,
        name=like.name,
        doc_string=like.doc_string,
        metadata_props=dict(like.metadata_props) or None,
    )
