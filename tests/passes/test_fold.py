"""Folding: exact where factors converged exactly, measured otherwise, refused where padding forbids it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of, run

import onnxgrow
from onnxgrow.concrete.values import constants
from onnxgrow.errors import NotEquivalentError, UnsupportedError, UsageError
from onnxgrow.passes import AddActiSwitch, Fold, InsertIdentity, Proof
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import Verdict

MLP = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u) a = Relu(h) y = MatMul(a, v) }"
CNN = """g (float[2,3,9,9] x) => (float[2,2,p,q] y) {{
    c = Conv(x, w1)  a = Relu(c)  y = Conv<{}>(a, w2)
}}"""
LOOSE = Proof(max_change=1e-4)


def mlp() -> ir.Model:
    return model_of(MLP, {"u": (4, 8), "v": (8, 3)})


def cnn(attributes: str = "pads=[1,1,1,1]", kernel: int = 3) -> ir.Model:
    return model_of(CNN.format(attributes), {"w1": (6, 3, 1, 1), "w2": (2, 6, kernel, kernel)})


def trained(model: ir.Model, **weights: object) -> ir.Model:
    """The model with other weights, as after training: its growth map is gone."""
    for key, values in weights.items():
        name = key.replace("__", ".")
        old = model.graph.initializers[name].const_value
        assert old is not None
        entries = np.broadcast_to(np.asarray(values, np.float32), tuple(old.shape.numpy())).copy()
        tensor = ir.Tensor(entries, name=name, metadata_props=dict(old.metadata_props))
        model.graph.initializers[name].const_value = tensor
    model.metadata_props.clear()
    return model


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def switched(a: object, b: object, per_channel: bool = False) -> ir.Model:
    return trained(AddActiSwitch(per_channel=per_channel).grow(mlp()).model, a__actiswitch__a=a, a__actiswitch__b=b)


EXACT: dict[str, tuple[Callable[[], ir.Model], list[str], str]] = {
    "plain": (lambda: switched(0, 1), ["MatMul", "Relu", "MatMul"], "f(x)"),
    "linear": (lambda: switched(1, 0), ["MatMul", "MatMul"], "x"),
    "scaled": (lambda: switched(0.3, 0), ["MatMul", "Mul", "MatMul"], "a·x"),
    "scaled per channel": (
        lambda: switched(random(8), 0, True),
        ["MatMul", "Mul", "MatMul"],
        "a·x",
    ),
    "leaky": (lambda: switched(0.25, 0.75), ["MatMul", "LeakyRelu", "MatMul"], "leaky ReLU"),
    "leaky per channel": (
        lambda: switched(np.arange(8) / 8, 1 - np.arange(8) / 8, True),
        ["MatMul", "PRelu", "MatMul"],
        "leaky ReLU",
    ),
    "inserted": (
        lambda: trained(InsertIdentity(activation="gelu").grow(mlp()).model),
        ["MatMul", "Relu", "Gemm", "MatMul"],
        "x",
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_converged_exactly_folds_exactly(case: str) -> None:
    make, left, becomes = EXACT[case]
    model = make()
    result = Fold()(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == left
    assert [f["becomes"] for f in result.plan["folds"]] == [becomes]
    unused = {k for k, v in result.model.graph.initializers.items() if not v.uses()}
    assert not unused
    assert result.plan["parameters"]["old"] >= result.plan["parameters"]["new"]
    feeds = {"x": random(3, 4)}
    assert np.allclose(run(model, feeds)[0], run(result.model, feeds)[0], atol=1e-6)


def test_deepening_and_folding_give_back_the_network() -> None:
    model = mlp()
    folded = Fold()(onnxgrow.add_actiswitch(model).model)
    assert ops(folded.model) == ops(model)
    assert list(folded.model.graph.initializers) == list(model.graph.initializers)
    assert [h["recipe"]["pass"] for h in folded.growth_map.history] == ["actiswitch"]


def test_switches_in_a_row_fold_together() -> None:
    graph = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u) r = Relu(h) a = Tanh(r) y = MatMul(a, v) }"
    grown = AddActiSwitch().grow(model_of(graph, {"u": (4, 8), "v": (8, 3)})).model
    factors = {"r__actiswitch__a": 1, "r__actiswitch__b": 0, "a__actiswitch__a": 1, "a__actiswitch__b": 0}
    result = Fold()(trained(grown, **factors))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == ["MatMul", "MatMul"]


def test_a_switch_around_a_switch_folds_with_it() -> None:
    inner = AddActiSwitch().grow(mlp()).model
    plain = {name: (v, dict(v.const_value.metadata_props)) for name, v in inner.graph.initializers.items()}
    for value, metadata in plain.values():  # without their role they look like an activation of the user's own
        if metadata:
            value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    nested = AddActiSwitch("a.actiswitch/sum").grow(inner).model
    for value, metadata in plain.values():
        held = nested.graph.initializers[value.name]
        if metadata:
            held.const_value = ir.Tensor(held.const_value.numpy(), name=value.name, metadata_props=metadata)
    nested.metadata_props.clear()
    result = Fold()(nested)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == ops(mlp())


def test_switches_whose_factors_share_a_scope_are_told_apart() -> None:
    grown = AddActiSwitch().grow(InsertIdentity().grow(mlp()).model).model
    assert {"a.actiswitch.a", "a.actiswitch.a_2"} <= set(grown.graph.initializers)
    folded = Fold().grow(grown)
    assert [f["name"] for f in folded.plan["folds"]] == ["a.actiswitch/sum_2", "a.actiswitch/sum"]
    both = trained(grown, a__actiswitch__b=0.5, a__actiswitch__a_2=0.5)
    with pytest.raises(UnsupportedError) as refusal:
        Fold()(both)
    assert all(f"{name}: its factors have not converged" in str(refusal.value) for name in ("sum", "sum_2"))


def test_a_tolerance_is_measured_and_never_called_equivalent() -> None:
    model = switched(1e-3, 0.999)
    with pytest.raises(UnsupportedError, match=r"a is 0.001, b is 0.999"):
        Fold()(model)
    with pytest.raises(NotEquivalentError, match="--max-change"):
        Fold(tolerance=0.01)(model)
    result = Fold(tolerance=0.01, proof=Proof(max_change=0.05))(model)
    assert result.report.verdict is Verdict.CHANGED
    assert result.report.change is not None
    assert 0 < result.report.change < 0.05
    assert ops(result.model) == ["MatMul", "Relu", "MatMul"]


def test_channels_that_did_not_all_converge_keep_their_switch() -> None:
    factors = np.array([0, 0, 0, 0, 0, 0, 0, 0.5])
    with pytest.raises(UnsupportedError, match=r"a is 0 to 0.5"):
        Fold()(switched(factors, 1, True))


MERGED: dict[str, tuple[Callable[[], ir.Model], Mapping[str, tuple[int, ...]]]] = {
    "MatMul, Gemm": (
        lambda: trained(
            InsertIdentity(bias=False).grow(mlp()).model, a__identity__weight=random(8, 8), a__actiswitch__a=0.7
        ),
        {"y.merged.weight": (8, 3)},
    ),
    "1x1 without bias into a padded 3x3": (
        lambda: trained(InsertIdentity(bias=False).grow(cnn()).model, a__identity__weight=random(6, 6, 1, 1)),
        {"y.merged.weight": (2, 6, 3, 3)},
    ),
    "3x3 into a strided 1x1": (
        lambda: trained(
            InsertIdentity(kernel=3, bias=False).grow(cnn("strides=[2,2]", 1)).model,
            a__identity__weight=random(6, 6, 3, 3),
        ),
        {"y.merged.weight": (2, 6, 3, 3)},
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_linear_layers_merge_within_rounding(case: str) -> None:
    make, weights = MERGED[case]
    result = Fold(merge=True, proof=LOOSE)(make())
    assert result.report.verdict is Verdict.CHANGED
    assert "merged_into" in result.plan["folds"][0]
    assert len(result.growth_map.removed) > 4
    assert {k: tuple(result.growth_map.tensors) for k in weights} == {k: tuple(weights) for k in weights}
    stored = constants(result.model)
    assert {k: tuple(stored[k].shape.numpy()) for k in weights} == weights
    assert result.plan["flops"]["new"] < result.plan["flops"]["old"]


def test_a_bias_merges_where_nothing_is_padded() -> None:
    graph = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u) a = Relu(h) m = MatMul(a, v) y = Add(m, c) }"
    model = model_of(graph, {"u": (4, 8), "v": (8, 3), "c": (3,)})
    grown = trained(InsertIdentity().grow(model).model, a__identity__weight=random(8, 8), a__identity__bias=random(8))
    result = Fold(merge=True, proof=LOOSE)(grown)
    assert ops(result.model) == ["MatMul", "Relu", "MatMul", "Add"]
    assert set(result.growth_map.tensors) == {"m.merged.weight", "m.merged.bias"}


NOT_MERGED: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "two padded 3x3": (
        lambda: trained(InsertIdentity(kernel=3, bias=False).grow(cnn()).model, a__identity__weight=random(6, 6, 3, 3)),
        "padded borders would differ",
    ),
    "a bias in front of pads": (
        lambda: trained(InsertIdentity().grow(cnn()).model, a__identity__bias=random(6)),
        "missing where the second pads",
    ),
    "no place for the bias": (
        lambda: trained(InsertIdentity().grow(mlp()).model, a__identity__bias=random(8)),
        "no place for the first's bias",
    ),
    "groups": (
        lambda: trained(InsertIdentity(depthwise=True).grow(cnn()).model),
        "groups and dilations are not merged",
    ),
}


@pytest.mark.parametrize("case", NOT_MERGED)
def test_what_does_not_merge_exactly_stays_two_layers(case: str) -> None:
    make, reason = NOT_MERGED[case]
    result = Fold(merge=True, proof=LOOSE)(make())
    assert result.report.verdict is Verdict.EQUIVALENT
    assert len(result.plan["notes"]) == 1
    assert reason in result.plan["notes"][0]


def test_a_network_without_switches_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no ActiSwitches"):
        Fold()(mlp())
    with pytest.raises(UsageError):
        Fold(tolerance=-1)


def test_the_certificate_sees_a_fold_of_what_did_not_converge() -> None:
    for a, b in ((0.0, 0.999), (0.25, 0.74)):
        model = switched(a, b)
        made = Fold(tolerance=0.3).grow(model)
        claimed = replace(made.growth_map, exact=True)
        made.model.metadata_props["onnxgrow.growth_map"] = claimed.dumps()
        report = verify(model, made.model, claimed, tiers=("accounting", "certificate"), provider="cpu")
        assert report.verdict is Verdict.NOT_EQUIVALENT
        assert {t.name: t.status.value for t in report.tiers[:2]} == {"accounting": "passed", "certificate": "failed"}


def test_a_leaky_relu_of_another_slope_is_found() -> None:
    model = switched(0.25, 0.75)
    made = Fold().grow(model)
    node = next(n for n in made.model.graph if n.op_type == "LeakyRelu")
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.26)
    report = verify(model, made.model, tiers=("certificate",), provider="cpu")
    assert any("its slope is not a" in f.reason for f in report.tiers[1].findings)


def test_a_merged_weight_is_never_part_of_an_exact_map() -> None:
    make, _ = MERGED["MatMul, Gemm"]
    model = make()
    made = Fold(merge=True).grow(model)
    claimed = replace(made.growth_map, exact=True)
    made.model.metadata_props["onnxgrow.growth_map"] = claimed.dumps()
    report = verify(model, made.model, claimed, tiers=("accounting",), provider="cpu")
    assert any("stands for none of the original" in f.reason for f in report.tiers[0].findings)
