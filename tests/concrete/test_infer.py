from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxgrow.concrete import concretize, evaluate_known, pin_inputs

FLATTEN = """g (float[B, 6, H] x) => (float[B, n] y)
    <int64[1] zero = {0}, int64[1] minus = {-1}> {
        s = Shape (x)
        b = Gather <axis = 0> (s, zero)
        target = Concat <axis = 0> (b, minus)
        y = Reshape (x, target)
    }"""


def test_shapes_follow_known_shape_arithmetic(parse):
    found = concretize(parse(FLATTEN), {"x": (5, 6, 11)})
    assert found.missing == {}
    assert found.shapes["y"] == (5, 66)
    assert found.values["target"].tolist() == [5, -1]
    assert found.dtypes["y"] == ir.DataType.FLOAT
    assert found.input_shapes == {"x": (5, 6, 11)}


def test_the_model_is_not_changed(parse):
    model = parse(FLATTEN)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    concretize(model, pin_inputs(model))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_unsorted_nodes_are_taken_in_order(parse):
    model = parse(FLATTEN)
    nodes = list(model.graph)
    model.graph.remove(nodes[0])
    model.graph.append(nodes[0])
    assert [node.op_type for node in model.graph][-1] == "Shape"
    assert concretize(model, {"x": (5, 6, 11)}).shapes["y"] == (5, 66)


def test_float_scales_derived_from_shapes_are_known_in_float32(parse):
    model = parse("""g (float[B, 48] x) => (float[B, 48] y) <int64[1] last = {1}> {
        s = Shape (x)
        d = Gather (s, last)
        f = Cast <to = 1> (d)
        r = Sqrt (f)
        y = Div (x, r)
    }""")
    scale = concretize(model, {"x": (5, 48)}).values["r"]
    assert scale.dtype == np.float32
    assert scale == np.sqrt(np.float32(48))


def test_values_that_depend_on_data_are_not_known(parse):
    model = parse("g (float[B] x) => (float[B] y) { y = Add (x, x) }")
    found = concretize(model, {"x": (5,)})
    assert "y" not in found.values
    assert "x" not in found.values


@pytest.mark.parametrize(
    ("attributes", "expected"), [("", [5, 6, 11]), ("<start = 1>", [6, 11]), ("<start = -3, end = -1>", [5, 6])]
)
def test_shape_takes_start_and_end(parse, attributes, expected):
    model = parse(f"g (float[A, B, C] x) => (int64[k] y) {{ y = Shape {attributes} (x) }}")
    assert concretize(model, {"x": (5, 6, 11)}).values["y"].tolist() == expected


def test_size_is_known(parse):
    model = parse("g (float[A, B] x) => (int64 y) { y = Size (x) }")
    assert concretize(model, {"x": (5, 6)}).values["y"] == 30


def test_nonzero_of_a_known_value_has_a_known_shape(parse):
    model = parse("""g (float[B] x) => (int64[1, n] y) {
        s = Shape (x)
        ones = ConstantOfShape <value = float[1] {1.0}> (s)
        y = NonZero (ones)
    }""")
    found = concretize(model, {"x": (5,)})
    assert found.shapes["y"] == (1, 5)
    assert found.missing == {}


def test_nonzero_of_data_is_missing_with_its_reason_and_so_is_what_follows(parse):
    model = parse("g (float[B] x) => (float[1, n] z) { y = NonZero (x)  z = Cast <to = 1> (y) }")
    found = concretize(model, {"x": (5,)})
    assert "depends on data" in found.missing["y"]
    assert "'y'" in found.missing["z"]
    assert found.dtypes["z"] == ir.DataType.FLOAT
    assert "z" not in found.shapes


def test_given_types_fill_holes(parse):
    model = parse("g (float[B] x) => (float[1, n] z) { y = NonZero (x)  z = Cast <to = 1> (y) }")
    found = concretize(model, {"x": (5,)}, given={"y": (ir.DataType.INT64, (1, 3))})
    assert found.missing == {}
    assert found.shapes["z"] == (1, 3)


