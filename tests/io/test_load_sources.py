"""All four kinds of source give the same model, and none is changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxgrow.errors import BadInputError
from onnxgrow.io import give_back, load, model_digest, save, tensor_digest
from onnxgrow.io.tensors import MappedTensor


def test_paths_protos_and_ir_models_are_the_same_model(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp, path)
    sources: dict[str, object] = {"path": str(path), "proto": mlp, "ir": ir.from_proto(mlp)}
    loaded = {kind: load(source) for kind, source in sources.items()}
    assert {kind: item.kind for kind, item in loaded.items()} == {kind: kind for kind in sources}
    assert all(item.source is sources[kind] for kind, item in loaded.items())
    assert loaded["path"].path == path
    assert loaded["ir"].path is None
    assert len({model_digest(item) for item in loaded.values()}) == 1


def test_the_type_that_comes_in_goes_out(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    onnx.save(mlp, tmp_path / "m.onnx")
    expected = {onnx.ModelProto: mlp, ir.Model: ir.from_proto(mlp)}
    for kind, source in expected.items():
        loaded = load(source)
        result = give_back(loaded, loaded.model)
        assert type(result) is kind
        assert model_digest(load(result)) == model_digest(loaded)
    loaded = load(tmp_path / "m.onnx")
    assert give_back(loaded, loaded.model) is loaded.model


def test_an_ir_model_is_not_changed_by_what_happens_to_its_copy(mlp: onnx.ModelProto) -> None:
    source = ir.from_proto(mlp)
    before = model_digest(source)
    model = load(source).model
    for node in list(model.graph):
        node.name = "renamed"
        node.outputs[0].dtype = ir.DataType.DOUBLE
        node.attributes["new"] = ir.AttrInt64("new", 1)
    model.graph.inputs[0].shape = ir.Shape([1])
    model.graph.initializers.pop("b2")
    model.opset_imports["x"] = 1
    assert model_digest(source) == before
    assert model_digest(model) != before


def test_external_data_of_an_ir_model_is_found(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    digest, path = model_digest(load(mlp)), tmp_path / "m.onnx"
    onnx.save(mlp, path, save_as_external_data=True, location="w.data", size_threshold=0)
    model = load(ir.load(path)).model
    assert isinstance(model.graph.initializers["w1"].const_value, MappedTensor)
    assert model_digest(model) == digest
    (tmp_path / "w.data").write_bytes(bytes(20))
    with pytest.raises(BadInputError, match="does not hold it"):
        load(ir.load(path))
    (tmp_path / "w.data").unlink()
    with pytest.raises(BadInputError, match="does not exist"):
        load(ir.load(path))


def test_malformed_ir_models_are_refused(mlp: onnx.ModelProto) -> None:
    source = ir.from_proto(mlp)
    source.graph.initializers["w1"].const_value = None
    with pytest.raises(BadInputError, match="has no data"):
        load(source)
    source = ir.from_proto(mlp)
    source.graph.node(0).outputs[0].name = "r"
    with pytest.raises(BadInputError, match="assigned twice"):
        load(source)


@pytest.mark.parametrize("source", [None, 3, b"bytes", onnx.GraphProto()])
def test_other_things_are_no_models(source: object) -> None:
    with pytest.raises(BadInputError, match="no model"):
        load(source)


def test_external_data_in_constants_is_mapped(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="c.data")
    (tmp_path / "c.data").write_bytes(np.arange(3, dtype=np.float32).tobytes())
    mlp.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor))
    (tmp_path / "m.onnx").write_bytes(mlp.SerializeToString())
    node = load(tmp_path / "m.onnx").model.graph.node(3)
    constant = node.attributes["value"].as_tensor()
    assert isinstance(constant, MappedTensor)
    np.testing.assert_array_equal(constant.numpy(), [0, 1, 2])


def test_mapped_tensors_of_every_type_equal_inline_ones(tmp_path: Path, everything_model: onnx.ModelProto) -> None:
    inline = load(everything_model).model
    path = save(inline, tmp_path / "m.onnx")
    model = onnx.load(path)
    data = bytearray()
    names = [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("raw_")]
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "all.data"), ("offset", len(data)), ("length", len(tensor.raw_data))):
                tensor.external_data.add(key=key, value=str(value))
            data += tensor.raw_data
            tensor.ClearField("raw_data")
    (tmp_path / "all.data").write_bytes(data)
    path.write_bytes(model.SerializeToString())
    mapped = load(path).model
    assert len(names) == len(TensorProto.DataType.keys()) - 2
    for name in names:
        a, b = inline.graph.initializers[name].const_value, mapped.graph.initializers[name].const_value
        assert a is not None
        assert isinstance(b, MappedTensor)
        assert tensor_digest(a) == tensor_digest(b)
        assert a.numpy().dtype == b.numpy().dtype
        assert a.numpy().tobytes() == b.numpy().tobytes()
    assert model_digest(mapped) == model_digest(inline)


def test_heavy_optional_packages_are_not_imported() -> None:
    code = (
        "import sys, onnxgrow.io; print([m for m in ('onnx_graphsurgeon', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
