"""Data files: which tensors they hold, where in them, and what they are called.

Tensors below 1 KB stay in the model file. In raw files the others follow each other at multiples of 64 bytes, those of
1 MB and more at multiples of 64 KB, which is what memory mapping needs on all systems; safetensors files
(:mod:`onnxgrow.io.safetensors`) leave no room between tensors.
Spec: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md

The name of a data file holds a digest of its contents (of offset, length and SHA-256 of every tensor in it), so a file
never takes the place of a different one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx
import onnx_ir as ir

from onnxgrow.io.carry import Carried
from onnxgrow.io.folder import Workplace
from onnxgrow.io.safetensors import SUFFIX, header, header_bound
from onnxgrow.io.sink import Sink, Written
from onnxgrow.io.tensors import raw_nbytes
from onnxgrow.io.wire import fill_inline
from onnxgrow.io.write import Place, write_model

__all__ = ["Layout", "Weights", "lay_out", "write_data"]

_SMALL = 1 << 10
_LARGE = 1 << 20
_SMALL_ALIGNMENT = 64
_LARGE_ALIGNMENT = 1 << 16


Weights = Literal["raw", "safetensors"]
"""Form of the data files."""


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
        heads: The first bytes of each data file.
        suffix: Of the names of the data files.
        names: Of the written data files, each once.
        digests: SHA-256 of the written tensors of the main graph.
        linked: Bytes that the files share with others.
    """

    proto: onnx.ModelProto
    files: list[list[_Placed]]
    heads: list[bytes]
    suffix: str = ".data"
    names: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    linked: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all data files together."""
        return sum(file[-1].offset + file[-1].nbytes for file in self.files)


def lay_out(model: ir.Model, carried: Carried | None, shard_size: int | None, weights: Weights = "raw") -> Layout:
    """Decide what goes where; no tensor that goes into a data file is read.

    Args:
        shard_size: Largest number of bytes of a data file; a tensor that is larger has a file of its own.
        weights: Form of the data files.
    """
    files: list[list[_Placed]] = []
    listing = 0

    def place_tensor(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
        nbytes = raw_nbytes(tensor)
        if place == Place.ATTRIBUTE or tensor.dtype == ir.DataType.STRING or nbytes < _SMALL:
            fill_inline(proto, tensor)
            return
        nonlocal listing
        alignment = _LARGE_ALIGNMENT if nbytes >= _LARGE else _SMALL_ALIGNMENT
        if weights == "safetensors":
            # Not more than this goes before the data, and nothing between tensors.
            shape = tensor.shape.numpy()
            listing = listing + header_bound(proto.name, shape) if files else header_bound(proto.name, shape)
            if files and shard_size is not None and _end(files[-1]) + nbytes + listing + _LARGE_ALIGNMENT > shard_size:
                files.append([])
                listing = header_bound(proto.name, shape)
            elif not files:
                files.append([])
            files[-1].append(_Placed(proto, tensor, _end(files[-1]), nbytes))
            return
        end = _end(files[-1]) if files else 0
        offset = -(-end // alignment) * alignment
        if not files or (shard_size is not None and offset + nbytes > shard_size):
            files.append([])
            offset = 0
        files[-1].append(_Placed(proto, tensor, offset, nbytes))

    proto = write_model(model, place_tensor, carried=carried)
    if weights == "raw":
        return Layout(proto, files, [b""] * len(files))
    arranged = [_safetensors(file) for file in files]
    return Layout(proto, [file for file, _ in arranged], [head for _, head in arranged], SUFFIX)


def _end(file: list[_Placed]) -> int:
    return file[-1].offset + file[-1].nbytes if file else 0


def _safetensors(file: list[_Placed]) -> tuple[list[_Placed], bytes]:
    """The tensors of a safetensors file where they will be, and its header.

    There is no room between tensors, so those of longer types come first: every tensor is aligned for its type then.
    """
    ordered = sorted(file, key=lambda placed: -placed.tensor.dtype.bitwidth)
    alignment = _LARGE_ALIGNMENT if any(placed.nbytes >= _LARGE for placed in file) else _SMALL_ALIGNMENT
    head = header(
        [(p.proto.name, p.tensor.dtype, [int(n) for n in p.tensor.shape.numpy()], p.nbytes) for p in ordered], alignment
    )
    result: list[_Placed] = []
    for placed in ordered:
        result.append(replace(placed, offset=_end(result) or len(head)))
    return result, head


def write_data(
    layout: Layout, workplace: Workplace, stem: str, mode: int | None, written: Written | None, link: bool
) -> None:
    """Write the data files into ``workplace``, and into the structure where everything is."""
    main = {tensor.name for tensor in layout.proto.graph.initializer}
    for file, head in zip(layout.files, layout.heads, strict=True):
        found = []
        partial = "data.partial"
        with Sink(workplace.create(partial), written, link) as sink:
            sink.write(head)
            for placed in file:
                sink.write(bytes(placed.offset - sink.position))
                found.append(sink.tensor(placed.tensor, digest=True))
            sink.sync(mode)
            layout.linked += sink.linked
            digests = [digest.result() for digest in found if digest is not None]
        lines = [f"{p.offset} {p.nbytes} {digest}\n" for p, digest in zip(file, digests, strict=True)]
        layout.digests.update((p.proto.name, d) for p, d in zip(file, digests, strict=True) if p.proto.name in main)
        name = f"{stem}-{hashlib.sha256(head + ''.join(lines).encode()).hexdigest()[:16]}{layout.suffix}"
        os.replace(workplace.path / partial, workplace.path / name)
        if name not in layout.names:
            layout.names.append(name)
        for placed in file:
            placed.proto.data_location = onnx.TensorProto.EXTERNAL
            for key, value in _reference(name, placed):
                placed.proto.external_data.add(key=key, value=value)


def _reference(name: str, placed: _Placed) -> Iterator[tuple[str, str]]:
    yield from (("location", name), ("offset", str(placed.offset)), ("length", str(placed.nbytes)))
