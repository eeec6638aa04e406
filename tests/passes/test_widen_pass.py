"""The widening pass from the outside: kinds of models, the real verifier, generations, seeds, faults."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support import TOLERANCE, differences, model_of

import onnxgrow
from onnxgrow.concrete.values import constants
from onnxgrow.errors import BadInputError, NotEquivalentError, UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.passes import Proof, Sequential, Widen

MLP = (
    "g (float[N,6] x) => (float[N,3] y)"
    " { h = Gemm(x, wa, ba) a = Relu(h) g = MatMul(a, wb) r = Tanh(g) y = MatMul(r, wc) }"
)
WEIGHTS = {"wa": (6, 4), "ba": (4,), "wb": (4, 8), "wc": (8, 3)}


def mlp() -> ir.Model:
    return model_of(MLP, WEIGHTS)


def data(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def tensors(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: np.asarray(t.numpy()) for name, t in constants(model).items()}


def test_a_path_gives_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(ir.to_proto(mlp()), path)
    before = path.read_bytes()
    result = Widen("wa", add=2)(path)
    assert isinstance(result.model, ir.Model)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_proto_gives_a_proto_and_stays_as_it_was() -> None:
    proto = ir.to_proto(mlp())
    before = proto.SerializeToString(deterministic=True)
    result = Widen("wa", add=2)(proto)
    assert isinstance(result.model, onnx.ModelProto)
    onnx.checker.check_model(result.model, full_check=True)
    assert proto.SerializeToString(deterministic=True) == before


def test_an_ir_model_gives_an_ir_model_and_stays_as_it_was() -> None:
    model = mlp()
    before = data(model)
    result = Widen("wa", add=2)(model)
    assert isinstance(result.model, ir.Model)
    assert result.model is not model
    assert data(model) == before
    assert result.modified


def test_a_graphsurgeon_graph_gives_a_graphsurgeon_graph_and_stays_as_it_was() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    graph = gs.import_onnx(ir.to_proto(mlp()))
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    result = Widen("wa", add=2)(graph)
    assert isinstance(result.model, gs.Graph)
    assert tuple(result.model.tensors()["wa"].shape) == (6, 6)
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "options", [{"factor": 2}, {"add": 3, "init": "orthogonal"}, {"method": "zero-fan-in", "add": 2}], ids=str
)
def test_exact_methods_are_proved_equivalent(options: dict[str, object]) -> None:
    result = onnxgrow.widen(mlp(), **options)  # type: ignore[arg-type]  # options of several types
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert {t.name: t.status.value for t in result.report.tiers} == dict.fromkeys(
        ("accounting", "certificate", "float64", "runtime"), "passed"
    )
    assert result.growth_map.exact
    assert GrowthMap.of_model(result.model.metadata_props) == result.growth_map


def test_a_network_of_many_ops_is_proved_equivalent() -> None:
    graph = (
        "g (float[N,3,8,8] x) => (float[N,5] y) { c = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)"
        " n = BatchNormalization(c, scale, shift, mean, var) r = Relu(n) d = Conv <group = 4> (r, wd) e = Conv(d, we)"
        " q, v = Split <axis = 1> (e) s = Sigmoid(q) m = Mul(s, v) j = Concat <axis = 1> (m, d)"
        " p = GlobalAveragePool(j) f = Flatten(p) y = Gemm <transB = 1> (f, wf) }"
    )
    shapes = {
        "wa": (4, 3, 3, 3),
        "ba": (4,),
        "scale": (4,),
        "shift": (4,),
        "mean": (4,),
        "var": (4,),
        "wd": (4, 1, 3, 3),
        "we": (6, 4, 1, 1),
        "wf": (5, 7),
    }
    result = onnxgrow.widen(model_of(graph, shapes), factor=1.5)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert [(s.name, s.old, s.new) for s in result.growth_map.sets] == [("wa", 4, 6), ("we[0:3]", 3, 5)]


@pytest.mark.parametrize("method", ["near-zero", "net2wider"])
def test_inexact_methods_need_a_bound_and_never_say_equivalent(method: str) -> None:
    with pytest.raises(NotEquivalentError, match="max-change"):
        onnxgrow.widen(mlp(), "wa", add=3, method=method)
    result = onnxgrow.widen(mlp(), "wa", add=3, method=method, max_change=0.9)
    assert result.report.verdict is onnxgrow.Verdict.CHANGED
    assert not result.growth_map.exact


def test_a_change_above_the_bound_is_refused() -> None:
    with pytest.raises(NotEquivalentError, match="more than"):
        onnxgrow.widen(mlp(), "wa", add=3, method="near-zero", scale=1.0, max_change=1e-9)


def test_a_fault_in_the_result_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a pass that forgets the zeros is stopped by the verifier, not by itself."""
    from onnxgrow.passes.values import TensorGrower

    monkeypatch.setattr(TensorGrower, "_zero", lambda *_: None)
    with pytest.raises(NotEquivalentError):
        Widen("wa", add=2)(mlp())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (Widen("wa", add=2, seed=s).grow(mlp()).model for s in (7, 7, 8))
    assert data(first) == data(again)
    assert not np.array_equal(tensors(first)["wa"], tensors(other)["wa"])