def test_an_op_without_schema_is_a_hole(parse):
    model = parse("g (float[B] x) => (float[B] y) { y = made.up.Op (x) }", others=', "made.up": 1')
    assert "made.up::Op" in concretize(model, {"x": (5,)}).missing["y"]


def test_control_flow_is_a_hole(parse):
    model = parse("""g (bool c, float[B] x) => (float[B] y) {
        y = If (c) <then_branch = t () => (float[B] a) { a = Neg (x) },
                    else_branch = e () => (float[B] b) { b = Abs (x) }>
    }""")
    assert "control flow" in concretize(model, {"c": (), "x": (5,)}).missing["y"]


def test_sizes_that_contradict_each_other_are_a_hole_with_onnx_reason(parse):
    model = parse("g (float[A] x, float[B] y) => (float[n] z) { z = Add (x, y) }")
    assert "Add" in concretize(model, {"x": (5,), "y": (7,)}).missing["z"]


def test_too_small_an_input_is_said_so(parse):
    model = parse("g (float[1, 1, H] x, float[1, 1, 9] w) => (float[a, b, c] y) { y = Conv (x, w) }")
    assert "y" in concretize(model, {"x": (1, 1, 5), "w": (1, 1, 9)}).missing
    assert concretize(model, {"x": (1, 1, 10), "w": (1, 1, 9)}).shapes["y"] == (1, 1, 2)


def test_an_input_without_a_given_shape_is_missing(parse):
    model = parse("g (float[A] x, float[A] y) => (float[A] z) { z = Add (x, y) }")
    assert set(concretize(model, {"x": (5,)}).missing) == {"y", "z"}


def test_dropout_mask_has_the_shape_of_the_data(parse):
    model = parse("g (float[B] x) => (float[B] y) { y, mask = Dropout (x) }", opset=9)
    assert concretize(model, {"x": (5,)}).shapes["mask"] == (5,)


class Untouchable(ir.LazyTensor):
    """A weight whose data must not be asked for."""

    def __init__(self, shape):
        super().__init__(self._fail, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name="w")

    @staticmethod
    def _fail():
        raise AssertionError("a large weight was read")


def test_large_weights_are_never_read(parse):
    model = parse("""g (float[B, 512] x) => (float[B, 512] y) <float[1] w = {0.0}> {
        wt = Transpose (w)
        y = MatMul (x, wt)
    }""")
    model.graph.initializers["w"].const_value = Untouchable([512, 512])
    found = concretize(model, {"x": (5, 512)})
    assert found.shapes["y"] == (5, 512)
    assert "w" not in found.values
    assert "wt" not in found.values
    with pytest.raises(AssertionError):
        model.graph.initializers["w"].const_value.numpy()


def test_constants_of_every_form_are_known(parse):
    model = parse("""g (float[1] x) => (float[1] x2) {
        a = Constant <value = int64[2] {1, 2}> ()
        b = Constant <value_int = 3> ()
        c = Constant <value_floats = [1.5, 2.5]> ()
        x2 = Identity (x)
    }""")
    found = concretize(model, {"x": (1,)})
    assert found.values["a"].tolist() == [1, 2]
    assert found.values["b"] == 3
    assert found.values["c"].dtype == np.float32
    assert {found.shapes[k] for k in "abc"} == {(2,), ()}


def test_expanding_beyond_the_limit_is_inferred_but_not_evaluated(parse):
    model = parse("g (float[B] x) => (float[n] y) { s = Shape (x)  y = ConstantOfShape (s) }")
    found = concretize(model, {"x": (2_000_000_000,)})
    assert found.shapes["y"] == (2_000_000_000,)
    assert "y" not in found.values


def test_evaluate_known_recomputes_for_predicted_shapes(parse):
    model = parse(FLATTEN)
    shapes = dict(concretize(model, {"x": (5, 6, 11)}).shapes)
    known = evaluate_known(model, shapes | {"x": (9, 6, 11), "y": (9, 66)})
    assert known["target"].tolist() == [9, -1]
    assert known["minus"].tolist() == [-1]
    assert set(known.computed) == {"s", "b", "target"}


