"""Large constants are read in pieces: the same results, and never a whole tensor in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from by_hand import grown_mlp, mlp, text_model

from onnxgrow.axis_map import AxisMap
from onnxgrow.io import load
from onnxgrow.verify.float64 import prepare, run_tier
from onnxgrow.verify.float64.kernels import pieces
from onnxgrow.verify.float64.kernels.pieces import Derived, is_large, whole
from onnxgrow.verify.float64.marks import draws, free_marks, new_marks
from onnxgrow.verify.report import TierStatus

W = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(8, 6, 1)).astype(np.float32)

READERS = {
    "MatMul": ("MatMul (x, w)", (2, 8), W),
    "MatMul, weight first": ("MatMul (w, x)", (6, 2), W),
    "Gemm": ("Gemm (x, w)", (2, 8), W),
    "Gemm, transposed": ("Gemm <transB = 1> (x, w)", (2, 6), W),
    "Gemm, weight first and transposed": ("Gemm <transA = 1> (w, x)", (8, 2), W),
    "Conv": ("Conv (x, w)", (2, 6, 5), KERNEL),
    "Gather": ("Gather (w, i)", (1,), W),
    "Gather of columns": ("Gather <axis = 1> (w, i)", (1,), W),
    "behind an Identity": ("Identity (w)", (1,), W),
    "an operator that needs all of it": ("Softmax (w)", (1,), W),
}


def evaluate(name: str, derived: bool) -> np.ndarray:
    body, shape, w = READERS[name]
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{",".join(map(str, shape))}] x) => (float[] y)'
        f"<int64[2] i = {{3, -1}}> {{ y = {body} }}"
    )
    model = text_model(
        text.replace("<int64[2]", f"<float[{','.join(map(str, w.shape))}] w = {{0}}, int64[2]"), {"w": w}
    )
    doubled = Derived(w, lambda values, rows: values * (2.0 + rows.reshape(-1, *[1] * (w.ndim - 1))))
    prepared = prepare(model, {"w": doubled} if derived else None)
    x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    run = prepared.interpreter(prepared.inputs({"x": x}), prepared.graph.outputs)
    for _ in run.steps():
        pass
    found: np.ndarray = run.read(prepared.graph.outputs[0])
    return found


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_pieces_give_what_the_whole_gives(name: str, derived: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(name, derived)
    monkeypatch.setattr(pieces, "PIECE", 100)  # two rows
    found = evaluate(name, derived)
    assert found.dtype == expected.dtype == np.float64
    assert np.allclose(found, expected, rtol=1e-14, atol=0)


def test_derived_tensors_depend_on_rows_only() -> None:
    base = np.arange(12.0).reshape(4, 3)
    x = Derived(base, lambda values, rows: values + 100 * rows[:, None])
    assert np.array_equal(x[np.array([2, 0])], whole(x)[[2, 0]])
    assert np.array_equal(x[1:3], whole(x)[1:3])
    bits = draws((4, 3), np.arange(4), 5)
    assert np.array_equal(draws((4, 3), np.array([3, 1]), 5), bits[[3, 1]])
    assert len(np.unique(bits)) == 12


def test_free_entries_are_new_and_without_a_claim() -> None:
    axis = AxisMap.from_source([0, -1, 1])
    assert free_marks((3, 2), {0: axis}).at(np.arange(3)).tolist() == [[False, False], [True, True], [False, False]]
    assert new_marks((3, 2), {0: axis}).any_in(np.array([[1, 1], [0, 0], [1, 1]], np.float32)) is False


def test_a_fault_in_a_large_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 64)
    old, grown, growth = grown_mlp(mlp())
    feeds = [{"x": np.random.default_rng(5).normal(size=(5, 6)).astype(np.float32)}]
    assert run_tier(old, grown, growth, feeds).status is TierStatus.PASSED
    wrong = grown.graph.initializers["w1"].const_value.numpy().copy()
    wrong[0, 0] *= np.float32(1 + 1e-6)
    grown.graph.initializers["w1"].const_value = ir.tensor(wrong, name="w1")
    assert run_tier(old, grown, growth, feeds).status is TierStatus.FAILED


def test_no_whole_tensor_is_made_of_a_large_file(tmp_path: Path) -> None:
    rows, width = 1 << 15, 512  # 64 MB
    tensors = []
    for name, offset, shape in (("table", 0, (rows, width)), ("w", 0, (width, rows))):
        tensor = onnx.TensorProto(name=name, data_type=1, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", "data"), ("offset", str(offset)), ("length", str(4 * rows * width))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    with open(tmp_path / "data", "wb") as file:
        file.truncate(4 * rows * width)
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[3] x) => (float[3] y)'
        "{ e = Gather (table, x) h = MatMul (e, w) y = ReduceMean <axes = [1], keepdims = 0> (h) }"
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(tensors)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    prepared = prepare(load(tmp_path / "m.onnx").model)
    tracemalloc.start()
    try:
        run = prepared.interpreter(prepared.inputs({"x": np.array([0, 5, rows - 1])}), prepared.graph.outputs)
        for _ in run.steps():
            pass
        assert tracemalloc.get_traced_memory()[1] < 3 * pieces.PIECE
        tracemalloc.reset_peak()
        assert is_large(prepared.constants.get(prepared.graph.initializers["table"]))
        whole(prepared.constants.get(prepared.graph.initializers["table"]))
        assert tracemalloc.get_traced_memory()[1] > 100e6  # the measure sees what it is to see
    finally:
        tracemalloc.stop()
