"""Operators without a float64 implementation: run in the model's own dtypes, without hiding faults around them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from by_hand import copy, grow, random, set_weight, text_model, weight

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap, SetGrowth
from onnxgrow.io.digest import tensor_digest
from onnxgrow.verify import TierStatus, Verdict, judge
from onnxgrow.verify.alive import check
from onnxgrow.verify.float64 import run_tier
from onnxgrow.verify.float64.twins import Noise
from onnxgrow.verify.report import TierResult

HEAD = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "com.microsoft" : 1]> g '
IN_FRONT = (
    HEAD
    + """(float[N,6] x) => (float[N,3] y) {
    m = Mul(x, w0)
    s = ai.onnx.ml.Scaler<offset = [0.5], scale = [0.3]>(m)
    h = Gemm(s, w1, b1)  a = Relu(h)  z = Gemm(a, w2)  y = Gemm(z, w3) }"""
)
BEHIND = (
    HEAD
    + """(float[N,6] x) => (float[N,3] y) {
    m = Mul(x, w0)
    h = Gemm(m, w1, b1)  a = Relu(h)
    s = com.microsoft.FusedGemm<activation = "LeakyRelu", activation_alpha = 0.5>(a, w2)
    t = Tanh(s)  y = Gemm(t, w3) }"""
)
X = {"x": np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)}
OLD, NEW = 36, 53


def grown(text: str) -> tuple[ir.Model, ir.Model, GrowthMap]:
    shapes = {"w0": (6,), "w1": (6, OLD), "b1": (OLD,), "w2": (OLD, 3), "w3": (3, 3)}
    model = text_model(text, {name: random(shape, i) for i, (name, shape) in enumerate(shapes.items())})
    # old channels in another order, so that sums over them are rounded differently
    axis = AxisMap.from_source([*range(OLD // 2, OLD), *[-1] * (NEW - OLD), *range(OLD // 2)])
    result, growth = grow(
        model,
        {"w1": {1: axis}, "b1": {0: axis}, "w2": {0: axis}},
        {"h": {1: axis}, "a": {1: axis}},
        (SetGrowth("w1", OLD, NEW, ("w1", "b1"), ("w2",)),),
        {"w2": 0},
    )
    return model, result, growth


def faulty(model: ir.Model, name: str, size: float, index: tuple[int, ...]) -> ir.Model:
    """A copy with one weight off by a relative ``size``."""
    found = copy(model)
    w = weight(found, name)
    w[index] *= np.float32(1 + size)
    set_weight(found, name, w)
    return found


def test_in_front_of_what_grew_nothing_is_lost() -> None:
    result = run_tier(*grown(IN_FRONT), [X])
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["native_nodes"] == ["s"]
    assert result.figures["single_precision_nodes"] == []
    assert result.figures["values_compared"] == 6
    assert result.figures["bound"] < 1e-13


@pytest.mark.parametrize(("name", "index"), [("w0", (2,)), ("w1", (1, 40)), ("w2", (40, 1)), ("w3", (1, 1))])
@pytest.mark.parametrize("size", [1e-3, 3e-7])
def test_around_an_operator_whose_values_agree_the_bounds_stay_tight(
    name: str, index: tuple[int, ...], size: float
) -> None:
    original, result, growth = grown(IN_FRONT)
    assert run_tier(original, faulty(result, name, size, index), growth, [X]).status is TierStatus.FAILED


def test_rounding_behind_what_grew_is_measured_and_named() -> None:
    result = run_tier(*grown(BEHIND), [X])
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["single_precision_nodes"] == ["s"]
    assert 1e-9 < result.figures["largest_difference"] < result.figures["bound"] < 1.3e-5


@pytest.mark.parametrize(
    ("name", "index", "size", "seen"),
    [
        ("w0", (2,), 1e-3, "m"),
        ("w1", (1, 40), 1e-3, "h"),
        ("w1", (1, 40), 2e-7, "h"),  # in front of it the float64 bound holds
        ("w2", (40, 1), 1e-3, "s"),
        ("w2", (40, 1), 2e-7, "w2"),  # its own weights have to be equal bit for bit
        ("w3", (1, 1), 1e-3, "y"),
    ],
)
def test_faults_around_a_rounded_operator_are_seen(name: str, index: tuple[int, ...], size: float, seen: str) -> None:
    original, result, growth = grown(BEHIND)
    found = run_tier(original, faulty(result, name, size, index), growth, [X])
    assert found.status is TierStatus.FAILED
    assert seen in {f.subject for f in found.findings}


def test_a_new_channel_that_leaks_through_a_rounded_operator_is_seen() -> None:
    original, result, growth = grown(BEHIND)
    w = weight(result, "w2")
    w[OLD // 2 : OLD // 2 + NEW - OLD, 1] = 1e-3
    set_weight(result, "w2", w)
    found = run_tier(original, result, growth, [X])
    assert found.status is TierStatus.FAILED
    assert {"s", "y"} <= {f.subject for f in found.findings}


def test_what_is_rounded_is_passed_only_together_with_the_runtime_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    original, result, growth = grown(BEHIND)
    model = copy(result)
    tiers = {t.name: t for t in judge.verify(original, model, growth, provider="cpu").tiers}
    assert (tiers["float64"].status, tiers["runtime"].status) == (TierStatus.PASSED, TierStatus.PASSED)
    report = judge.verify(original, model, growth, provider="cpu", tiers=["accounting", "certificate", "float64"])
    assert report.tier("float64").status is TierStatus.NOT_RUN
    assert report.tier("float64").findings[0].subject == "s"
    monkeypatch.setattr(judge.runtime, "run_tier", lambda *_: TierResult("runtime", TierStatus.FAILED))
    report = judge.verify(original, model, growth, provider="cpu")
    assert report.tier("float64").status is TierStatus.NOT_RUN
    assert report.verdict is Verdict.NOT_EQUIVALENT


def test_a_model_with_such_an_operator_can_be_called_equivalent() -> None:
    original, result, growth = grown(IN_FRONT)
    report = judge.verify(original, result, growth, provider="cpu")
    assert report.verdict is Verdict.EQUIVALENT, report.tiers
    assert report.alive[0].alive > 0
    result = faulty(result, "w3", 3e-7, (1, 1))
    digest = tensor_digest(result.graph.initializers["w3"].const_value)
    listed = replace(growth, tensors={**growth.tensors, "w3": replace(growth.tensors["b1"], axes={}, sha256=digest)})
    report = judge.verify(original, result, listed, provider="cpu")
    assert report.tier("float64").status is TierStatus.FAILED
    assert report.verdict is Verdict.NOT_EQUIVALENT


def test_channels_are_alive_through_such_an_operator_and_dead_ones_stay_dead() -> None:
    _, result, growth = grown(BEHIND)
    assert check(result, growth, [X])[0].alive > 0
    for name in ("w1", "b1"):
        w = weight(result, name)
        w[..., OLD // 2 : OLD // 2 + NEW - OLD] = 0
        set_weight(result, name, w)
    assert check(result, growth, [X])[0].alive == 0


def test_strings_and_integers_pass_through() -> None:
    text = (
        HEAD
        + """(string[N] x) => (float[N] y) {
        n = Identity(x)
        i = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_floats = [1.0, 2.0], default_float = -1.0>(n)
        y = Mul(i, w) }"""
    )
    model = text_model(text, {"w": np.full(1, 3, np.float32)})
    feeds = {"x": np.array(["a", "b", "c"], object)}
    result = run_tier(model, copy(model), GrowthMap(), [feeds])
    assert result.status is TierStatus.PASSED, result.findings
    assert "i" in result.figures["native_nodes"]
    assert run_tier(model, faulty(model, "w", 1e-6, (0,)), GrowthMap(), [feeds]).status is TierStatus.FAILED


def test_an_attribute_that_changed_is_seen() -> None:
    original, result, growth = grown(IN_FRONT)
    scaler = result.graph[1]
    scaler.attributes["scale"] = ir.AttrFloat32s("scale", [0.3001])
    assert run_tier(original, result, growth, [X]).status is TierStatus.FAILED


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        ("y = RandomNormalLike(x)", "RandomNormalLike"),
        ("y = com.microsoft.BiasDropout(x, b, , r, t)", "com.microsoft::BiasDropout"),
        ("y = Dropout(x, r, t)", "Dropout"),
        ("y = nobody.Knows(x)", "nobody::Knows"),
    ],
)
def test_random_and_unknown_operators_have_not_run(body: str, subject: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "nobody" : 1]>
        g (float[N,6] x) => (float[N,6] y) {{ {body} }}"""
    extra = {"b": np.zeros(6, np.float32), "r": np.array(0.5, np.float32), "t": np.array(True)}
    model = text_model(text, extra)
    result = run_tier(model, copy(model), GrowthMap(), [X])
    assert result.status is TierStatus.NOT_RUN
    assert result.findings[0].subject == subject


