"""Digests of contents: equal for the same model however it is stored."""

from __future__ import annotations

import hashlib
import struct
from concurrent.futures import Future, ThreadPoolExecutor

import onnx
import onnx_ir as ir

from onnxgrow.io.load import Loaded
from onnxgrow.io.sink import workers
from onnxgrow.io.tensors import MappedTensor, blocks, strings
from onnxgrow.io.write import write_model

__all__ = ["canonical_proto", "model_digest", "tensor_digest"]


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """SHA-256 of a tensor's raw form (little-endian ``raw_data`` bytes), as 64 hex digits.

    Read in pieces of at most 32 MB. Strings have no raw form: each is hashed after its length (8 bytes,
    little-endian).

    Raises:
        BadInputError: The tensor gives fewer or more bytes than it declares.
    """
    digest = hashlib.sha256()
    if tensor.dtype == ir.DataType.STRING:
        for text in strings(tensor):
            digest.update(struct.pack("<Q", len(text)) + text)
    else:
        for block in blocks(tensor):
            digest.update(block)
    return digest.hexdigest()


def model_digest(model: Loaded | ir.Model) -> str:
    """SHA-256 of a model's contents, as 64 hex digits.

    The same for inline weights, external data and objects in memory. It covers everything of the model,
    metadata (the growth map too) and doc strings included, but for what has no meaning: the order of
    metadata, opset imports and value descriptions, and descriptions that repeat others or describe nothing.
    """
    proto = canonical_proto(model.model if isinstance(model, Loaded) else model)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def canonical_proto(model: ir.Model) -> onnx.ModelProto:
    """What :func:`model_digest` hashes: the model with each tensor's digest as its ``raw_data``.

    Tensors that lie in files are hashed by several threads; the others are made one at a time.
    """
    mapped: list[tuple[onnx.TensorProto, Future[str]]] = []
    with ThreadPoolExecutor(workers(), "onnxgrow-digest") as pool:

        def write_digest(proto: onnx.TensorProto, tensor: ir.TensorProtocol, place: str) -> None:
            if isinstance(tensor, MappedTensor):
                mapped.append((proto, pool.submit(tensor_digest, tensor)))
            else:
                proto.raw_data = bytes.fromhex(tensor_digest(tensor))

        try:
            model_proto = write_model(model, write_digest, canonical=True)
            for proto, digest in mapped:
                proto.raw_data = bytes.fromhex(digest.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return model_proto
