"""One-ulp perturbations of a model's inputs and weights, to measure the noise floor of its own dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrow.verify.sessions import ModelSource

__all__ = ["moved", "moved_inputs", "moved_weights"]

SCALES = {"Resize": (1, 2), "Upsample": (1,)}
"""Op → inputs that sizes are computed from: a scale of 1 that is moved is refused, one of 2 makes 11 of 6."""
WEIGHT_LIMIT = 20_000_000
"""Bytes of weights that are moved at most: noise does not need all of a large model."""


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype.name == "bfloat16")


def moved(x: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Every finite, non-zero entry of ``x`` moved to the next or the previous number of its dtype, signs drawn."""
    size = x.dtype.itemsize
    bits = np.ascontiguousarray(x).view(f"u{size}")
    words = np.random.Philox(key=seed).random_raw(-(-max(x.size, 1) // 64))
    signs = np.unpackbits(np.atleast_1d(words).view(np.uint8), count=x.size).reshape(x.shape)
    step = np.where(signs, 1, -1).astype(f"i{size}").view(f"u{size}")
    neighbour = (bits + step).astype(f"u{size}").view(x.dtype)
    keep = (x == 0) | ~np.isfinite(x) | ~np.isfinite(neighbour)
    return np.where(keep, x, neighbour).astype(x.dtype)


def moved_inputs(feeds: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """``feeds`` with its float arrays moved by one ulp; None where it has no float array."""
    floats = [name for name, x in feeds.items() if _is_float(x) and x.size]
    if not floats:
        return None
    return {name: moved(x, seed + 31 * floats.index(name)) if name in floats else x for name, x in feeds.items()}


def moved_weights(source: ModelSource, seed: int) -> ModelSource:
    """The model with its float initializers and constants moved by one ulp, up to a limit of bytes."""
    proto = source.proto()
    budget = WEIGHT_LIMIT
    scales = {n for node in proto.graph.node for i in SCALES.get(node.op_type, ()) for n in node.input[i : i + 1]}
    for index, (name, tensor) in enumerate(_weights(proto)):
        count, dtype = math.prod(tensor.dims), ir.DataType(tensor.data_type)
        if name in scales or not dtype.is_floating_point() or count <= 1 or count * dtype.itemsize > budget:
            continue  # before any of it is read
        array = source.array(tensor)
        if not _is_float(array):
            continue
        budget -= array.nbytes
        new = onnx.numpy_helper.from_array(moved(array, seed + 31 * index), tensor.name)
        if new.data_type == tensor.data_type:
            tensor.CopyFrom(new)
    return source.with_proto(proto)


def _weights(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Constants of the main graph by the names that nodes read them by."""
    yield from ((tensor.name, tensor) for tensor in proto.graph.initializer)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t
