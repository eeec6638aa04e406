"""Only regular files beside the model are read, and other formats are named."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxgrow.errors import BadInputError, GrowError
from onnxgrow.io import load, save_bytes
from onnxgrow.io.tensors import MappedTensor

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def write_external(folder: Path, model: onnx.ModelProto, location: str = "weights.data", *, data: bool = True) -> Path:
    """Write a model whose ``w1`` lies in ``location``; the data file is only written if asked for."""
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    if data:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(tensor.raw_data)
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def w1_of(path: Path) -> np.ndarray:
    tensor = load(path).model.graph.initializers["w1"].const_value
    assert isinstance(tensor, MappedTensor)
    return tensor.numpy()


def test_external_data_is_mapped_and_equal(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    expected = onnx.numpy_helper.to_array(mlp.graph.initializer[0])
    np.testing.assert_array_equal(w1_of(write_external(tmp_path, mlp)), expected)


def test_external_data_in_a_folder_below_the_model_is_read(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    assert w1_of(write_external(tmp_path, mlp, "sub/weights.data")).shape == (4, 5)


def test_tensors_of_one_file_share_one_mapping(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    onnx.save(mlp, tmp_path / "m.onnx", save_as_external_data=True, location="all.data", size_threshold=0)
    tensors = [v.const_value for v in load(tmp_path / "m.onnx").model.graph.initializers.values()]
    assert len(tensors) == 4
    assert len({t._file.path for t in tensors if isinstance(t, MappedTensor)}) == 1
    assert len({t._file.view.obj for t in tensors if isinstance(t, MappedTensor)}) == 1


def test_a_hub_cache_of_links_is_read(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path = write_external(tmp_path, mlp)
    path.rename(blobs / "aaa")
    (tmp_path / "weights.data").rename(blobs / "bbb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaa")
    (snapshot / "weights.data").symlink_to("../../../blobs/bbb")
    assert w1_of(snapshot / "model.onnx").shape == (4, 5)


def test_a_hard_linked_data_file_is_read(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = write_external(tmp_path, mlp)
    os.link(tmp_path / "weights.data", tmp_path / "second.data")
    assert w1_of(path).shape == (4, 5)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("C:\\weights.data", "absolute"),
        ("\\\\server\\weights.data", "absolute"),
        ("../weights.data", "leaves the model's folder"),
        ("sub/../../weights.data", "leaves the model's folder"),
        ("..\\weights.data", "leaves the model's folder"),
        ("missing.data", "does not exist"),
        ("", "no location"),
        ("a\0b", "no file name"),
    ],
)
def test_unsafe_locations_are_refused(tmp_path: Path, mlp: onnx.ModelProto, location: str, reason: str) -> None:
    (tmp_path / "weights.data").write_bytes(bytes(80))
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(BadInputError, match=reason):
        load(write_external(folder, mlp, location, data=False))


def _link_out(data: Path) -> None:
    secret = data.parent.parent / "secret"
    secret.write_bytes(bytes(80))
    data.symlink_to(secret)


def _folder_link_out(data: Path) -> None:
    outside = data.parent.parent / "outside"
    outside.mkdir()
    (outside / "w").write_bytes(bytes(80))
    data.symlink_to(outside / "w")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_link_out, "symbolic link"),
        (_folder_link_out, "symbolic link"),
        (lambda data: data.mkdir(), "a folder"),
        (lambda data: data.write_bytes(bytes(79)), "ends at byte 80"),
        (lambda data: data.write_bytes(b""), "ends at byte 80"),
        (lambda data: data.symlink_to("/dev/zero"), "symbolic link"),
        (lambda data: data.symlink_to(data.name), "cannot be read"),
        pytest.param(lambda data: os.mkfifo(data), "named pipe", marks=needs_fifo),
    ],
)
def test_unsafe_data_files_are_refused(
    tmp_path: Path, mlp: onnx.ModelProto, make: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = write_external(folder, mlp, data=False)
    make(folder / "weights.data")
    with pytest.raises(BadInputError, match=reason):
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("offset", "-1", "offset '-1'"),
        ("offset", "1", "ends at byte 81"),
        ("offset", "1e3", "offset '1e3'"),
        ("offset", str(2**62), "ends at byte|offset"),
        ("length", "79", "79 bytes"),
        ("length", "81", "81 bytes"),
        ("length", "-80", "length '-80'"),
        ("length", "0", "0 bytes"),
    ],
)
def test_wrong_extents_are_refused(tmp_path: Path, mlp: onnx.ModelProto, key: str, value: str, reason: str) -> None:
    path = write_external(tmp_path, mlp)
    model = onnx.load(path, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == key)
    entry.value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match=reason):
        load(path)


def test_a_key_given_twice_is_refused(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = write_external(tmp_path, mlp)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match="twice"):
        load(path)


def test_a_linked_model_without_its_data_gets_a_hint(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    real = tmp_path / "real"
    real.mkdir()
    write_external(real, mlp)
    link = tmp_path / "model.onnx"
    link.symlink_to(real / "model.onnx")
    with pytest.raises(BadInputError) as caught:
        load(link)
    assert str(real / "model.onnx") in caught.value.hint


_FORMATS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "zeros": (bytes(64), "zero bytes"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "html2": (b"\n  <html lang=en>", "HTML"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS"),
    "text model": (b'<ir_version: 8, opset_import: ["" : 17]>\nagraph (float[N] x) => (float[N] y) {}', "text form"),
    "prototext": (b'ir_version: 8\ngraph {\n  name: "g"\n}\n', "text form"),
    "json": (b'{"irVersion": "8", "graph": {}}', "JSON"),
    "text": (b"hello, I am no model", "text file"),
    "ort": (b"\x1c\x00\x00\x00ORTM" + bytes(60), "ONNX Runtime"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite"),
    "safetensors": ((40).to_bytes(8, "little") + b'{"w":{"dtype":"F32"}}', "safetensors"),
    "pickle": (pickle.dumps({"a": [1, 2]}), "pickle"),
    "pickle2": (pickle.dumps({"a": [1, 2]}, protocol=2), "pickle"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "noise": (bytes(range(256)), "damaged"),
    "no graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
}


@pytest.mark.parametrize("name", _FORMATS)
def test_other_formats_are_named(tmp_path: Path, name: str) -> None:
    content, reason = _FORMATS[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=reason):
        load(path)


def test_a_model_cut_at_any_place_is_refused_or_differs(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    whole = save_bytes(load(mlp).model)
    path = tmp_path / "m.onnx"
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInputError):
            load(path)


@pytest.mark.parametrize("damage", range(60))
def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path, mlp: onnx.ModelProto, damage: int) -> None:
    rng = np.random.default_rng(damage)
    content = bytearray(mlp.SerializeToString())
    for position in rng.integers(0, len(content), 3):
        content[position] = rng.integers(0, 256)
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(content))
    with suppress(GrowError):  # anything else fails the test; harmless damage may load
        load(path)


def test_folders_missing_files_and_broken_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").symlink_to("nowhere")
    for path, reason in (
        (tmp_path, "a folder"),
        (tmp_path / "missing.onnx", "does not exist"),
        (tmp_path / "broken.onnx", "does not exist"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(BadInputError, match=reason):
            load(path)


@needs_fifo
def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    outcome: list[BaseException] = []

    def attempt() -> None:
        try:
            load(tmp_path / "m.onnx")
        except BadInputError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    assert outcome
    assert "named pipe" in str(outcome[0])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(mlp.SerializeToString())
    path.chmod(0)
    with pytest.raises(BadInputError, match="cannot be read"):
        load(path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    model = onnx.ModelProto(ir_version=8)
    model.opset_import.add(version=17)
    graph = model.graph
    for _ in range(80):
        attribute = graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError):
        load(tmp_path / "m.onnx")
    with pytest.raises(BadInputError):
        load(model)
