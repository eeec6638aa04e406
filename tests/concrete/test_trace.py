from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxgrow.concrete import complete, concretize, trace
from onnxgrow.concrete.session import one_line, open_session
from onnxgrow.errors import UnsupportedError

HOLES = """g (float[B, 3] x, bool c) => (float[n, m] z) <int64[1] zero = {0}> {
    y = If (c) <then_branch = t () => (float[p, q] a) { a = Concat <axis = 0> (x, x) },
                else_branch = e () => (float[p, q] b) { b = Identity (x) }>
    r = Relu (y)
    s = Shape (r)
    z = Reshape (r, s)
}"""
FEEDS = {"x": np.ones((5, 3), np.float32), "c": np.array(True)}


def test_a_run_fills_the_holes_and_what_follows(parse):
    model = parse(HOLES)
    open_ended = concretize(model, {"x": (5, 3), "c": ()})
    assert set(open_ended.missing) == {"y", "r", "s", "z"}
    found = complete(model, open_ended, FEEDS)
    assert found.missing == {}
    assert found.shapes["z"] == (10, 3)
    assert found.values["s"].tolist() == [10, 3]
    assert found.dtypes["z"] == ir.DataType.FLOAT


def test_data_does_not_enter_the_known_values(parse):
    model = parse("g (int64[B] x) => (int64[1, n] z) { z = NonZero (x) }")
    feeds = {"x": np.array([0, 4, 5])}
    found = complete(model, concretize(model, {"x": (3,)}), feeds)
    assert found.shapes["z"] == (1, 2)
    assert "z" not in found.values
    assert trace(model, feeds, want=["z"])["z"].value.tolist() == [[1, 2]]


def test_nothing_missing_means_no_run(parse):
    model = parse("g (float[B] x) => (float[B] y) { y = Relu (x) }")
    concrete = concretize(model, {"x": (5,)})
    assert complete(model, concrete, {}) is concrete


def test_values_that_are_no_tensors_stay_missing(parse):
    model = parse("g (float[B] x) => (float[B] y) { q = SequenceConstruct (x, x)  y = Relu (x) }")
    concrete = concretize(model, {"x": (5,)})
    assert set(concrete.missing) == {"q"}
    assert set(complete(model, concrete, {"x": np.ones(5, np.float32)}).missing) == {"q"}


def test_the_model_is_not_changed_by_a_trace(parse):
    model = parse(HOLES)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    trace(model, FEEDS, want=["r"])
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_failing_run_names_the_node_and_the_way_out(parse):
    model = parse("g (float[A] x, float[B] y) => (float[C] z) { [sum_here] z = Add (x, y) }")
    with pytest.raises(UnsupportedError) as caught:
        trace(model, {"x": np.ones(5, np.float32), "y": np.ones(7, np.float32)}, want=["z"])
    assert "sum_here" in caught.value.reason
    assert "/onnxruntime" not in caught.value.reason
    assert "--input-shape" in caught.value.hint


def test_a_model_that_cannot_be_loaded_is_refused(parse):
    model = parse("g (float[A] x) => (float[A] y) { y = made.up.Op (x) }", others=', "made.up": 1')
    with pytest.raises(UnsupportedError, match="cannot load"):
        trace(model, {"x": np.ones(5, np.float32)}, want=["y"])


LINEAR = """g (float[B, 64] x) => (float[B, 64] y) <float[1] w = {0}, float[1] v = {0}, float[1] unused = {0}> {
    h = MatMul (x, w)  y = MatMul (h, v) }"""
W, V = (np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32) for seed in (0, 1))


def in_file(folder, weight):
    """The weight in ``w.bin`` of a new folder, at an offset."""
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 4096 + weight.tobytes())
    return ir.ExternalTensor(
        "w.bin", 4096, weight.nbytes, ir.DataType.FLOAT, shape=ir.Shape([64, 64]), name="w", base_dir=folder
    )


def lazy(_folder, weight):
    return ir.LazyTensor(lambda: ir.tensor(weight), dtype=ir.DataType.FLOAT, shape=ir.Shape([64, 64]), name="w")


def in_memory(_folder, weight):
    return ir.tensor(weight)


@pytest.mark.parametrize(
    ("first", "second"),
    [(in_memory, in_memory), (in_file, in_memory), (in_file, in_file), (lazy, in_file)],
    ids=["memory", "file and memory", "two folders", "lazy and file"],
)
def test_weights_arrive_from_wherever_they_are(parse, tmp_path, first, second):
    model = parse(LINEAR)
    initializers = model.graph.initializers
    initializers["w"].const_value = first(tmp_path / "a", W)
    initializers["v"].const_value = second(tmp_path / "b", V)
    initializers["unused"].const_value = ir.tensor(W)
    output = open_session(model).run({"x": np.eye(64, dtype=np.float32)})["y"]
    np.testing.assert_allclose(output.numpy(), W @ V, rtol=1e-4, atol=1e-4)


def test_weights_in_a_lost_file_are_an_error_and_no_crash(parse, tmp_path):
    model = parse(LINEAR)
    model.graph.initializers["w"].const_value = ir.ExternalTensor(
        "gone.bin", 0, 64 * 64 * 4, ir.DataType.FLOAT, shape=ir.Shape([64, 64]), name="w", base_dir=tmp_path
    )
    with pytest.raises(UnsupportedError):
        open_session(model)


def test_large_constants_in_nodes_are_handed_over_too(parse):
    model = parse(
        "g (float[B, 64] x) => (float[B, 64] y) { w = Constant <value = float[1] {0}> ()  y = MatMul (x, w) }"
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    constant = next(iter(model.graph))
    constant.attributes["value"] = ir.AttrTensor("value", ir.tensor(weight))
    output = open_session(model).run({"x": np.eye(64, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(output.numpy(), weight)


def test_unused_initializers_that_are_inputs_need_no_feed(parse):
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 3, opset_import: ["": 8]>
        g (float[B] x, float[400] unused) => (float[B] y) <float[400] other = {0}> { y = Relu (x) }""")
    )
    spare = model.graph.inputs[1]
    spare.const_value = ir.tensor(np.zeros(400, np.float32), name="unused")
    model.graph.register_initializer(spare)
    assert open_session(model).run({"x": -np.ones(2, np.float32)})["y"].numpy().tolist() == [0, 0]


def test_bfloat16_goes_in_and_out(parse):
    model = parse("g (bfloat16[B] x) => (float[B] y) { z = Identity (x)  y = Cast <to = 1> (z) }")
    x = np.array([1.5, -2.0]).astype(ir.DataType.BFLOAT16.numpy())
    seen = trace(model, {"x": x}, want=["z", "y"])
    assert seen["z"].dtype == ir.DataType.BFLOAT16
    assert seen["z"].shape == (2,)
    assert seen["y"].value.tolist() == [1.5, -2.0]


def test_strings_go_in(parse):
    model = parse(
        """g (string[N] s) => (int64[N] y) {
        y = ai.onnx.ml.LabelEncoder <keys_strings = ["red", "green"], values_int64s = [0, 1]> (s) }""",
        others=', "ai.onnx.ml": 2',
    )
    seen = trace(model, {"s": np.array(["green", "red"], dtype=object)}, want=["y"])
    assert seen["y"].value.tolist() == [1, 0]


def test_nested_errors_are_boiled_down_to_the_innermost_node():
    text = (
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running If node. "
        "Name:'outer' Status Message: Non-zero status code returned while running Pad node. "
        "Name:'inner' Status Message: /src/onnxruntime/core/pad.cc:12 too small"
    )
    assert one_line(RuntimeError(text)) == "Pad 'inner': too small"
