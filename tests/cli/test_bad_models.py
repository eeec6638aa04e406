"""Files that are no good model: the right exit code, one line on stderr, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import listing, parsed

Put = Callable[[Path], None]


def data(content: bytes) -> Put:
    return lambda path: path.write_bytes(content) and None


def model(**weights: np.ndarray) -> Put:
    return lambda path: onnx.save(parsed(**weights), path)


def truncated(path: Path) -> None:
    content = parsed().SerializeToString()
    path.write_bytes(content[: len(content) * 2 // 3])


def cyclic(path: Path) -> None:
    proto = parsed()
    proto.graph.node[0].input[0] = "a"
    onnx.save(proto, path)


def external(location: str) -> Put:
    def put(path: Path) -> None:
        proto = parsed()
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(proto.SerializeToString())

    return put


def unknown_ops(path: Path) -> None:
    proto = parsed()
    for node in proto.graph.node:
        node.domain, node.op_type = "nobody.knows", f"Mystery{node.op_type}"
    proto.opset_import.add(domain="nobody.knows", version=1)
    path.write_bytes(proto.SerializeToString())


def nothing_to_grow(path: Path) -> None:
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Relu(x) }'
        ),
        path,
    )


def with_growth_map(text: str) -> Put:
    def put(path: Path) -> None:
        proto = parsed()
        proto.metadata_props.add(key="onnxgrow.growth_map", value=text)
        onnx.save(proto, path)

    return put


BAD = {
    "truncated": (truncated, 3, "BAD-INPUT: m.onnx: "),
    "empty": (lambda path: path.touch(), 3, "BAD-INPUT: m.onnx: the file is empty"),
    "html": (data(b"<!DOCTYPE html><html><body>404</body></html>"), 3, "HTML"),
    "zip": (data(b"PK\x03\x04" + bytes(60)), 3, "zip archive"),
    "git-lfs pointer": (data(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), 3, "Git LFS"),
    "random bytes": (data(bytes(range(256)) * 4), 3, "BAD-INPUT: m.onnx: "),
    "folder": (lambda path: path.mkdir(), 3, "this is a folder"),
    "missing": (lambda path: None, 3, "does not exist"),
    "link to nowhere": (lambda path: path.symlink_to("gone.onnx"), 3, "leads nowhere"),
    "pipe": (lambda path: os.mkfifo(path), 3, "named pipe"),
    "missing external data": (external("weights.bin"), 3, "'weights.bin' does not exist"),
    "escaping external data": (external("../secret.bin"), 3, "leaves the model's folder"),
    "absolute external data": (external("/etc/hostname"), 3, "absolute path"),
    "cycle": (cyclic, 3, "BAD-INPUT: "),
    "NaN weight": (model(w1=np.full((8, 4), np.nan)), 3, "NaN or infinite"),
    "infinite weight": (model(w2=np.full((3, 8), np.inf)), 3, "NaN or infinite"),
    "empty growth map": (with_growth_map("{}"), 3, "malformed growth map"),
    "growth map cut off": (with_growth_map('{"format":'), 3, "malformed growth map"),
    "growth map nested without end": (with_growth_map("[" * 100_000), 3, "malformed growth map"),
    "operators nobody knows": (unknown_ops, 4, "UNSUPPORTED: "),
    "nothing to grow": (nothing_to_grow, 4, "UNSUPPORTED: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_model_is_one_line_and_writes_nothing(name, folder, onnxgrow):
    put, code, says = BAD[name]
    put(folder / "m.onnx")
    before = listing(folder)
    outcome = onnxgrow("widen", "m.onnx", "--report", "r.json")
    assert outcome.code == code
    assert says in outcome.error
    assert outcome.out == ""
    assert listing(folder) == before


def test_a_good_model_is_none_of_these(mlp, onnxgrow):
    """The control: the same command line with a good model succeeds and writes."""
    outcome = onnxgrow("widen", mlp, "--report", "r.json")
    assert outcome.code == 0
    assert sorted(os.listdir()) == ["mlp.grown.onnx", "mlp.onnx", "r.json"]


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("name", ["truncated", "html", "missing", "cycle"])
def test_other_commands_refuse_bad_models_alike(command, name, folder, onnxgrow):
    put, code, says = BAD[name]
    put(folder / "m.onnx")
    outcome = onnxgrow(command, "m.onnx", *(["m.onnx"] if command == "verify" else []))
    assert outcome.code == code
    assert says in outcome.error


@pytest.mark.parametrize(
    ("arrays", "code", "says"),
    [
        ({"x": np.zeros((2, 5), np.float32)}, 2, "dimension 1 is 5"),
        ({"x": np.zeros((2, 4))}, 2, "float64"),
        ({"z": np.zeros((2, 4), np.float32)}, 2, "no such input"),
        (None, 3, "npz"),
    ],
    ids=["wrong size", "wrong type", "wrong name", "no npz"],
)
def test_inputs_that_do_not_fit_are_named(arrays, code, says, mlp, folder, onnxgrow):
    if arrays is None:
        (folder / "in.npz").write_text("nothing of the kind")
    else:
        np.savez(folder / "in.npz", **arrays)
    before = listing(folder)
    outcome = onnxgrow("widen", mlp, "--inputs", "in.npz")
    assert outcome.code == code
    assert says in outcome.error
    assert listing(folder) == before


def test_names_in_a_file_cannot_steer_the_terminal(folder, onnxgrow):
    proto = parsed(w1=np.full((8, 4), np.nan))
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("w1", "w\x1b[2J")
    proto.graph.node[0].input[1] = "w\x1b[2J"
    onnx.save(proto, folder / "m.onnx")
    outcome = onnxgrow("widen", "m.onnx")
    assert outcome.code == 3
    assert "\x1b" not in outcome.err
    assert "\\x1b[2J" in outcome.error
