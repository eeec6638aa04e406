"""Digests depend on the contents and not on how they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgrow.io import load, model_digest, save, tensor_digest


def test_a_tensor_digest_is_that_of_its_raw_bytes() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
    for stored in (array, np.asfortranarray(array), array[::-1][::-1]):
        assert tensor_digest(ir.tensor(stored, dtype=ir.DataType.FLOAT)) == expected
    lazy = ir.LazyTensor(lambda: ir.tensor(array), ir.DataType.FLOAT, ir.Shape([3, 4]))
    assert tensor_digest(lazy) == expected


def test_typed_and_raw_storage_have_one_digest() -> None:
    typed = helper.make_tensor("t", TensorProto.FLOAT16, [3], [0.5, 1.0, -0.0])
    raw = numpy_helper.from_array(np.array([0.5, 1.0, -0.0], np.float16), "t")
    assert typed.int32_data
    assert raw.raw_data
    assert len({tensor_digest(ir.serde.deserialize_tensor(t)) for t in (typed, raw)}) == 1


def test_string_digests_see_where_one_string_ends() -> None:
    digests = {tensor_digest(ir.tensor(np.array(v, object))) for v in (["ab", "c"], ["a", "bc"], ["abc", ""])}
    assert len(digests) == 3


@pytest.mark.parametrize("external", [False, True])
def test_storage_does_not_matter(tmp_path: Path, everything_model: onnx.ModelProto, external: bool) -> None:
    everything_model.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "large"))
    digest = model_digest(load(everything_model))
    path = save(load(everything_model).model, tmp_path / "m.onnx", external_data=external)
    assert len(list(tmp_path.iterdir())) == 1 + external
    assert model_digest(load(path)) == digest


_CHANGES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "one bit": lambda m: m.graph.initializer[0].__setattr__(
        "raw_data", bytes([m.graph.initializer[0].raw_data[0] ^ 1]) + m.graph.initializer[0].raw_data[1:]
    ),
    "a name": lambda m: m.graph.node[1].__setattr__("name", "new"),
    "growth map": lambda m: m.metadata_props.add(key="onnxgrow.growth_map", value="{}"),
    "an attribute": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("transB", 0)),
    "a doc string": lambda m: m.graph.__setattr__("doc_string", "new"),
    "opset": lambda m: m.opset_import[0].__setattr__("version", 16),
    "an annotation": lambda m: m.graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="s"
    ),
    "a described shape": lambda m: m.graph.value_info.append(helper.make_tensor_value_info("h", 1, ["N", 5])),
    "order of nodes": lambda m: m.graph.node.insert(0, m.graph.node.pop(1)),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_every_change_is_seen(mlp: onnx.ModelProto, name: str) -> None:
    before = model_digest(load(mlp))
    _CHANGES[name](mlp)
    assert model_digest(load(mlp)) != before


def test_what_has_no_meaning_does_not_count(mlp: onnx.ModelProto) -> None:
    for name in ("h", "r"):
        mlp.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]))
        mlp.metadata_props.add(key=name, value="1")
    before = model_digest(load(mlp))
    mlp.graph.value_info.reverse()
    mlp.metadata_props.reverse()
    mlp.graph.node[0].domain = ""
    mlp.graph.value_info.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [4, 5]))
    assert model_digest(load(mlp)) == before
    assert model_digest(load(ir.from_proto(mlp))) == before
