"""Which graph a name belongs to, and bodies lifted out of the models around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from body_models import IF, MODELS, SHARED, body_model, text_model_with_bodies

from onnxgrow.concrete.bodies import Scopes, lift
from onnxgrow.concrete.body_runs import BodyRuns, body_runs
from onnxgrow.errors import UnsupportedError
from onnxgrow.io import save_bytes

THEN, ELSE = (("t", "then_branch"),), (("t", "else_branch"),)


def names(values: list[ir.Value]) -> list[str | None]:
    return [v.name for v in values]


@pytest.mark.parametrize("name", MODELS)
def test_every_body_stands_alone(name: str) -> None:
    scopes = Scopes(body_model(name))
    assert scopes.bodies
    for path in scopes.bodies:
        model = lift(scopes, path)
        known = set(names(model.graph.inputs)) | set(model.graph.initializers)
        known |= {o.name for n in model.graph for o in n.outputs}
        assert {v.name for n in model.graph for v in n.inputs if v is not None} <= known


def test_lifting_changes_nothing_of_the_model() -> None:
    model = body_model("If in If")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    scopes = Scopes(model)
    for path in scopes.bodies:
        lift(scopes, path).graph[0].name = "another"
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_captured_values_are_inputs_and_captured_constants_come_along() -> None:
    scopes = Scopes(body_model("branches that capture their weights"))
    model = lift(scopes, ELSE, {"h": (ir.DataType.FLOAT, (None, 6))})
    assert names(model.graph.inputs) == ["h"]
    assert sorted(model.graph.initializers) == ["v1", "v2", "z1"]
    assert [b.label for b in scopes.children(())] == ["t.then_branch", "t.else_branch"]


def test_captured_constant_nodes_stay_constant_nodes() -> None:
    text = IF.replace("h = Relu(x)", "h = Relu(x) w1 = Constant<value_floats = [1.0, 2.0]>()")
    scopes = Scopes(text_model_with_bodies(text, {"g": {"w2": (5, 3), "v1": (6, 7), "z1": (7,), "v2": (7, 3)}}))
    model = lift(scopes, THEN)
    assert [n.op_type for n in model.graph] == ["Constant", "MatMul", "Relu", "MatMul"]
    assert names(model.graph.inputs) == ["h"]


def test_a_constant_belongs_to_the_one_body_that_reads_it() -> None:
    scopes = Scopes(body_model("branches that capture their weights"))
    assert scopes.home((), "w1") == THEN
    assert scopes.home((), "v2") == ELSE
    nested = Scopes(body_model("If in If"))
    deep = (("y", "then_branch"), ("y1", "then_branch"))
    assert nested.home(deep[:1], "u1") == deep
    assert nested.home((), "u3") == (("y", "then_branch"), ("y1", "else_branch"))


def test_a_constant_that_two_bodies_or_the_outside_read_belongs_around_them() -> None:
    stored = {"g": {"w1": (6, 5), "w2": (5, 3), "v2": (5, 3)}}
    assert Scopes(text_model_with_bodies(SHARED, stored)).home((), "w1") == ()
    model = body_model("branches that capture their weights")
    model.graph.append(ir.Node("", "Identity", [model.graph.initializers["w2"]], name="outside"))
    assert Scopes(model).home((), "w2") == ()


def test_a_default_that_callers_may_replace_belongs_to_the_main_graph() -> None:
    proto = ir.to_proto(body_model("branches that capture their weights"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [6, 5]))
    assert Scopes(ir.from_proto(proto)).home((), "w1") == ()


def test_names_that_several_graphs_have_are_told_apart() -> None:
    scopes = Scopes(body_model("branches with the same names"))
    then, other = (("y", "then_branch"),), (("y", "else_branch"),)
    assert scopes.key(then, "w1") == "y.then_branch/w1"
    assert scopes.places["y.else_branch/w1"] == (other, "w1")
    assert scopes.key((), "x") == "x"
    constants = scopes.named_constants()
    assert {k: tuple(t.shape.numpy()) for k, t in constants.items() if k.endswith("/w1")} == {
        "y.then_branch/w1": (6, 5),
        "y.else_branch/w1": (6, 7),
    }


def test_inputs_of_a_body_are_those_of_a_run_taken_or_not() -> None:
    scopes = Scopes(body_model("branches that own their weights"))
    x = np.array([[-1, 2, 0, 1, -3, 4]], np.float32)
    feeds = [{"x": x, "c": np.array(True)}]
    for runs in body_runs(scopes, (), scopes.model, feeds, [THEN, ELSE]).values():
        assert isinstance(runs, BodyRuns)
        assert not runs.sampled
        np.testing.assert_array_equal(runs.feeds[0]["h"], np.maximum(x, 0))


def test_a_loop_is_fed_its_first_and_its_second_step() -> None:
    model = body_model("Loop")
    scopes = Scopes(model)
    path = (("y", "body"),)
    x = np.ones((2, 6), np.float32)
    runs = body_runs(scopes, (), model, [{"x": x, "n": np.array(2)}], [path])[path]
    assert isinstance(runs, BodyRuns)
    first, second = runs.feeds
    np.testing.assert_array_equal(first["h_in"], x)
    assert [int(f["i"]) for f in runs.feeds] == [0, 1]
    session = ort.InferenceSession(save_bytes(model), providers=["CPUExecutionProvider"])
    after_one = session.run(["y"], {"x": x, "n": np.array(1)})[0]
    np.testing.assert_allclose(second["h_in"], after_one, rtol=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_scan_is_fed_slices_in_the_order_of_its_run(backwards: bool) -> None:
    text, stored = MODELS["Scan"]
    if backwards:
        text = text.replace("num_scan_inputs = 1,", "num_scan_inputs = 1, scan_input_directions = [1],")
    model = text_model_with_bodies(text, stored)
    path = (("h", "body"),)
    x = np.arange(18, dtype=np.float32).reshape(3, 6)
    runs = body_runs(Scopes(model), (), model, [{"x": x, "h0": np.zeros(4, np.float32)}], [path])[path]
    assert isinstance(runs, BodyRuns)
    order = x[::-1] if backwards else x
    np.testing.assert_array_equal(runs.feeds[0]["x_t"], order[0])
    np.testing.assert_array_equal(runs.feeds[1]["x_t"], order[1])


def test_a_body_that_refuses_the_values_around_it_gets_sampled_ones() -> None:
    """A branch for four features, in a model that is run with six."""
    text = """
    g (float[N,M] x, bool c) => (float[N,K] y) {
      y = If(c) <
        then_branch = yes () => (float[N,K] y1) { y1 = Identity(x) },
        else_branch = no () => (float[N,K] y2) { y2 = MatMul(x, w) }
      >
    }"""
    model = text_model_with_bodies(text, {"no": {"w": (4, 3)}})
    path = (("y", "else_branch"),)
    feeds = [{"x": np.ones((2, 6), np.float32), "c": np.array(True)}]
    runs = body_runs(Scopes(model), (), model, feeds, [path])[path]
    assert isinstance(runs, BodyRuns)
    assert runs.sampled
    assert all(f["x"].shape[1] == 4 for f in runs.feeds)


def test_a_body_that_reads_no_tensor_is_refused_with_the_reason() -> None:
    text = """
    g (float[N,6] x, bool c) => (float[N,3] y) {
      z = Constant<value_int = 0>()
      q = SequenceConstruct(x)
      y = If(c) <
        then_branch = yes () => (float[N,3] y1) { a = SequenceAt(q, z) y1 = MatMul(a, w) },
        else_branch = no () => (float[N,3] y2) { y2 = MatMul(x, w) }
      >
    }"""
    model = text_model_with_bodies(text, {"g": {"w": (6, 3)}})
    path = (("y", "then_branch"),)
    feeds = [{"x": np.ones((2, 6), np.float32), "c": np.array(True)}]
    found = body_runs(Scopes(model), (), model, feeds, [path])[path]
    assert isinstance(found, UnsupportedError)
    assert "no tensor" in found.reason
