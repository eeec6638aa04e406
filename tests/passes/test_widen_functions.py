"""Widening models with local functions: inlined where channels inside them grow, left alone elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import onnxgrow
from onnxgrow import api
from onnxgrow.concrete.functions import callers, inlined
from onnxgrow.errors import NotEquivalentError, UnsupportedError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.passes import Widen
from onnxgrow.verify import TierStatus, Verdict
from onnxgrow.verify.judge import verify

MODEL = """
<ir_version: 8, opset_import: ["": 17, "my": 1]>
g (float[N,6] x) => (float[N,3] y, float[N,6] z) {
  h = my.Dense(x, w1, b1)
  a = my.Act(h)
  y = my.Dense(a, w2, b2)
  z = my.Twice(x)
}
<domain: "my", opset_import: ["": 17]>
Dense (u, w, b) => (v) { s = MatMul(u, w) v = Add(s, b) }
<domain: "my", opset_import: ["": 17, "my": 1]>
Act (u) => (v) { g = my.Gate(u) v = Mul(u, g) }
<domain: "my", opset_import: ["": 17]>
Gate (u) => (v) { v = Sigmoid(u) }
<domain: "my", opset_import: ["": 17]>
Twice (u) => (v) { v = Add(u, u) }
"""
SHAPES = {"w1": (6, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}


def model(text: str = MODEL) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return ir.from_proto(proto)


def names(found: ir.Model) -> list[str]:
    return [f.name for f in found.functions.values()]


def test_weights_given_to_functions_grow_and_what_did_not_grow_stays_a_function() -> None:
    result = Widen("w1", add=3)(model())
    assert result.report.verdict is Verdict.EQUIVALENT
    assert names(result.model) == ["Twice"]
    assert [n.op_type for n in result.model.graph if n.domain == "my"] == ["Twice"]
    assert result.growth_map.inlined == ("my::Dense", "my::Act", "my::Gate")
    assert any("my::Dense, my::Act, my::Gate" in note for note in result.plan["notes"])
    assert any("my::Dense" in note for note in result.report.notes)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)


def test_the_original_keeps_its_functions() -> None:
    given = model()
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    Widen("w1", add=3)(given)
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before


def test_functions_that_nothing_grows_in_all_stay() -> None:
    text = MODEL.replace("h = my.Dense(x, w1, b1)", "k = MatMul(x, w1) h = Add(k, b1)")
    text = text.replace("a = my.Act(h)", "a = Relu(h)").replace("y = my.Dense(a, w2, b2)", "y = Gemm(a, w2, b2)")
    result = Widen("w1", add=3)(model(text))
    assert result.report.ok
    assert result.growth_map.inlined == ()
    assert names(result.model) == names(model(text))
    assert "inlined" not in result.growth_map.to_json()


def test_the_written_file_is_verified_against_the_original_with_its_functions(tmp_path: Path) -> None:
    result = onnxgrow.widen(model(), "w1", add=2, output=tmp_path / "m.onnx")
    assert result.report.ok
    report = api.verify(model(), tmp_path / "m.onnx")
    assert report.ok
    stored = report.tier("runtime").figures["bodies"]["functions as stored"]
    assert stored["outputs_compared"] > 0


def test_a_model_whose_functions_were_inlined_grows_again() -> None:
    first = Widen("w1", add=2)(model())
    second = Widen("w1", add=2)(first.model)
    assert second.report.ok
    assert second.growth_map.inlined == ()
    assert second.growth_map.generation == 2


def test_a_fault_behind_a_function_is_caught() -> None:
    original = model()
    grown = Widen("w1", add=2).grow(original)
    value = grown.model.graph.initializers["w2"]
    array = np.array(value.const_value.numpy())
    array[-1, 0] = 0.5
    value.const_value = ir.tensor(array, name="w2")
    report = verify(original, grown.model, grown.growth_map, provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert all(t.status is TierStatus.FAILED for t in report.tiers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inlined": ("my::Dense", "my::Act", "my::Gate", "my::Ghost")}, "no such function"),
        ({"inlined": ("my::Dense",)}, ""),
        ({"original": "0" * 64}, "another original"),
    ],
)
def test_a_map_that_does_not_say_what_was_inlined_fails(change: dict[str, object], reason: str) -> None:
    original = model()
    grown = Widen("w1", add=2).grow(original)
    wrong = replace(grown.growth_map, **change)
    grown.model.metadata_props[METADATA_KEY] = wrong.dumps()
    report = verify(original, grown.model, wrong, provider="cpu", tiers=("accounting",))
    assert report.tiers[0].status is TierStatus.FAILED
    assert any(reason in f.reason for f in report.tiers[0].findings)


def test_the_map_in_the_metadata_has_to_be_the_one_that_is_checked() -> None:
    original = model()
    grown = Widen("w1", add=2).grow(original)
    other = replace(grown.growth_map, seed=7)
    report = verify(original, grown.model, other, provider="cpu", tiers=("accounting",))
    assert any("another one" in f.reason for f in report.tiers[0].findings)


def test_the_list_survives_the_metadata() -> None:
    growth = GrowthMap(inlined=("my::Dense",))
    assert GrowthMap.loads(growth.dumps()).inlined == ("my::Dense",)
    with pytest.raises(ValueError, match="inlined"):
        GrowthMap.from_json({**growth.to_json(), "inlined": [1]})


def test_functions_inside_bodies_of_control_flow_are_looked_into() -> None:
    text = MODEL.replace("g (float[N,6] x)", "g (float[N,6] x, bool c)").replace(
        "  h = my.Dense(x, w1, b1)\n  a = my.Act(h)\n  y = my.Dense(a, w2, b2)\n",
        """  y = If(c) <
    then_branch = yes () => (float[N,3] y1) { h = my.Dense(x, w1, b1) a = my.Act(h) y1 = my.Dense(a, w2, b2) },
    else_branch = no () => (float[N,3] y2) { k = Identity(b2) e = Shape(x) y2 = Expand(k, s) }
  >