def test_passes_in_sequence_keep_a_history_and_draw_different_values() -> None:
    """The same seed in two generations must not make twin neurons that never separate."""
    steps = Sequential(Widen("wa", add=3), Widen("wa", add=3))
    result = steps(mlp())
    assert result.growth_map.generation == 2
    assert len(result.growth_map.history) == 1
    assert result.growth_map.history[0]["generation"] == 1
    weight = tensors(result.model)["wa"]
    assert weight.shape == (6, 10)
    assert not np.isclose(weight[:, 4:7], weight[:, 7:10]).any()
    assert np.array_equal(weight[:, :4], tensors(mlp())["wa"])
    assert max(differences(mlp(), result.model)) <= TOLERANCE


def test_a_sequence_gives_the_kind_it_was_given_and_chains_with_results() -> None:
    proto = Sequential(Widen("wa", add=1), Widen("wb", add=1))(ir.to_proto(mlp())).model
    assert isinstance(proto, onnx.ModelProto)
    assert Widen("wa", add=1)(Widen("wb", add=1)(mlp())).growth_map.generation == 2


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["wa", "wb"])
def test_weights_that_are_not_finite_are_refused_where_they_matter(name: str, poison: float) -> None:
    model = mlp()
    values = np.array(tensors(model)[name])
    values.flat[5] = poison
    model.graph.initializers[name].const_value = ir.tensor(values, name=name)
    with pytest.raises(BadInputError, match="NaN or infinite") as caught:
        Widen("wa", add=2).grow(model)
    assert caught.value.subject == name


def test_what_cannot_be_asked_for_is_refused_before_anything_is_done() -> None:
    with pytest.raises(UsageError):
        Widen(add=1, factor=2)
    with pytest.raises(UsageError):
        Widen(method="magic")
    with pytest.raises(UsageError):
        Widen("nothing like this")(mlp())
    with pytest.raises(UnsupportedError):
        Widen("wc", add=1)(mlp())


def test_a_value_that_cannot_be_made_is_reported_as_what_it_is() -> None:
    """Values are made late, inside ONNX's own serialisation: its wrapping must not hide the reason."""
    model = mlp()
    model.graph.initializers["wb"].const_value = ir.tensor(np.ones((4, 8), np.float32), name="wb")
    with pytest.raises(UnsupportedError, match="standard deviation") as caught:
        Widen("wa", add=1, method="near-zero").grow(model)
    assert caught.value.subject == "wb"


def test_progress_is_told(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    with caplog.at_level(logging.WARNING):
        Widen("wa", add=1, proof=Proof(progress=said.append))(mlp())
    assert said[:2] == ["analysing", "widening 1 channel sets"]
    assert not caplog.records


def test_what_did_not_grow_stays_byte_for_byte() -> None:
    model = mlp()
    model.metadata_props["author"] = "somebody"
    model.graph.doc_string = "kept"
    model.graph.initializers["wc"].metadata_props["note"] = "kept"
    grown = Widen("wa", add=2)(model).model
    before, after = ir.to_proto(model), ir.to_proto(grown)
    assert [n.SerializeToString() for n in before.graph.node] == [n.SerializeToString() for n in after.graph.node]
    assert [t.name for t in before.graph.initializer] == [t.name for t in after.graph.initializer]
    assert grown.metadata_props["author"] == "somebody"
    assert grown.graph.doc_string == "kept"
    assert grown.graph.initializers["wc"].metadata_props["note"] == "kept"
    assert np.array_equal(tensors(grown)["wc"], tensors(model)["wc"])


def test_declared_shapes_follow_and_symbols_stay() -> None:
    model = mlp()
    values = {v.name: v for n in model.graph for v in n.outputs}
    values["h"].shape = ir.Shape(["N", 4])
    values["h"].type = ir.TensorType(ir.DataType.FLOAT)
    values["g"].shape = ir.Shape(["N", "wide"])
    values["g"].type = ir.TensorType(ir.DataType.FLOAT)
    grown = {v.name: v for n in Widen(add=2).grow(model).model.graph for v in n.outputs}
    assert [str(d) for d in grown["h"].shape or ()] == ["N", "6"]
    assert [str(d) for d in grown["g"].shape or ()] == ["N", "wide"]


def test_declared_shapes_follow_the_growth_and_wrong_ones_stay() -> None:
    text = (
        "g (float[N,6] x) => (float[N,3] y) <float[N,4] h, float[N,9] r>"
        " { h = MatMul(x, wa) r = Relu(h) y = MatMul(r, wb) }"
    )
    grown = Widen(add=2).grow(model_of(text, {"wa": (6, 4), "wb": (4, 3)})).model
    declared = {v.name: v.shape for n in grown.graph for v in n.outputs}
    assert declared["h"] is not None
    assert declared["r"] is not None
    assert declared["h"][1] == 6
    assert declared["r"][1] == 9


def test_old_files_that_compute_with_a_size_are_proved_too() -> None:
    """Initializers listed as inputs, as before IR version 4, are no data: a size taken with one stays a size."""
    text = """g (float[n,3] x) => (float[n,2] y) {
        h = MatMul(x, u)  s = Shape(h)  c = Gather(s, one)  f = Cast<to = 1>(c)  d = Div(h, f)  y = MatMul(d, v) }"""
    model = model_of(text, {"u": (3, 4), "v": (4, 2), "one": np.int64(1)}, opset=11, ir_version=3, as_inputs=True)
    assert onnxgrow.widen(model).report.verdict is onnxgrow.Verdict.EQUIVALENT