def test_evaluate_known_shows_where_a_prediction_was_wrong(parse):
    model = parse("g (float[A, B] x) => (int64[n] s) { s = Shape (x) }")
    assert evaluate_known(model, {"x": (5, 7), "s": (3,)})["s"].tolist() == [5, 7]


def test_model_functions_are_holes(parse):
    import onnx.parser

    model = ir.from_proto(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[B] x) => (float[B] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["": 17]> twice (a) => (b) { b = Add (a, a) }
        """)
    )
    assert "function" in concretize(model, {"x": (5,)}).missing["y"]


def test_time_is_linear_in_nodes():
    def seconds(count):
        nodes = [helper.make_node("Relu", [f"v{k}"], [f"v{k + 1}"]) for k in range(count)]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info(f"v{count}", TensorProto.FLOAT, None)],
        )
        model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
        start = time.process_time()
        assert concretize(model, {"v0": (5, 4)}).missing == {}
        return time.process_time() - start

    seconds(100)
    assert seconds(4000) < 40 * max(seconds(400), 0.01)


# A run is the referee: every inferred shape and every known value must be what ONNX Runtime computes.
REFEREED = [
    (7, "Squeeze <axes = [0]> (a)"),
    (11, "Unsqueeze <axes = [0]> (s)"),
    (13, "Slice (s, zero, two)"),
    (9, "Slice <starts = [-2], ends = [9]> (s)"),
    (17, "Gather (p, split)"),
    (17, "Div (m, three)"),
    (17, "Mod (m, three)"),
    (17, "ReduceProd <keepdims = 0> (s)"),
    (17, "Range (one, seven, two_)"),
    (17, "CumSum (s, one)"),
    (17, "Where (t, s, s)"),
    (17, "Expand (s, e)"),
    (17, "Tile (s, two)"),
    (17, "Pad (s, e)"),
    (17, "OneHot (s, eight, onoff)"),
    (17, "Softmax (f)"),
]


@pytest.mark.parametrize(("opset", "call"), REFEREED, ids=[call for _, call in REFEREED])
def test_known_values_are_what_onnx_runtime_computes(parse, opset, call):
    constants = """int64[1, 3] a = {1, 2, 3}, int64[1] zero = {0}, int64[1] two = {2}, int64[3] p = {1, 2, 3},
        int64[2] split = {1, 2}, int64[4] m = {-7, 7, -6, 6}, int64 three = {3}, int64 one = {0}, int64 seven = {7},
        int64 two_ = {2}, bool[3] t = {1, 0, 1}, int64[2] e = {2, 1}, int64 eight = {8}, int64[2] onoff = {0, 1},
        float[3] f = {-1.0, 0.0, 2.5}"""
    model = parse(
        f"g (float[4, 5, 6] x) => (int64[k] s) <{constants}> {{ s = Shape (x)  y = {call} }}",
        opset=opset,
    )
    proto = ir.to_proto(model)
    proto.graph.output.add().name = "y"
    expected = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        ["y"], {"x": np.zeros((4, 5, 6), np.float32)}
    )[0]
    found = concretize(model, {"x": (4, 5, 6)})
    assert found.shapes["y"] == expected.shape
    assert found.values["y"].dtype == expected.dtype
    np.testing.assert_allclose(found.values["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("opset", "call"),
    [(11, "Softmax (c)"), (6, "Add <broadcast = 1, axis = 0> (c, v)"), (17, "RandomNormalLike (c)")],
)
def test_what_the_reference_would_get_wrong_is_not_known(parse, opset, call):
    model = parse(f"""g (float[B] x) => (float[B] x2) <float[2, 2] c = {{1, 2, 3, 4}}, float[2] v = {{1, 2}}> {{
        x2 = Identity (x)
        y = {call}
    }}""", opset=opset)  # fmt: skip
    found = concretize(model, {"x": (5,)})
    assert found.shapes["y"] == (2, 2)
    assert "y" not in found.values


def test_a_size_that_onnx_infers_wrongly_is_a_hole(parse):
    model = parse("""g (float[1, T, 1] x) => (float[n, f, b, c] y) <int64 step = {8}, int64 frame = {16}> {
        y = STFT (x, step, , frame) }""")
    assert "y" in concretize(model, {"x": (1, 128, 1)}).missing
