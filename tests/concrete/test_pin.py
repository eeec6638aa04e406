from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxgrow.concrete import pin_inputs
from onnxgrow.errors import UnsupportedError, UsageError


def model_with(*inputs, initializers=()):
    """A model with inputs i0, i1 … of the given (elem_type, dims), each copied to an output."""
    types = [item if isinstance(item, tuple) else (TensorProto.FLOAT, item) for item in inputs]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"i{k}"], [f"o{k}"]) for k in range(len(types))],
        "g",
        [helper.make_tensor_value_info(f"i{k}", t, dims) for k, (t, dims) in enumerate(types)],
        [helper.make_tensor_value_info(f"o{k}", t, None) for k, (t, _) in enumerate(types)],
        list(initializers),
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_static_dimensions_stay():
    assert pin_inputs(model_with([2, 3, 224])) == {"i0": (2, 3, 224)}


def test_same_symbol_same_size_and_different_symbols_different_primes():
    shapes = pin_inputs(model_with(["N", "T"], ["T", "N", "M"]))
    (n, t), (t2, n2, m) = shapes["i0"], shapes["i1"]
    assert (n, t) == (n2, t2)
    assert len({n, t, m}) == 3
    for size in (n, t, m):
        assert size >= 5
        assert all(size % d for d in range(2, size))


@pytest.mark.parametrize("dim", [None, "?", 0, -1, "-1", ""])
def test_a_dimension_without_a_name_is_dynamic_and_its_own(dim):
    shape = pin_inputs(model_with((TensorProto.INT64, [dim, dim, 3])))["i0"]
    assert shape[2] == 3
    assert shape[0] != shape[1]
    assert min(shape[:2]) >= 5


def test_a_dimension_named_by_a_number_is_that_number():
    assert pin_inputs(model_with(["7", 3])) == {"i0": (7, 3)}


def test_sizes_of_weights_are_avoided():
    free = pin_inputs(model_with((TensorProto.INT64, ["N", "M"])))["i0"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5, 7], [0.0] * 35)
    avoiding = pin_inputs(model_with((TensorProto.INT64, ["N", "M"]), initializers=[weight]))["i0"]
    assert set(free) == {5, 7}
    assert not set(avoiding) & {5, 7}


def test_the_second_variant_shares_no_dynamic_size_with_the_first():
    model = model_with(["N", 3, "H", "W"])
    first, second = pin_inputs(model)["i0"], pin_inputs(model, variant=1)["i0"]
    assert first[1] == second[1] == 3
    assert not (set(first) & set(second)) - {3}


def test_expressions_follow_the_symbols_in_them():
    shapes = pin_inputs(model_with(["past + new", "2*past"], ["past", "new"], ["past // 2"]))
    past, new = shapes["i1"]
    assert shapes["i0"] == (past + new, 2 * past)
    assert shapes["i2"] == (past // 2,)


def test_a_dotted_name_is_a_name_and_no_expression():
    shapes = pin_inputs(model_with(["p2o.Dim.0", 4], ["p2o.Dim.0"]))
    assert shapes["i0"][0] == shapes["i1"][0]


def test_user_shapes_win_and_bind_their_symbols_elsewhere():
    shapes = pin_inputs(model_with(["N", "T"], ["N", "T + 1"]), {"i0": (2, 9)})
    assert shapes == {"i0": (2, 9), "i1": (2, 10)}


def test_user_shapes_stay_in_the_second_variant():
    model = model_with(["N", 3], ["M"])
    assert pin_inputs(model, {"i0": [2, 3]}, variant=1)["i0"] == (2, 3)
    assert pin_inputs(model, {"i0": [2, 3]}, variant=1)["i1"] != pin_inputs(model, {"i0": [2, 3]})["i1"]


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"nope": (1, 3)}, "no such input"),
        ({"i0": (1, 3, 4)}, "3 dimensions"),
        ({"i0": (1, 4)}, "fixes it at 3"),
        ({"i0": (0, 3)}, "not positive"),
        ({"i0": (-1, 3)}, "not positive"),
    ],
)
def test_a_user_shape_that_does_not_fit_is_refused(shapes, reason):
    with pytest.raises(UsageError, match=reason):
        pin_inputs(model_with(["N", 3]), shapes)


def test_unknown_rank_is_refused_with_the_way_out():
    model = model_with((TensorProto.FLOAT, None))
    with pytest.raises(UnsupportedError) as caught:
        pin_inputs(model)
    assert "--input-shape" in caught.value.hint
    assert pin_inputs(model, {"i0": (2, 3)}) == {"i0": (2, 3)}


def test_a_sequence_input_is_refused():
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceLength", ["s"], ["n"])], "g", [sequence], [])
    graph.output.add().CopyFrom(helper.make_tensor_value_info("n", TensorProto.INT64, []))
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    with pytest.raises(UnsupportedError, match="not a tensor"):
        pin_inputs(model)


def test_an_input_that_is_an_initializer_is_not_fed():
    weight = onnx.numpy_helper.from_array(onnx.numpy_helper.np.zeros((4, 4), "float32"), "i1")
    model = model_with(["N", 4], [4, 4], initializers=[weight])
    assert list(pin_inputs(model)) == ["i0"]
