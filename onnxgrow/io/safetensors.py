"""safetensors files as the home of external data: their headers, written and strictly read.

A safetensors file holds eight bytes (little-endian) with the length of a JSON header, the header, and the data, in
which tensors follow each other without gaps. A model's external data may lie in one: ``offset`` then counts from the
start of the file, as in any data file.
Spec: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow import strict_json as js

__all__ = ["SUFFIX", "Entry", "dtype_name", "header", "header_bound", "is_reference_to", "read_header"]

SUFFIX = ".safetensors"
HEADER_LIMIT = 100_000_000
"""Bytes of the largest header that the reference implementation reads."""

_LENGTH = 8
_METADATA = "__metadata__"
_DTYPES = {
    ir.DataType.BOOL: "BOOL",
    ir.DataType.UINT8: "U8",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT16: "U16",
    ir.DataType.INT16: "I16",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.UINT32: "U32",
    ir.DataType.INT32: "I32",
    ir.DataType.FLOAT: "F32",
    ir.DataType.UINT64: "U64",
    ir.DataType.INT64: "I64",
    ir.DataType.DOUBLE: "F64",
    ir.DataType.FLOAT8E4M3FN: "F8_E4M3",
    ir.DataType.FLOAT8E5M2: "F8_E5M2",
}
_BITS = {name: dtype.bitwidth for dtype, name in _DTYPES.items()} | {
    "F8_E8M0": 8,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: Its key.
        dtype: As safetensors calls it.
        shape: Its dimensions.
        start, end: Where in the file its bytes are, counted from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def dtype_name(dtype: ir.DataType) -> str:
    """What safetensors calls a type; empty for one that it does not have."""
    return _DTYPES.get(dtype, "")


def header(tensors: Sequence[tuple[str, ir.DataType, Sequence[int], int]], alignment: int) -> bytes:
    """The first bytes of a file, up to its data.

    Args:
        tensors: (name, type, shape, bytes) of each, in the order of the data. Types that safetensors does not have
            are listed as bytes (``U8``). A name that occurs again, or that the format reserves, gets a number.
        alignment: What the start of the data is a multiple of.
    """
    listed: dict[str, object] = {}
    at = 0
    for name, dtype, shape, nbytes in tensors:
        known = dtype_name(dtype)
        listed[_free(name, listed)] = {
            "dtype": known or "U8",
            "shape": [int(n) for n in shape] if known else [nbytes],
            "data_offsets": [at, at + nbytes],
        }
        at += nbytes
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    length = -(-(_LENGTH + len(text)) // alignment) * alignment - _LENGTH
    return length.to_bytes(_LENGTH, "little") + text.ljust(length)


def header_bound(name: str, shape: Sequence[int]) -> int:
    """A number of bytes that a tensor takes in a header at most."""
    return len(json.dumps(name)) + 22 * len(shape) + 120


def _free(name: str, taken: dict[str, object]) -> str:
    wanted, number = name, 2
    while wanted in taken or wanted == _METADATA:
        wanted, number = f"{name}#{number}", number + 1
    return wanted


def read_header(view: memoryview) -> list[Entry]:
    """The tensors of a file, in the order of their data.

    Args:
        view: The whole file.

    Raises:
        ValueError: The file breaks the format; the reason says where.
    """
    length = int.from_bytes(view[:_LENGTH], "little")
    js.require(len(view) >= _LENGTH and length <= len(view) - _LENGTH, "header", "longer than the file")
    js.require(length <= HEADER_LIMIT, "header", f"longer than {HEADER_LIMIT} bytes")
    raw = bytes(view[_LENGTH : _LENGTH + length])
    js.require(raw[:1] == b"{", "header", "does not begin with '{'")
    found = js.mapping(js.loads(raw.decode("utf-8")), "header")
    for key, value in js.mapping(found.pop(_METADATA, {}), _METADATA).items():
        js.text(value, f"{_METADATA} {key!r}")
    data = _LENGTH + length
    entries = sorted((_entry(name, value, data) for name, value in found.items()), key=lambda e: (e.start, e.end))
    at = data
    for entry in entries:
        js.require(entry.start == at, repr(entry.name), "its data leaves a gap or overlaps")
        at = entry.end
    js.require(at == len(view), "data", f"ends at byte {at}, the file at byte {len(view)}")
    return entries


def _entry(name: str, value: object, data: int) -> Entry:
    where = repr(name)
    fields = js.record(value, where, ("dtype", "shape", "data_offsets"))
    dtype = js.text(fields["dtype"], where)
    js.require(dtype in _BITS, where, f"unknown type {dtype!r}")
    shape = tuple(js.integer(n, where, 0) for n in js.items(fields["shape"], where))
    start, end = (js.integer(n, where, 0) for n in js.items(fields["data_offsets"], where, 2))
    js.require(
        (end - start) * 8 == math.prod(shape) * _BITS[dtype], where, f"{end - start} bytes for {dtype} {list(shape)}"
    )
    return Entry(name, dtype, shape, data + start, data + end)


def is_reference_to(entries: Sequence[Entry], dtype: ir.DataType, offset: int, nbytes: int) -> bool:
    """Whether a tensor at ``offset`` (from the start of the file) lies within one entry, and has its type.

    A tensor may be a part of an entry, and its bytes may be listed as ``U8`` or ``I8``.
    """
    for entry in entries:
        if entry.start <= offset and offset + nbytes <= entry.end and entry.start < entry.end:
            return entry.dtype in ("U8", "I8", dtype_name(dtype)) or not dtype_name(dtype)
    return not nbytes
