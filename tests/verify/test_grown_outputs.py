"""Outputs that grew by request: old entries are proved, the verdict is never more than changed, faults are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io import tensor_digest
from onnxgrow.passes import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import Report, TierStatus, Verdict

GRAPH = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, wa, ba) a = Tanh (h) y = Gemm (a, wc, bc) }"
WEIGHTS = {"wa": (6, 4), "ba": (4,), "wc": (4, 3), "bc": (3,)}


def net() -> ir.Model:
    return model_of(GRAPH, WEIGHTS)


def grown_output(**options: object) -> tuple[ir.Model, ir.Model, GrowthMap]:
    model = net()
    made = Widen(outputs="y=+2", **options).grow(model)  # type: ignore[arg-type]  # options of several types
    return model, made.model, made.growth_map


def judge(original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> Report:
    grown.metadata_props[METADATA_KEY] = growth_map.dumps()
    return verify(original, grown, growth_map, outputs=["y"])


def values(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.array(tensor.numpy())


def put(model: ir.Model, growth_map: GrowthMap, name: str, change: Callable[[np.ndarray], None]) -> GrowthMap:
    """Change a tensor and its digest, so that accounting does not see it first."""
    array = values(model, name)
    change(array)
    tensor = ir.Tensor(array, name=name)
    model.graph.initializers[name].const_value = tensor
    listed = replace(growth_map.tensors[name], sha256=tensor_digest(tensor))
    return replace(growth_map, tensors={**growth_map.tensors, name: listed})


def test_every_tier_passes_for_the_old_entries_and_the_verdict_is_changed() -> None:
    report = Widen(outputs="y=+2")(net()).report
    assert {t.name: t.status for t in report.tiers} == dict.fromkeys(
        ("accounting", "certificate", "float64", "runtime"), TierStatus.PASSED
    )
    assert (report.verdict, report.ok, report.change) == (Verdict.CHANGED, True, None)
    assert [(o.name, o.axis, o.old, o.new) for o in report.outputs] == [("y", 1, 3, 5)]
    assert [(a.channels, a.alive) for a in report.alive] == [(2, 2)]


def test_whoever_did_not_ask_for_it_does_not_get_it() -> None:
    original, grown, growth_map = grown_output()
    report = verify(original, grown, growth_map)
    assert (report.verdict, report.ok) == (Verdict.CHANGED, False)


@pytest.mark.parametrize("init", ["zeros", "copy", "xavier"])
def test_new_entries_are_drawn_as_asked_and_get_a_gradient(init: str) -> None:
    result = Widen(outputs="y=+2", init=init)(net())
    new = values(result.model, "wc")[:, 3:]
    old = values(net(), "wc")
    assert new.any() == (init != "zeros")
    if init == "copy":
        assert all((column == old.T).all(axis=1).any() for column in new.T)
    assert result.report.alive[0].alive == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("wc", lambda a: a.__setitem__((0, 0), a[0, 0] + 0.1)),
        ("bc", lambda a: a.__setitem__(2, 7.0)),
        ("wc", lambda a: a.__setitem__((slice(None), [0, 1]), a[:, [1, 0]])),
    ],
    ids=["an old entry", "an old bias", "old outputs exchanged"],
)
def test_a_fault_in_the_old_entries_is_no_change_but_a_fault(name: str, change: Callable[[np.ndarray], None]) -> None:
    original, grown, growth_map = grown_output()
    report = judge(original, grown, put(grown, growth_map, name, change))
    assert (report.verdict, report.ok) == (Verdict.NOT_EQUIVALENT, False)
    failed = {t.name for t in report.tiers if t.status is TierStatus.FAILED}
    assert failed == {"certificate", "float64", "runtime"}


def test_an_output_that_grew_without_being_listed_is_a_fault() -> None:
    original, grown, growth_map = grown_output()
    report = judge(original, grown, replace(growth_map, outputs=()))
    assert report.verdict is Verdict.NOT_EQUIVALENT
    failed = {t.name for t in report.tiers if t.status is TierStatus.FAILED}
    assert {"accounting", "certificate", "float64"} <= failed


@pytest.mark.parametrize("outputs", [("y", "z"), ("a",), ("y", "y", "h")])
def test_what_is_listed_among_the_outputs_has_to_be_one_that_grew(outputs: tuple[str, ...]) -> None:
    original, grown, growth_map = grown_output()
    report = judge(original, grown, replace(growth_map, outputs=outputs))
    assert report.tiers[0].status is TierStatus.FAILED


def test_an_output_that_is_read_inside_too_grows_with_its_readers_zero() -> None:
    graph = "g (float[N,6] x) => (float[N,3] y, float[N,2] z) { y = MatMul (x, wa) r = Relu (y) z = MatMul (r, wb) }"
    result = Widen(outputs="y=+2")(model_of(graph, {"wa": (6, 3), "wb": (3, 2)}))
    assert result.report.ok
    assert values(result.model, "wb").shape == (5, 2)
    assert not values(result.model, "wb")[3:].any()


def test_the_part_of_an_output_is_named_where_several_can_grow() -> None:
    graph = "g (float[N,6] x) => (float[N,7] y) { a = MatMul (x, wa) b = MatMul (x, wb) y = Concat <axis = 1> (a, b) }"
    weights = {"wa": (6, 3), "wb": (6, 4)}
    with pytest.raises(UsageError, match="y@wa, y@wb"):
        Widen(outputs="y=+2")(model_of(graph, weights))
    result = Widen(outputs="y@wa=+2")(model_of(graph, weights))
    assert result.report.ok
    assert "between the old ones" in result.plan["notes"][0]
    assert values(result.model, "wa").shape == (6, 5)


@pytest.mark.parametrize(
    ("tail", "out", "reason"),
    [
        ("y = Softmax <axis = 1> (l)", "float[N,3] y", "normalised over"),
        ("y = LogSoftmax <axis = 1> (l)", "float[N,3] y", "normalised over"),
        ("y = Identity (l) i = ArgMax <axis = 1> (l)", "float[N,3] y, int64[N,1] i", "ArgMax i"),
        ("y = Identity (l) z = Tanh (l)", "float[N,3] y, float[N,3] z", "output z"),
        ("y = Shape (l)", "int64[2] y", "no weight writes channels"),
    ],
    ids=["probabilities", "log-probabilities", "the best class", "a second output", "no channels"],
)
def test_where_old_entries_or_other_outputs_would_change_it_is_refused(tail: str, out: str, reason: str) -> None:
    model = model_of(f"g (float[N,6] x) => ({out}) {{ l = MatMul (x, w) {tail} }}", {"w": (6, 3)})
    with pytest.raises(UnsupportedError, match=reason):
        Widen(outputs="y=+1")(model)


def test_a_tied_embedding_is_refused_with_the_reason() -> None:
    graph = (
        "g (int64[N] i) => (float[N,9] y) { e = Gather (w, i) h = MatMul (e, v) t = Transpose <perm = [1, 0]> (w)"
        " y = MatMul (h, t) }"
    )
    with pytest.raises(UnsupportedError, match="Gather"):
        Widen(outputs="y=+1")(model_of(graph, {"w": (9, 4), "v": (4, 4)}))


def test_labels_that_would_have_to_grow_are_the_reason_of_the_refusal() -> None:
    graph = (
        "g (float[N,6] x) => (seq(map(int64, float)) y) { l = MatMul (x, w)"
        " y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (l) }"
    )
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]> {graph}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 3), np.float32), "w"))
    with pytest.raises(UnsupportedError, match="ZipMap makes it"):
        Widen(outputs="y=+1")(model)