def test_an_operator_that_runs_so_in_one_model_only_has_not_run() -> None:
    original, _, _ = grown(IN_FRONT)
    result = copy(original)
    scaler = result.graph[1]
    scaler.domain, scaler.op_type = "", "Identity"
    scaler.attributes.clear()
    found = run_tier(original, result, GrowthMap(), [X])
    assert found.status is TierStatus.NOT_RUN
    assert "original only" in found.findings[0].reason


def test_integers_that_rounding_flips_decide_nothing() -> None:
    # the sum over the channels that moved is rounded to float32, and cast to text with all its digits
    text = BEHIND.replace("t = Tanh(s)", "u = Cast<to = 8>(s)  t = Tanh(s)")
    found = run_tier(*grown(text), [X])
    assert found.status is TierStatus.NOT_RUN
    assert found.findings[0].subject == "Cast"
    assert "flips" in found.findings[0].reason


def test_coarse_noise_moves_by_units_of_the_coarser_dtype() -> None:
    x = np.concatenate([np.random.default_rng(1).normal(size=1000), [0.0, np.inf]])
    step = np.abs(Noise(3)(x, 2.0**-23)[:-2] - x[:-2])
    assert np.all(step >= 2.0**-23 * np.abs(x[:-2]) * 0.99)
    assert np.all(step <= 2.0**-22 * np.maximum(np.abs(x[:-2]), 1))
    assert np.isinf(Noise(3)(x, 2.0**-23)[-1])
