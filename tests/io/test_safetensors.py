"""External data in safetensors files: what is written follows the format, what is read is held to it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from saving import outputs, with_weight

from onnxgrow.errors import BadInputError, UsageError
from onnxgrow.io import load, model_digest, save, stage
from onnxgrow.io.safetensors import read_header

NUMPY = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "BF16": ml_dtypes.bfloat16}


def parsed(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data, by the letter of the format."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def arrays(path: Path) -> dict[str, np.ndarray]:
    listed, data = parsed(path)
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], NUMPY[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in listed.items()
    }


def mixed(mlp: onnx.ModelProto) -> ir.Model:
    """Weights of several types, one of them not known to safetensors, one with a name that the format reserves."""
    model = with_weight(mlp)
    for name, values in (
        ("bytes", np.arange(2001, dtype=np.uint8)),
        ("half", np.linspace(0, 1, 1001, dtype=np.float16)),
        ("long", np.arange(1000, dtype=np.int64)),
        ("__metadata__", np.ones((30, 40), ml_dtypes.bfloat16)),
    ):
        model.graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(values)))
    four = ir.PackedTensor(np.arange(3000, dtype=np.uint8), ir.DataType.INT4, shape=ir.Shape([60, 100]))
    model.graph.register_initializer(ir.Value(name="four", const_value=four))
    return model


def test_the_file_holds_the_weights_by_name(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = mixed(mlp)
    path = save(model, tmp_path / "m.onnx", weights="safetensors")
    [file] = tmp_path.glob("m-*.safetensors")
    found = arrays(file)
    assert set(found) == {"large", "bytes", "half", "long", "__metadata__#2", "four"}
    for name, values in found.items():
        tensor = model.graph.initializers[name.removesuffix("#2")].const_value
        assert tensor is not None
        assert values.tobytes() == tensor.tobytes(), name
        if name != "four":
            assert values.shape == tuple(tensor.shape.numpy())
    assert model_digest(load(path)) == model_digest(model)


def test_runtimes_find_the_weights(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    plain = save(with_weight(mlp), tmp_path / "plain.onnx")
    path = save(with_weight(mlp), tmp_path / "m.onnx", weights="safetensors")
    onnx.checker.check_model(str(path))
    for a, b in zip(outputs(plain), outputs(path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_begins_aligned_and_leaves_no_gap(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    save(mixed(mlp), tmp_path / "m.onnx", weights="safetensors")
    [file] = tmp_path.glob("*.safetensors")
    entries = read_header(memoryview(file.read_bytes()))
    assert entries[0].start % (1 << 16) == 0
    assert all(a.end == b.start for a, b in itertools.pairwise(entries))
    assert all(e.start % np.dtype(NUMPY[e.dtype]).itemsize == 0 for e in entries)


def test_the_reference_implementation_reads_it(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    model = with_weight(mlp)
    save(model, tmp_path / "m.onnx", weights="safetensors")
    [file] = tmp_path.glob("*.safetensors")
    large = model.graph.initializers["large"].const_value
    assert large is not None
    np.testing.assert_array_equal(numpy.load_file(file)["large"], large.numpy())


def test_shards_are_files_of_their_own_and_no_larger_than_asked(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    model = with_weight(mlp)
    for i in range(5):
        values = np.full((100, 100), i, np.float32)
        model.graph.register_initializer(ir.Value(name=f"part{i}", const_value=ir.tensor(values)))
    path = save(model, tmp_path / "m.onnx", max_shard_size=160_000, weights="safetensors")
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    assert all(p.stat().st_size <= 160_000 for p in files[:-1])
    assert len(files) == 4
    assert set().union(*(arrays(p) for p in files)) == {"large", *(f"part{i}" for i in range(5))}
    assert model_digest(load(path)) == model_digest(model)
    save(model, path, overwrite=True, external_data=False)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"], "files of replaced models go"


def test_what_was_read_can_be_copied_and_shared(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(mixed(mlp), tmp_path / "a.onnx", weights="safetensors")
    for weights in ("raw", "safetensors"):
        copy = save(load(path).model, tmp_path / f"{weights}.onnx", weights=weights, external_data=True)
        assert model_digest(load(copy)) == model_digest(load(path))


@pytest.mark.parametrize(("weights", "external"), [("safetensors", False), ("pickle", None)])
def test_forms_that_cannot_be_are_refused(
    tmp_path: Path, mlp: onnx.ModelProto, weights: Any, external: bool | None
) -> None:
    with pytest.raises(UsageError, match="of the form"):
        stage(load(mlp).model, tmp_path / "m.onnx", weights=weights, external_data=external)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("threshold", "inside"), [(0, False), (1_000_000, False), (2_000_000, True)])
def test_models_above_the_threshold_have_their_weights_beside_them(
    tmp_path: Path, mlp: onnx.ModelProto, threshold: int, inside: bool
) -> None:
    save(with_weight(mlp), tmp_path / "m.onnx", external_threshold=threshold)
    assert len(list(tmp_path.iterdir())) == (1 if inside else 2)


@pytest.mark.parametrize("threshold", [-1, 2**31])
def test_thresholds_that_cannot_be_are_refused(tmp_path: Path, mlp: onnx.ModelProto, threshold: int) -> None:
    with pytest.raises(UsageError, match="threshold"):
        save(load(mlp).model, tmp_path / "m.onnx", external_threshold=threshold)


Header = dict[str, Any]


def _put(**fields: object) -> Callable[[Header], object]:
    return lambda header: header["large"].update(fields)


DAMAGE: dict[str, tuple[Callable[[Header], object], str]] = {
    "gap": (_put(shape=[599, 500], data_offsets=[2000, 1200000]), "gap or overlaps"),
    "overlap": (lambda h: h.update(twin=dict(h["large"])), "gap or overlaps"),
    "too short": (_put(shape=[599, 500], data_offsets=[0, 1198000]), "ends at byte"),
    "other size": (_put(shape=[600, 499]), "1200000 bytes for F32"),
    "unknown type": (_put(dtype="F31"), "unknown type"),
    "type of that size": (_put(dtype="I32"), "no tensor of type FLOAT"),
    "negative": (_put(data_offsets=[-4, 1199996]), "less than 0"),
    "no integer": (_put(data_offsets=[0.0, 1200000]), "not an integer"),
    "unknown key": (_put(more=1), "unknown"),
    "missing key": (lambda h: h["large"].pop("dtype"), "without"),
    "metadata": (lambda h: h.update(__metadata__={"a": 1}), "not a string"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_headers_that_break_the_format_are_refused(tmp_path: Path, mlp: onnx.ModelProto, name: str) -> None:
    damage, reason = DAMAGE[name]
    path = save(with_weight(mlp), tmp_path / "m.onnx", weights="safetensors")
    [file] = tmp_path.glob("*.safetensors")
    header, data = parsed(file)
    damage(header)
    start = len(file.read_bytes()) - len(data)
    text = json.dumps(header).encode().ljust(start - 8)
    file.write_bytes((start - 8).to_bytes(8, "little") + text + data)
    with pytest.raises(BadInputError, match=reason):
        load(path)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ((2**40).to_bytes(8, "little"), "longer than the file"),
        ((0).to_bytes(8, "little"), "does not begin"),
        ((50).to_bytes(8, "little"), "Expecting|Unterminated|delimiter|double quotes|property name"),
        (b"", "longer than the file|is no valid"),
    ],
)
def test_lengths_of_headers_that_lie_are_refused(
    tmp_path: Path, mlp: onnx.ModelProto, head: bytes, reason: str
) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", weights="safetensors")
    [file] = tmp_path.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(head + content[8:] if head else content[:4] + bytes(len(content)))
    with pytest.raises(BadInputError, match=reason):
        load(path)


def test_a_key_given_twice_is_refused() -> None:
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(ValueError, match="twice"):
        read_header(memoryview(len(text).to_bytes(8, "little") + text + b"x"))


def test_references_into_the_header_are_refused(tmp_path: Path, mlp: onnx.ModelProto) -> None:
    path = save(with_weight(mlp), tmp_path / "m.onnx", weights="safetensors")
    proto = onnx.load(path, load_external_data=False)
    tensor = next(t for t in proto.graph.initializer if t.name == "large")
    next(e for e in tensor.external_data if e.key == "offset").value = "64"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(BadInputError, match="are no tensor of type FLOAT"):
        load(path)