""",
    )
    text = text.replace("e = Shape(x)", "n = Shape<start = 0, end = 1>(x) t = Constant<value_ints = [3]>()")
    text = text.replace("y2 = Expand", "s = Concat<axis = 0>(n, t) y2 = Expand")
    result = Widen("w1", add=3)(model(text))
    assert result.report.ok
    assert [s.name.split("/")[0] for s in result.growth_map.sets] == ["y.then_branch"]
    assert names(result.model) == ["Twice"]


def test_functions_that_cannot_be_inlined_are_said_and_leave_the_result_unproved() -> None:
    text = MODEL.replace(
        '<domain: "my", opset_import: ["": 17]>\nTwice', '<domain: "my", opset_import: ["": 13]>\nTwice'
    )
    text = text.replace("h = my.Dense(x, w1, b1)", "k = MatMul(x, w1) h = Add(k, b1)")
    text = text.replace("a = my.Act(h)", "a = Relu(h)").replace("y = my.Dense(a, w2, b2)", "y = Gemm(a, w2, b2)")
    with pytest.raises(UnsupportedError, match="cannot be inlined"):
        inlined(model(text))
    _, plan = Widen("w1", add=1).plan(model(text))
    assert any("not looked into" in note for note in plan.notes)
    with pytest.raises(NotEquivalentError, match="float64 not run: local functions: they cannot be inlined"):
        Widen("w1", add=1)(model(text))


def test_callers_are_found_through_other_functions() -> None:
    assert callers(model(), ["my::Gate"]) == {"my::Gate", "my::Act"}


def test_functions_grow_where_calls_leave_outputs_out() -> None:
    body = "Act (u) => (v, w) { v = Tanh(u) w = Neg(v) }"
    text = MODEL.replace("a = my.Act(h)", 'a, "" = my.Act(h)')
    result = Widen("w1", add=3)(model(text.replace("Act (u) => (v) { g = my.Gate(u) v = Mul(u, g) }", body)))
    assert result.report.verdict is Verdict.EQUIVALENT
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)


def test_calls_that_stay_keep_what_they_leave_out() -> None:
    text = MODEL.replace("z = my.Twice(x)", 'z = my.Twice(x)  d, "" = my.Both(x)')
    text += '<domain: "my", opset_import: ["": 17]>\nBoth (u) => (v, w) { v = Add(u, u) w = Neg(u) }'
    result = Widen("w1", add=3)(model(text))
    (call,) = [n for n in result.model.graph if n.op_type == "Both"]
    assert [v.name for v in call.outputs] == ["d", ""]
