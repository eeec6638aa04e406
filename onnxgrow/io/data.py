"""Data files: which tensors they hold, where in them, and what they are called.

Tensors below 1 KB stay in the model file; larger ones follow each other at multiples of 64 bytes, those of 1 MB and
more at multiples of 64 KB, which is what memory mapping needs on all systems.
Spec: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md

The name of a data file holds a digest of its contents (of offset, length and SHA-256 of every tensor in it), so a file
never takes the place of a different one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from onnxgrow.io.carry import Carried
from onnxgrow.io.folder import Workplace
from onnxgrow.io.sink import Sink, Written
from onnxgrow.io.tensors import raw_nbytes
from onnxgrow.io.wire import fill_inline
from onnxgrow.io.write import Place, write_model

__all__ = ["Layout", "lay_out", "write_data"]

_SMALL = 1 << 10
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64
_LARGE_ALIGNMENT = 1 << 16


@dataclass(frozen=True)
class _Placed:
    proto: onnx.TensorProto
    tensor: ir.TensorProtocol
    offset: int
    nbytes: int


@dataclass
class Layout:
    """A model's structure and the tensors of each data file.

    Attributes:
        proto: The structure, with all data that stays in the model file.
        files: What each data file holds, in order.
        names: Of the written data files, each once.
        digests: SHA-256 of the written tensors of the main graph.
        linked: Bytes that the files share with others.
    """

    proto: onnx.ModelProto
    files: list[list[_Placed]]
    names: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    linked: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all data files together."""
        return sum(file[-1].offset + file[-1].nbytes for file in self.files)


def lay_out(model: ir.Model, carried: Carried | None, shard_size: int | None) -> Layout:
    """Decide what goes where; no tensor that goes into a data file is read.

    Args:
        shard_size: Largest number of bytes of a data file; a tensor that is larger has a file of its own.
    """
    files: list[list[_Placed]] = []

    def place_tensor(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
        nbytes = raw_nbytes(tensor)
        if place == Place.ATTRIBUTE or tensor.dtype == ir.DataType.STRING or nbytes < _SMALL:
            fill_inline(proto, tensor)
            return
        alignment = _LARGE_ALIGNMENT if nbytes >= _LARGE else _SMALL_ALIGNMENT
        end = files[-1][-1].offset + files[-1][-1].nbytes if files else 0
        offset = -(-end // alignment) * alignment
        if not files or (shard_size is not None and offset + nbytes > shard_size):
            files.append([])
            offset = 0
        files[-1].append(_Placed(proto, tensor, offset, nbytes))

    proto = write_model(model, place_tensor, carried=carried)
    return Layout(proto, files)


def write_data(
    layout: Layout, workplace: Workplace, stem: str, mode: int | None, written: Written | None, link: bool
) -> None:
    """Write the data files into ``workplace``, and into the structure where everything is."""
    main = {tensor.name for tensor in layout.proto.graph.initializer}
    for file in layout.files:
        lines = []
        partial = "data.partial"
        with Sink(workplace.create(partial), written, link) as sink:
            for placed in file:
                sink.write(bytes(placed.offset - sink.position))
                digest = sink.tensor(placed.tensor, digest=True)
                lines.append(f"{placed.offset} {placed.nbytes} {digest}\n")
                if placed.proto.name in main:
                    layout.digests[placed.proto.name] = digest
            sink.sync(mode)
            layout.linked += sink.linked
        name = f"{stem}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}.data"
        os.replace(workplace.path / partial, workplace.path / name)
        if name not in layout.names:
            layout.names.append(name)
        for placed in file:
            placed.proto.data_location = onnx.TensorProto.EXTERNAL
            for key, value in _reference(name, placed):
                placed.proto.external_data.add(key=key, value=value)


def _reference(name: str, placed: _Placed) -> Iterator[tuple[str, str]]:
    yield from (("location", name), ("offset", str(placed.offset)), ("length", str(placed.nbytes)))
