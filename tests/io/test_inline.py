"""Weights inside a model file that stay there: nothing of the model may depend on whether they are mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrow.concrete.session import skeleton_of
from onnxgrow.errors import BadInputError
from onnxgrow.io import inline, load, model_digest, save_bytes
from onnxgrow.io.tensors import InlineTensor

SHAPE = (40, 64)


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxgrow.io.inline.LEAST_FILE", 0)


def model_proto() -> onnx.ModelProto:
    """A chain of three layers whose weights are raw data, typed data and small raw data."""
    rng = np.random.default_rng(3)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,64] x) => (float[N,40] y)'
        " { t = MatMul(x, wt) h = Add(t, b) y = Mul(h, c) }"
    )
    wt = onnx.numpy_helper.from_array(rng.standard_normal(SHAPE[::-1]).astype(np.float32), "wt")
    b = onnx.helper.make_tensor("b", onnx.TensorProto.FLOAT, SHAPE[:1], rng.standard_normal(SHAPE[0]).tolist())
    c = onnx.numpy_helper.from_array(rng.standard_normal(SHAPE[:1]).astype(np.float32), "c")
    model.graph.initializer.extend([b, wt, c])
    model.metadata_props.add(key="k", value="v")
    return model


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("shift", range(5))
def test_a_mapped_model_is_the_same_model(tmp_path: Path, shift: int) -> None:
    proto = model_proto()
    proto.graph.name = "g" * (1 + shift)  # moves the weights to every alignment
    path = written(tmp_path / "m.onnx", proto.SerializeToString())
    plain, mapped = load(path).model, load(path, mapped=True).model
    assert isinstance(mapped.graph.initializers["wt"].const_value, InlineTensor)
    assert not any(
        isinstance(v.const_value, ir.ExternalTensor) for n, v in mapped.graph.initializers.items() if n != "wt"
    )
    assert model_digest(mapped) == model_digest(plain)
    assert save_bytes(mapped) == save_bytes(plain)


def test_the_runtime_gets_weights_at_odd_bytes_aligned(tmp_path: Path) -> None:
    proto = model_proto()
    for shift in range(4):
        proto.graph.name = "g" * (1 + shift)
        model = load(written(tmp_path / f"{shift}.onnx", proto.SerializeToString()), mapped=True).model
        tensor = model.graph.initializers["wt"].const_value
        assert isinstance(tensor, InlineTensor)
        skeleton = skeleton_of(model)
        assert ("wt" in skeleton.weights) == bool(tensor.offset % 4)
        assert all(array.flags.aligned for array in skeleton.weights.values())


def test_small_files_and_other_sources_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxgrow.io.inline.LEAST_FILE", 1 << 20)
    path = written(tmp_path / "m.onnx", model_proto().SerializeToString())
    tensor = load(path, mapped=True).model.graph.initializers["wt"].const_value
    assert not isinstance(tensor, ir.ExternalTensor)


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7]) if number > 0x7F else bytes([number])


def test_a_graph_in_two_pieces_is_left_to_protobuf(tmp_path: Path) -> None:
    proto = model_proto()
    rest = onnx.ModelProto()
    rest.graph.doc_string = "second piece"
    data = proto.SerializeToString() + rest.SerializeToString()
    assert inline.slim(memoryview(data)) is None
    model = load(written(tmp_path / "m.onnx", data), mapped=True).model
    assert model.graph.doc_string == "second piece"


@pytest.mark.parametrize("dims", [[64, 41], [64, -40], [2**40, 2**40]])
def test_data_of_the_wrong_length_is_refused_as_ever(tmp_path: Path, dims: list[int]) -> None:
    proto = model_proto()
    del proto.graph.initializer[1].dims[:]
    proto.graph.initializer[1].dims.extend(dims)
    path = written(tmp_path / "m.onnx", proto.SerializeToString())
    messages = []
    for mapped in (False, True):
        with pytest.raises(BadInputError) as refused:
            load(path, mapped=mapped)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_data_in_two_fields_is_refused_as_ever(tmp_path: Path) -> None:
    proto = model_proto()
    proto.graph.initializer[1].float_data.append(1.0)
    path = written(tmp_path / "m.onnx", proto.SerializeToString())
    with pytest.raises(BadInputError, match="several fields"):
        load(path, mapped=True)


def test_damaged_bytes_never_load_as_another_model(tmp_path: Path) -> None:
    data = bytearray(model_proto().SerializeToString())
    rng = np.random.default_rng(9)
    for _ in range(400):
        broken = bytearray(data)
        position = int(rng.integers(len(data)))
        broken[position] ^= 1 << int(rng.integers(8))
        if rng.random() < 0.3:
            del broken[int(rng.integers(len(data))) :]
        path = written(tmp_path / "m.onnx", bytes(broken))
        found = []
        for mapped in (False, True):
            try:
                found.append(save_bytes(load(path, mapped=mapped).model))
            except Exception as e:
                found.append(f"{type(e).__name__}: {e}".encode())
        assert found[0] == found[1]


def test_a_new_file_of_the_same_name_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", model_proto().SerializeToString())
    before = save_bytes(load(path).model)
    model = load(path, mapped=True).model
    written(tmp_path / "other", b"\0" * 100).replace(path)
    assert save_bytes(model) == before
