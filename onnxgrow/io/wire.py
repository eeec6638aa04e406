"""A ModelProto as a stream of bytes, in which weights pass by one at a time.

protobuf serialises a message as a whole, which holds every weight in memory twice. The wire format lets a
message be put together from parts: here the initializers of the main graph are appended to a graph written
without them.
Spec: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

from onnxgrow.io.carry import Carried
from onnxgrow.io.tensors import blocks, raw_nbytes, strings
from onnxgrow.io.write import Place, write_metadata, write_model

__all__ = ["ModelStream", "fill_inline", "varint"]


def _tag(message: type, field: str) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)  # type: ignore[attr-defined] # generated


def varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_GRAPH = _tag(onnx.ModelProto, "graph")
_INITIALIZER = _tag(onnx.GraphProto, "initializer")
_RAW_DATA = _tag(onnx.TensorProto, "raw_data")


def fill_inline(proto: onnx.TensorProto, tensor: ir.TensorProtocol) -> None:
    """Put a tensor's data into its TensorProto: ``string_data`` for strings, ``raw_data`` for all others."""
    if tensor.dtype == ir.DataType.STRING:
        proto.string_data.extend(strings(tensor))
    else:
        proto.raw_data = b"".join(blocks(tensor))


class ModelStream:
    """A model's file in pieces; its size is known before any weight is read.

    Args:
        proto: The structure; it holds all data but that of the initializers given in ``streamed``.
        streamed: For each initializer of ``proto.graph`` the tensor to append the data of, or None.

    Attributes:
        nbytes: Size of the whole file.
    """

    def __init__(self, proto: onnx.ModelProto, streamed: list[ir.TensorProtocol | None]) -> None:
        self._headers = [tensor.SerializeToString(deterministic=True) for tensor in proto.graph.initializer]
        self._names = [tensor.name for tensor in proto.graph.initializer]
        self._streamed = streamed
        rest = onnx.GraphProto()
        rest.CopyFrom(proto.graph)
        del rest.initializer[:]
        self._graph = rest.SerializeToString(deterministic=True)
        self._outer = onnx.ModelProto()
        self._outer.CopyFrom(proto)
        self._outer.ClearField("graph")
        self._sizes = [
            len(header) + (len(self._data_tag(tensor)) + raw_nbytes(tensor) if tensor is not None else 0)
            for header, tensor in zip(self._headers, streamed, strict=True)
        ]
        self._graph_nbytes = len(self._graph) + sum(
            len(_INITIALIZER) + len(varint(size)) + size for size in self._sizes
        )
        self.nbytes = len(self.head) + len(_GRAPH) + len(varint(self._graph_nbytes)) + self._graph_nbytes

    @classmethod
    def inline(cls, model: ir.Model, carried: Carried | None = None) -> ModelStream:
        """A model with all its data inside."""
        streamed: list[ir.TensorProtocol | None] = []

        def fill(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
            text = tensor.dtype == ir.DataType.STRING
            if place == Place.MAIN:
                streamed.append(None if text else tensor)
            if text or place != Place.MAIN:
                fill_inline(proto, tensor)

        return cls(write_model(model, fill, carried=carried), streamed)

    @staticmethod
    def _data_tag(tensor: ir.TensorProtocol) -> bytes:
        return _RAW_DATA + varint(raw_nbytes(tensor))

    @property
    def head(self) -> bytes:
        """The first bytes of the file: all of the model but its graph."""
        return bytes(self._outer.SerializeToString(deterministic=True))

    def set_metadata(self, properties: Mapping[str, str]) -> None:
        """Replace the model's metadata; only ``head`` depends on it."""
        before = self._outer.ByteSize()
        write_metadata(self._outer, properties)
        self.nbytes += self._outer.ByteSize() - before

    def __iter__(self) -> Iterator[bytes | ir.TensorProtocol]:
        """Bytes, and tensors whose raw form is to be written in their place."""
        yield self.head
        yield _GRAPH + varint(self._graph_nbytes)
        yield self._graph
        for header, tensor, size in zip(self._headers, self._streamed, self._sizes, strict=True):
            yield _INITIALIZER + varint(size) + header
            if tensor is not None:
                yield self._data_tag(tensor)
                yield tensor

    def names(self) -> Iterator[str]:
        """Names of the initializers whose tensors ``iter`` gives, in that order."""
        yield from (name for name, tensor in zip(self._names, self._streamed, strict=True) if tensor is not None)
