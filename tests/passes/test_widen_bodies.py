"""Widening inside bodies of control flow, at any depth: what grows, what stays frozen, and what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from body_models import IF, MODELS, SHARED, body_model, text_model_with_bodies

import onnxgrow
from onnxgrow import api
from onnxgrow.concrete.bodies import Scopes
from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.io import load, save_bytes
from onnxgrow.passes import Proof, Widen

FEEDS = {
    "If": [{"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6), "c": np.array(c)} for c in (True, False)],
    "Loop": [{"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6), "n": np.array(n)} for n in (1, 3)],
    "Scan": [{"x": np.linspace(-2, 2, 30, dtype=np.float32).reshape(5, 6), "h0": np.ones(4, np.float32)}],
}
GROWN = {
    "branches that own their weights": ["t.then_branch/a1", "t.else_branch/a2"],
    "branches that capture their weights": ["t.then_branch/a1", "t.else_branch/a2"],
    "If in If": ["y.then_branch/a1", "y.then_branch/y1.then_branch/a3"],
    "Loop": ["y.body/a", "y.body/q"],
    "Scan": ["h.body/a"],
    "branches with the same names": ["y.then_branch/a", "y.else_branch/a"],
}


def outputs(model: ir.Model, name: str) -> list[np.ndarray]:
    session = ort.InferenceSession(save_bytes(model), providers=["CPUExecutionProvider"])
    kind = name if name in FEEDS else "If"
    return [y for feeds in FEEDS[kind] for y in session.run(None, feeds)]


@pytest.mark.parametrize("name", MODELS)
def test_all_sets_in_bodies_grow_together_and_the_function_stays(name: str) -> None:
    model = body_model(name)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = Widen(factor=1.5)(model)
    assert result.report.ok
    assert [s.name for s in result.growth_map.sets] == GROWN[name]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    for a, b in zip(outputs(model, name), outputs(result.model, name), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["branches that capture their weights", "If in If", "Loop"])
def test_weights_in_constant_nodes_around_a_body_grow_with_it(name: str) -> None:
    result = Widen(add=2)(body_model(name, as_nodes=True))
    assert result.report.ok
    assert [s.name for s in result.growth_map.sets] == GROWN[name]
    assert not any(graph.initializers for graph in Scopes(result.model).graphs.values())


def test_branches_inside_a_loop_grow() -> None:
    branch = "a{0} = MatMul(h_in, w{0}) b{0} = {1}(a{0}) y{0} = MatMul(b{0}, v{0})"
    text = f"""
    g (float[N,6] x, int64 n) => (float[N,6] y) {{
      y = Loop(n, , x) <
        body = step (int64 i, bool g_in, float[N,6] h_in) => (bool g_out, float[N,6] h_out) {{
          two = Constant<value_int = 2>() m = Mod(i, two) c = Cast<to = 9>(m)
          f = If(c) <
            then_branch = yes () => (float[N,6] y1) {{ {branch.format(1, "Relu")} }},
            else_branch = no () => (float[N,6] y2) {{ {branch.format(2, "Tanh")} }}
          >
          h_out = Add(h_in, f)
          g_out = Identity(g_in)
        }}
      >
    }}"""
    stored = {"g": {"w1": (6, 5), "v1": (5, 6)}, "no": {"w2": (6, 7), "v2": (7, 6)}}
    result = Widen(factor=1.5)(text_model_with_bodies(text, stored))
    assert result.report.ok
    assert [s.name for s in result.growth_map.sets] == ["y.body/f.then_branch/a1", "y.body/f.else_branch/a2"]


@pytest.mark.parametrize(("name", "layer"), [(n, s) for n, sets in GROWN.items() for s in sets])
def test_each_set_grows_alone(name: str, layer: str) -> None:
    model = body_model(name)
    grown = Widen(layer, add=3).grow(model)
    assert [s.name for s in grown.growth_map.sets] == [layer]
    held = Scopes(grown.model).named_constants()
    was = Scopes(model).named_constants()
    changed = {k for k, t in held.items() if tuple(t.shape.numpy()) != tuple(was[k].shape.numpy())}
    assert changed == set(grown.growth_map.tensors)
    for a, b in zip(outputs(model, name), outputs(grown.model, name), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_grown_model_grows_again() -> None:
    first = Widen(add=2)(body_model("If in If"))
    second = Widen(add=3)(first.model)
    assert second.report.ok
    assert second.growth_map.generation == 2
    assert [(s.old, s.new) for s in second.growth_map.sets] == [(7, 10), (9, 12)]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("name", ["branches that capture their weights", "branches with the same names"])
def test_the_written_file_is_what_was_proved(name: str, external: bool, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    result = onnxgrow.widen(body_model(name), add=2, output=target, external_data=external)
    assert result.report.ok
    assert api.verify(body_model(name), target).ok
    assert load(target).model.metadata_props["onnxgrow.growth_map"] == result.growth_map.dumps()


def test_a_weight_that_both_branches_read_is_frozen_with_the_reason() -> None:
    model = text_model_with_bodies(SHARED, {"g": {"w1": (6, 5), "w2": (5, 3), "v2": (5, 3)}})
    with pytest.raises(UnsupportedError, match="another body, reads it, too"):
        Widen("w1", add=2).grow(model)


def test_a_captured_value_is_frozen_with_the_reason() -> None:
    text = IF.replace("h = Relu(x)", "k = MatMul(x, w0) h = Relu(k)")
    stored = {"g": {"w0": (6, 6)}, **MODELS["branches that own their weights"][1]}
    with pytest.raises(UnsupportedError, match="a subgraph reads it"):
        Widen("w0", add=2).grow(text_model_with_bodies(text, stored))


def test_the_carried_state_of_a_loop_is_frozen_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match=r"an input of the body y\.body"):
        Widen("w2", add=2).grow(body_model("Loop"))


def test_sets_in_bodies_are_selected_by_glob_weight_and_operator() -> None:
    model = body_model("branches that own their weights")

    def grown(selector: str) -> list[str]:
        return [s.name for s in Widen(selector, add=1).grow(model).growth_map.sets]

    assert grown("t.then_branch/*") == ["t.then_branch/a1"]
    assert grown("v1") == ["t.else_branch/a2"]
    assert grown("op:Gemm") == ["t.else_branch/a2"]


def test_shape_operands_around_a_body_are_not_changed_for_it() -> None:
    """Both branches reshape by the constant outside; the one that grows gets a constant of its own."""
    branch = "a{0} = MatMul(x, w{0}) r{0} = Reshape(a{0}, sizes) y{0} = MatMul(r{0}, q{0})"
    text = f"""
    g (float[5,6] x, bool c) => (float[5,2,3] y) {{
      sizes = Constant<value = int64[3] {{5, 2, 4}}>()
      y = If(c) <
        then_branch = yes () => (float[5,2,3] y1) {{ {branch.format(1)} }},
        else_branch = no () => (float[5,2,3] y2) {{ {branch.format(2)} }}
      >
    }}"""
    stored = {"g": {"w1": (6, 8), "q1": (4, 3), "w2": (6, 8), "q2": (4, 3)}}
    result = Widen("y.then_branch/a1/inner", add=2)(text_model_with_bodies(text, stored))
    assert result.report.ok
    scopes = Scopes(result.model)
    sizes = {k: np.asarray(t.numpy()).tolist() for k, t in scopes.named_constants().items() if k.startswith("sizes")}
    assert sizes == {"sizes": [5, 2, 4], "sizes_grown": [5, 2, 6]}
    assert "sizes_grown" in scopes.defined[("y", "then_branch"),]


def test_before_ir_version_4_new_constants_of_a_body_are_nodes() -> None:
    branch = "a{0} = MatMul(x, w{0}) r{0} = Reshape(a{0}, sizes) y{0} = MatMul(r{0}, q{0})"
    text = f"""
    g (float[5,6] x, bool c) => (float[5,2,3] y) {{
      sizes = Constant<value = int64[3] {{5, 2, 4}}>()
      y = If(c) <
        then_branch = yes () => (float[5,2,3] y1) {{ {branch.format(1)} }},
        else_branch = no () => (float[5,2,3] y2) {{ {branch.format(2)} }}
      >
    }}"""
    stored = {"yes": {"w1": (6, 8), "q1": (4, 3)}, "no": {"w2": (6, 8), "q2": (4, 3)}}
    model = text_model_with_bodies(text, stored, as_nodes=True, header='<ir_version: 3, opset_import: ["": 9]>')
    result = Widen(add=2)(model)
    assert result.report.ok
    assert not any(graph.initializers for graph in Scopes(result.model).graphs.values())


def test_new_names_are_new_in_every_graph() -> None:
    grown = Widen(add=2).grow(body_model("If in If")).model
    listed = [name for held in Scopes(grown).defined.values() for name in held]
    assert len(listed) == len(set(listed))


def test_statistics_of_a_batch_norm_in_a_branch_are_measured() -> None:
    text = IF.replace("b1 = Relu(a1)", "n1 = BatchNormalization(a1, s, o, m, v) b1 = Relu(n1)")
    stored = {
        "yes": {"w1": (6, 5), "w2": (5, 3)},
        "no": {"v1": (6, 7), "z1": (7,), "v2": (7, 3)},
        "g": {"s": (5,), "o": (5,), "m": (5,), "v": (5,)},
    }
    model = text_model_with_bodies(text, stored)
    model.graph.initializers["v"].const_value = ir.tensor(np.ones(5, np.float32), name="v")
    given = {"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32), "c": np.array(False)}
    grown = Widen("t.then_branch/a1", add=2, proof=Proof(inputs=given)).grow(model)
    variance = Scopes(grown.model).named_constants()["v"].numpy()
    assert not np.allclose(variance[5:], 1.0)


def test_a_weight_of_a_branch_that_is_not_finite_is_refused() -> None:
    model = body_model("branches that capture their weights")
    bad = np.full((6, 5), np.inf, np.float32)
    model.graph.initializers["w1"].const_value = ir.tensor(bad, name="w1")
    with pytest.raises(BadInputError, match="NaN or infinite"):
        Widen("t.then_branch/a1", add=1).grow(model)


def test_a_body_that_cannot_be_analysed_is_said() -> None:
    text = """
    g (float[N,6] x, bool c) => (float[N,3] y) {
      q = SequenceConstruct(x)
      y = If(c) <
        then_branch = yes () => (float[N,3] y1) {
          z = Constant<value_int = 0>() a = SequenceAt(q, z) b = MatMul(a, w1) r = Relu(b) y1 = MatMul(r, w2)
        },
        else_branch = no () => (float[N,3] y2) { k = MatMul(x, v1) e = Relu(k) y2 = MatMul(e, v2) }
      >
    }"""
    model = text_model_with_bodies(text, {"g": {"w1": (6, 5), "w2": (5, 3), "v1": (6, 5), "v2": (5, 3)}})
    data = api.inspect(model).to_json()
    assert [s["name"] for s in data["sets"] if s["growable"]] == ["y.else_branch/k"]
    assert any("y.then_branch is not analysed" in note for note in data["notes"])
    assert Widen(add=1)(model).report.ok
