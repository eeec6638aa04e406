"""Models to save, and what became of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxgrow.io import load

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


def with_weight(mlp: onnx.ModelProto, seed: int = 0, rows: int = 600) -> ir.Model:
    """The MLP with one more weight, of more than 1 MB, read by a node."""
    model = onnx.ModelProto()
    model.CopyFrom(mlp)
    large = np.random.default_rng(seed).standard_normal((rows, 500)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(large, "large"))
    model.graph.node.append(helper.make_node("ReduceSum", ["large"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, []))
    return load(model).model


def content(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def outputs(path: Path) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, {"x": np.ones((2, 4), np.float32)})]


def raiser(code: int) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail
