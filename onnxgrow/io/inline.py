"""Weights inside a large model file, left where they are: found in the file's bytes, and mapped instead of read.

protobuf copies every weight when it parses a file, and once more whenever one is asked for. Here the file is walked
without it, the data of large initializers of the main graph is left out of what is parsed, and its place remembered.
Spec: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxgrow.errors import BadInputError
from onnxgrow.io.structure import tensor_nbytes
from onnxgrow.io.wire import varint

__all__ = ["LEAST_FILE", "Slim", "refer", "slim"]

LEAST_FILE = 64 << 20
"""Bytes of the smallest file whose weights are mapped."""
LEAST_TENSOR = 1 << 12

_VARINT, _I64, _LENGTH, _I32 = 0, 1, 2, 5
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_PLAIN = frozenset(
    onnx.TensorProto.DESCRIPTOR.fields_by_name[name].number
    for name in ("dims", "data_type", "name", "doc_string", "raw_data", "metadata_props")
)
"""Fields of a tensor that has its data in ``raw_data`` and nowhere else."""


@dataclass(frozen=True)
class Slim:
    """A serialised model without the data of some initializers.

    Attributes:
        data: A ModelProto.
        places: Index among the main graph's initializers → first byte and number of bytes of its data in the file.
    """

    data: bytes
    places: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    begin: int
    start: int
    end: int


def slim(view: memoryview) -> Slim | None:
    """Leave the data of large initializers out; None where the file is built in a way that this does not know.

    Then protobuf itself has to say what is in it: a damaged file, a graph in several pieces, and the like.
    """
    try:
        outer = list(_fields(view, 0, len(view)))
        graphs = [f for f in outer if f.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].wire != _LENGTH:
            return None
        inner, places = _slim_graph(view, graphs[0])
    except ValueError:
        return None
    parts: list[bytes | memoryview] = []
    for field in outer:
        if field.number == _GRAPH:
            parts += [varint(_GRAPH << 3 | _LENGTH), varint(sum(map(len, inner))), *inner]
        else:
            parts.append(view[field.begin : field.end])
    return Slim(b"".join(parts), places)


def refer(proto: onnx.ModelProto, places: dict[int, tuple[int, int]], view: memoryview, location: str) -> None:
    """Make initializers whose data was left out refer to the file ``location`` by offset and length.

    One whose data does not have the length that its shape and type need gets it back, for the checks to refuse.
    """
    for index, (start, nbytes) in places.items():
        tensor = proto.graph.initializer[index]
        if tensor.data_type == ir.DataType.STRING or _declared(tensor) != nbytes:
            tensor.raw_data = bytes(view[start : start + nbytes])
            continue
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(start)), ("length", str(nbytes))):
            tensor.external_data.add(key=key, value=value)


def _declared(tensor: onnx.TensorProto) -> int | None:
    try:
        return tensor_nbytes(tensor, tensor.name)
    except BadInputError:
        return None


def _slim_graph(view: memoryview, graph: _Field) -> tuple[Sequence[bytes | memoryview], dict[int, tuple[int, int]]]:
    parts: list[bytes | memoryview] = []
    places: dict[int, tuple[int, int]] = {}
    count = 0
    for field in _fields(view, graph.start, graph.end):
        if field.number != _INITIALIZER:
            parts.append(view[field.begin : field.end])
            continue
        if field.wire != _LENGTH:
            raise ValueError
        data = _raw_data(view, field)
        if data is None:
            parts.append(view[field.begin : field.end])
        else:
            places[count] = (data.start, data.end - data.start)
            size = field.end - field.start - (data.end - data.begin)
            parts += [varint(_INITIALIZER << 3 | _LENGTH), varint(size)]
            parts += [view[field.start : data.begin], view[data.end : field.end]]
        count += 1
    return parts, places


def _raw_data(view: memoryview, tensor: _Field) -> _Field | None:
    """The raw data of a tensor that is large and has its data nowhere else."""
    if tensor.end - tensor.start < LEAST_TENSOR:
        return None
    fields = list(_fields(view, tensor.start, tensor.end))
    data = [f for f in fields if f.number == _RAW_DATA]
    if len(data) != 1 or data[0].wire != _LENGTH or not all(f.number in _PLAIN for f in fields):
        return None
    return data[0] if data[0].end - data[0].start >= LEAST_TENSOR else None


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message, one after the other. Raises ValueError where it is none."""
    while start < end:
        tag, body = _read_varint(view, start, end)
        wire, after = tag & 7, body
        if wire == _VARINT:
            _, after = _read_varint(view, body, end)
        elif wire == _LENGTH:
            size, body = _read_varint(view, body, end)
            after = body + size
        elif wire in (_I64, _I32):
            after = body + (8 if wire == _I64 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if after > end:
            raise ValueError("a field leads out of its message")
        yield _Field(tag >> 3, wire, start, body, after)
        start = after


def _read_varint(view: memoryview, start: int, end: int) -> tuple[int, int]:
    """A number and the position behind it."""
    number = 0
    for position in range(start, min(start + 10, end)):
        byte = view[position]
        number |= (byte & 0x7F) << 7 * (position - start)
        if byte < 0x80:
            return number, position + 1
    raise ValueError("a number without an end")
