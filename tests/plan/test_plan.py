"""What will be done, and why the rest will not."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from support import analysis_of, grow_sets, model_of, run

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.passes import Widen
from onnxgrow.plan import Target, WidenPlan, WidenRequest, plan_widen
from onnxgrow.verify.report import Verdict

WEIGHTS = {"wa": (6, 4), "wb": (4, 8), "wc": (8, 3)}
GRAPH = (
    "g (float[N,6] x) => (float[N,3] y) {{ h = MatMul(x, wa) {act} g = MatMul(a, wb) r = Tanh(g) y = MatMul(r, wc) }}"
)


def weights_for(act: str) -> dict[str, tuple[int, ...]]:
    """The weights of GRAPH and those that ``act`` reads."""
    extra = set(re.findall(r"\w+", act)) & {"scale", "shift", "mean", "var", "k"}
    return {**WEIGHTS, **dict.fromkeys(sorted(extra), (4,))}


def plan(act: str = "a = Tanh(h)", **request: object) -> WidenPlan:
    analysis = analysis_of(model_of(GRAPH.format(act=act), weights_for(act)))
    return plan_widen(analysis, WidenRequest(**request))  # type: ignore[arg-type]  # fields of several types


def test_every_growable_set_is_planned_and_the_others_are_noted_with_their_reason() -> None:
    found = plan(target=Target(to=6))
    assert [(p.channel_set.name, p.new, p.added) for p in found.sets] == [("wa", 6, 2)]
    assert found.skipped["wb"] == "it has 8 channels already"
    assert "it is an output of the network" in found.skipped["wc"]
    assert found.growth == {found.sets[0].channel_set.atom: 2}


def test_totals_before_and_after() -> None:
    found = plan(target=Target(add=1), layers=("wa",))
    assert found.parameters == (24 + 32 + 24, 30 + 40 + 24)
    assert found.flops[1] - found.flops[0] == 2 * (6 + 8) * (found.flops[0] // (2 * 80))


def test_a_plan_is_plain_data() -> None:
    found = plan(target=Target(factor=1.5), method="near-zero", layers=("wa",), seed=5)
    data = json.loads(json.dumps(found.to_json()))
    assert data["recipe"] == {
        "pass": "widen",
        "method": "near-zero",
        "init": "kaiming",
        "layers": ["wa"],
        "factor": 1.5,
        "scale": 0.01,
    }
    assert data["seed"] == 5
    assert data["sets"] == [{"name": "wa", "old": 4, "new": 6}]


def test_planning_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysis_of(model_of(GRAPH.format(act="a = Tanh(h)"), WEIGHTS))
    for name, tensor in analysis.network.tensors.items():
        monkeypatch.setitem(analysis.network.tensors, name, _Unread(tensor))  # type: ignore[arg-type]  # a stand-in
    assert len(plan_widen(analysis, WidenRequest()).sets) == 2


class _Unread:
    def __init__(self, tensor: object) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> object:
        assert name not in ("numpy", "tobytes", "raw"), "a weight was read"
        return getattr(self._tensor, name)


def test_large_steps_and_inexact_methods_get_a_note() -> None:
    assert any("several steps" in n for n in plan(target=Target(factor=5)).notes)
    assert not plan(target=Target(factor=4)).notes
    assert any("changes the function" in n for n in plan(method="net2wider").notes)


def test_when_nothing_can_grow_the_reason_is_named() -> None:
    with pytest.raises(UnsupportedError, match="wc: it is an output of the network"):
        plan(layers=("wc",))
    with pytest.raises(UnsupportedError, match=r"it has 4 channels already \(and \d more"):
        plan(target=Target(to=2))
    model = model_of("g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }")
    with pytest.raises(UnsupportedError, match="no weights whose channels could grow"):
        plan_widen(analysis_of(model), WidenRequest())


@pytest.mark.parametrize(
    ("wrong", "subject"),
    [
        ({"method": "magic"}, "method"),
        ({"scale": 0.1}, "scale"),
        ({"scale": 0.0, "method": "near-zero"}, "scale"),
        ({"scale": float("nan"), "method": "near-zero"}, "scale"),
        ({"init": "magic"}, "init"),
        ({"init": "zeros"}, "init"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(wrong: dict[str, object], subject: str) -> None:
    with pytest.raises(UsageError) as caught:
        WidenRequest(**wrong)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.subject == subject


DEAD = [
    ("a = Relu(h)", "zero fan-in would be exact but dead: Relu a passes no gradient at 0"),
    ("a = Abs(h)", "Abs a passes no gradient at 0"),
    ("l = Tanh(h) a = Relu(l)", "Relu a passes no gradient at 0"),
    ("a = Sigmoid(h)", "Sigmoid a does not map 0 to 0"),
    ("a = Exp(h)", "Exp a does not map 0 to 0"),
    ("a = Softplus(h)", "Softplus a does not map 0 to 0"),
    ("a = Clip(h)", "Clip a passes no gradient at 0"),
    ("s = Sigmoid(h) a = Tanh(s)", "Sigmoid s does not map 0 to 0"),
    ("s = Sigmoid(h) a = Add(h, s)", "Sigmoid s does not map 0 to 0"),
    ("a = Max(h, k)", "Max a does not map 0 to 0"),
    ("a = Div(k, h)", "it divides by it, which new channels may bring to 0"),
]
ALIVE = [
    "a = Identity(h)",
    "a = Gelu(h)",
    "a = Tanh(h)",
    "a = Elu(h)",
    "a = LeakyRelu(h)",
    "a = Add(h, k)",
    "a = Mul(h, k)",
    "s = Sigmoid(h) a = Mul(h, s)",
    "a = PRelu(h, k)",
    "s = Tanh(h) a = Sub(s, h)",
    "a = BatchNormalization(h, scale, shift, mean, var)",
    "e = Exp(h) a = Div(h, e)",
]


@pytest.mark.parametrize(("act", "why"), DEAD)
def test_zero_fan_in_is_refused_where_it_is_not_exact_or_never_learns(act: str, why: str) -> None:
    found = plan(act, method="zero-fan-in")
    assert [p.channel_set.name for p in found.sets] == ["wb"]
    assert why in found.skipped["wa"]


@pytest.mark.parametrize("act", ALIVE)
def test_zero_fan_in_is_accepted_where_zeros_pass_and_new_channels_stay_zero(act: str) -> None:
    model = model_of(GRAPH.format(act=act), weights_for(act), opset=20)
    analysis = analysis_of(model)
    request = WidenRequest(method="zero-fan-in")
    assert "wa" in [p.channel_set.name for p in plan_widen(analysis, request).sets]
    grown = grow_sets(model, analysis, {"wa": 3}, request)
    grown.model.graph.outputs.append(grown.changes.rewriter.value("a"))
    (_, a) = run(grown.model, {"x": np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)})
    assert a.shape == (2, 7)
    assert a[:, :4].any()
    assert not a[:, 4:].any()
    assert grown.changes.values["a"].axes[1].facts()[-3:] == ["zero"] * 3


def test_zero_fan_in_keeps_away_from_borders_that_are_not_zero() -> None:
    """Padding with ones puts ones into new channels, where random readers would see them."""
    graph = "g (float[N,3,4,4] x) => (float[N,5,6,6] y) {{ c = Conv(x, wa) a = Pad(c, p{value}) y = Conv(a, wb) }}"
    weights = {"wa": (4, 3, 1, 1), "wb": (5, 4, 1, 1), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    request = WidenRequest(method="zero-fan-in")
    assert plan_widen(analysis_of(model_of(graph.format(value=""), weights)), request).sets
    weights["one"] = np.float32(1)
    with pytest.raises(UnsupportedError, match="Pad a borders its data with values other than 0"):
        plan_widen(
            analysis_of(model_of(graph.format(value=", one"), weights)), WidenRequest(("wa",), method="zero-fan-in")
        )


def test_zero_fan_in_takes_masks_for_no_zeros() -> None:
    """The mask of a Dropout that drops nothing is all ones, in new channels too."""
    text = """g (float[N,3] x) => (float[N,5] y) {
        c = MatMul(x, wa)  d, m = Dropout(c)  e = Cast<to = 1>(m)  z = Mul(d, e)  y = MatMul(z, wb) }"""
    model = model_of(text, {"wa": (3, 4), "wb": (4, 5)})
    result = Widen("wa", add=2, method="zero-fan-in")(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    facts = {n: v.axes[1].facts()[-1] for n, v in result.growth_map.values.items() if v.axes}
    assert facts == {"c": "zero", "d": "zero", "m": "any", "e": "any", "z": "zero"}


def test_zero_fan_in_is_refused_for_a_depthwise_multiplier() -> None:
    graph = (
        "g (float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, wa) d = Conv <group = 4> (c, wd) y = Conv(d, wb) }"
    )
    model = model_of(graph, {"wa": (4, 3, 1, 1), "wd": (8, 1, 1, 1), "wb": (5, 8, 1, 1)})
    with pytest.raises(UnsupportedError, match="depthwise multiplier"):
        plan_widen(analysis_of(model), WidenRequest(("wd/inner",), method="zero-fan-in"))


def test_zero_fan_in_keeps_away_from_constants_that_join_the_new_channels() -> None:
    graph = (
        "g (float[2,5,6] x) => (float[2,6,3] y) { h = MatMul(x, wa) e = Expand(token, to)"
        " a = Concat <axis = 1> (e, h) y = MatMul(a, wb) }"
    )
    model = model_of(graph, {"wa": (6, 8), "wb": (8, 3), "token": (1, 1, 8), "to": np.array([2, 1, 8])})
    with pytest.raises(UnsupportedError, match="Concat a joins constants"):
        plan_widen(analysis_of(model), WidenRequest(("wa",), method="zero-fan-in"))


@pytest.mark.parametrize("bias", [(2, 1), (1,), ()])
def test_zero_fan_in_keeps_away_from_a_bias_that_all_channels_share(bias: tuple[int, ...]) -> None:
    graph = "g (float[2,6] x) => (float[2,3] y) { h = Gemm(x, wa, ba) y = MatMul(h, wb) }"
    model = model_of(graph, {"wa": (6, 4), "wb": (4, 3), "ba": bias})
    with pytest.raises(UnsupportedError, match="Gemm h has one bias for all channels"):
        plan_widen(analysis_of(model), WidenRequest(("wa",), method="zero-fan-in"))


@pytest.mark.parametrize(
    ("method", "why"), [("zero-fan-in", "neither would learn"), ("net2wider", "would count twice")]
)
def test_products_of_two_computed_values_need_zeros_on_one_side(method: str, why: str) -> None:
    graph = "g (float[N,4] x, float[4,5] z) => (float[N,5] y) { h = MatMul(x, wa) g = MatMul(wb, z) y = MatMul(h, g) }"
    analysis = analysis_of(model_of(graph, {"wa": (4, 3), "wb": (3, 4)}))
    with pytest.raises(UnsupportedError, match=why):
        plan_widen(analysis, WidenRequest(("wa",), method=method))
    assert plan_widen(analysis, WidenRequest(("wa",))).sets
