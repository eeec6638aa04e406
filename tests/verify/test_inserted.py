"""Inserted layers under verification: whatever is wrong with one, accounting or the certificate says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.errors import NotEquivalentError
from onnxgrow.growth_map import GrowthMap, NodeChange, TensorGrowth, ValueGrowth
from onnxgrow.io import tensor_digest
from onnxgrow.passes import AddActiSwitch, EnlargeKernel, InsertIdentity
from onnxgrow.passes.base import seal
from onnxgrow.verify import alive_inserted
from onnxgrow.verify.contents import content_difference
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

CNN = """g (float[2,3,6,6] x) => (float[2,2,6,6] y) { c = Conv(x, u)  r = Relu(c)  y = Conv(r, v) }"""
MLP = """g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u)  r = Relu(h)  y = MatMul(r, v) }"""
TIERS = ("accounting", "certificate")


def cnn() -> ir.Model:
    return model_of(CNN, {"u": (4, 3, 1, 1), "v": (2, 4, 1, 1)})


def mlp() -> ir.Model:
    return model_of(MLP, {"u": (4, 8), "v": (8, 3)})


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph if n.outputs[0].name == name)


def set_tensor(model: ir.Model, name: str, values: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.tensor(values, name=name)


def stored(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.array(tensor.numpy())


def findings(original: ir.Model, model: ir.Model, growth_map: GrowthMap) -> dict[str, list[str]]:
    """Tier → its findings, with the digests of what is there now: the faults must be seen by themselves."""
    tensors = {
        k: replace(t, sha256=tensor_digest(model.graph.initializers[k].const_value))
        for k, t in growth_map.tensors.items()
    }
    found = seal(model, replace(growth_map, tensors=tensors))
    report = verify(original, model, found, tiers=TIERS, provider="cpu")
    return {t.name: [f"{f.subject}: {f.reason}" for f in t.findings] for t in report.tiers if t.name in TIERS}


def grown(model: ir.Model, step: InsertIdentity | AddActiSwitch) -> tuple[ir.Model, GrowthMap]:
    made = step.grow(model)
    return made.model, made.growth_map


def shifted_tap(model: ir.Model) -> None:
    """The public fault: the 1 at tap k//2 + 1."""
    weight = stored(model, "r.identity.weight")
    set_tensor(model, "r.identity.weight", np.roll(weight, 1, axis=2))


def entry(name: str, index: tuple[int, ...], value: float) -> Callable[[ir.Model], None]:
    def change(model: ir.Model) -> None:
        values = stored(model, name)
        values[index] = value
        set_tensor(model, name, values)

    return change


def attribute(name: str, value: list[int]) -> Callable[[ir.Model], None]:
    def change(model: ir.Model) -> None:
        node(model, "r.identity/conv").attributes[name] = ir.AttrInt64s(name, value)

    return change


FAULTS: dict[str, tuple[Callable[[ir.Model], None], str, str]] = {
    "shifted tap": (shifted_tap, "not those of the formula", "own position"),
    "entry": (entry("r.identity.weight", (1, 2, 0, 0), 1e-6), "not those of the formula", "no identity"),
    "lost one": (entry("r.identity.weight", (3, 3, 1, 1), 0), "not those of the formula", "no identity"),
    "bias": (entry("r.identity.bias", (2,), 1e-30), "not those of the formula", "bias is not zero"),
    "pads": (attribute("pads", [2, 1, 0, 1]), "", "own position"),
    "dilation without pads": (attribute("dilations", [2, 1]), "", "axis 2 went from 6 to 4"),
    "strides": (attribute("strides", [2, 2]), "", "axis 2 went from 6 to 3"),
    "factor a": (entry("r.actiswitch.a", (), 1.0001), "not those of the formula", "neither factor is 1"),
    "factor b": (entry("r.actiswitch.b", (), 1e-3), "not those of the formula", "neither term is proved to be zero"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_inserted_layers_are_found(fault: str) -> None:
    change, accounting, certificate = FAULTS[fault]
    original = cnn()
    model, growth_map = grown(original, InsertIdentity(kernel=3))
    assert findings(original, model, growth_map) == {"accounting": [], "certificate": []}
    change(model)
    found = findings(original, model, growth_map)
    assert any(certificate in line for line in found["certificate"])
    assert any(accounting in line for line in found["accounting"]) if accounting else not found["accounting"]


def test_a_dilated_identity_with_its_pads_is_one() -> None:
    original = cnn()
    model, growth_map = grown(original, InsertIdentity(kernel=3, actiswitch=False))
    attribute("dilations", [2, 1])(model)
    attribute("pads", [2, 1, 2, 1])(model)
    assert findings(original, model, growth_map) == {"accounting": [], "certificate": []}


@pytest.mark.parametrize("name", ["r.identity/gemm", "r.actiswitch/linear", "r.actiswitch/sum"])
def test_a_node_that_is_not_listed_is_a_fault(name: str) -> None:
    original = mlp()
    model, growth_map = grown(original, InsertIdentity())
    listed = replace(growth_map, inserted=tuple(i for i in growth_map.inserted if i != name))
    found = findings(original, model, listed)
    assert any("a new node makes it, which the growth map does not list" in line for line in found["accounting"])


def test_a_term_that_may_overflow_is_no_zero() -> None:
    original = mlp()
    model, growth_map = grown(original, InsertIdentity(activation="tanh"))
    switch = node(model, "r.actiswitch/tanh/tanh")
    switch.op_type = "Exp"
    found = findings(original, model, growth_map)
    assert found["certificate"][0] == "r.actiswitch/sum: Add: neither term is proved to be zero"


def test_a_new_tensor_may_not_be_read_by_an_old_node() -> None:
    original = mlp()
    model, growth_map = grown(original, InsertIdentity(actiswitch=False))
    weight = model.graph.initializers["r.identity.weight"]
    node(model, "h").replace_input_with(1, weight)
    listed = replace(growth_map, nodes={**growth_map.nodes, "h": NodeChange({}, {1: ("u", "r.identity.weight")})})
    assert any("something old reads" in line for line in findings(original, model, listed)["accounting"])


def test_an_old_tensor_may_not_pass_as_a_new_one() -> None:
    original = mlp()
    set_tensor(original, "u", np.ones((4, 8), np.float32))
    model, growth_map = grown(original, InsertIdentity(actiswitch=False))
    listed = replace(growth_map, tensors={**growth_map.tensors, "u": TensorGrowth(formula="ones")})
    assert any("stands for an old one" in line for line in findings(original, model, listed)["accounting"])


def test_a_layer_may_not_stand_for_another_value() -> None:
    original = mlp()
    model, growth_map = grown(original, InsertIdentity(actiswitch=False))
    values = {**growth_map.values, "r.identity/gemm": ValueGrowth({}, "h")}
    found = findings(original, model, replace(growth_map, values=values))
    assert any("does not stand for 'h'" in line for line in found["certificate"])


def test_a_wrapped_activation_keeps_its_own_value() -> None:
    original = mlp()
    model, growth_map = grown(original, AddActiSwitch())
    right = node(model, "r.actiswitch/nonlinear")
    right.replace_input_with(1, node(model, "h").outputs[0])
    assert findings(original, model, growth_map)["certificate"]


@pytest.mark.parametrize(
    ("formula", "values", "good"),
    [
        ("identity", np.eye(3), True),
        ("identity", np.ones((3, 3)), False),
        ("identity", np.eye(3)[:2], False),
        ("identity", np.eye(3)[:, :, None], True),
        ("identity", np.eye(3)[:, :, None] * [0, 1, 0], True),
        ("identity", np.eye(3)[:, :, None] * [1, 0, 0], False),
        ("identity", np.eye(3)[:, :, None] * [0, 0, 1, 0], True),
        ("identity", np.ones((4, 1, 1)), True),
        ("identity", np.tile(np.eye(2), (2, 1))[:, :, None], True),
        ("identity", -np.zeros((3, 1, 1)), False),
        ("zeros", np.zeros(4), True),
        ("zeros", -np.zeros(4), False),
        ("ones", np.ones(()), True),
        ("filled", np.full((2, 1), 0.3), True),
        ("filled", np.full((2, 1), 0.31), False),
    ],
)
def test_contents_are_computed_again_entry_by_entry(formula: str, values: np.ndarray, good: bool) -> None:
    growth = TensorGrowth(formula=formula, factor=0.3 if formula == "filled" else 1.0)
    for dtype in (np.float16, np.float32, np.float64):
        assert bool(content_difference(growth, ir.tensor(values.astype(dtype)))) is not good


def test_a_layer_that_nothing_flows_through_cannot_learn() -> None:
    original = mlp()
    set_tensor(original, "u", np.zeros((4, 8), np.float32))
    model, growth_map = grown(original, InsertIdentity())
    feeds = {"x": np.ones((2, 4), np.float32)}
    assert [(a.channels, a.alive) for a in alive_inserted.check(model, growth_map, [feeds])] == [(8, 0), (2, 0)]


def test_half_dead_inputs_are_counted() -> None:
    original = mlp()
    weight = np.ones((4, 8), np.float32)
    weight[:, 5:] = -1
    set_tensor(original, "u", weight)
    model, growth_map = grown(original, InsertIdentity())
    found = alive_inserted.check(model, growth_map, [{"x": np.ones((2, 4), np.float32)}])
    assert [(a.name, a.channels, a.alive) for a in found] == [("r.identity", 8, 5), ("r.actiswitch", 2, 2)]


def test_without_the_other_tiers_nothing_is_equivalent() -> None:
    original = mlp()
    model, _ = grown(original, InsertIdentity())
    report = verify(original, model, tiers=TIERS, provider="cpu")
    assert report.verdict is Verdict.UNPROVED
    assert [t.status for t in report.tiers[:2]] == [TierStatus.PASSED, TierStatus.PASSED]


def test_functions_that_cannot_be_evaluated_leave_it_unproved() -> None:
    """A function of another opset than the model's is not inlined: what was not measured is said."""
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y) { c = Conv(x, u)  a = my.Act(c)  t = Tanh(a)  y = Conv(t, v) }
        <domain: "my", opset_import: ["": 16]> Act (p) => (q) { q = Relu(p) }"""
    proto = onnx.parser.parse_model(text)
    for name in ("u", "v"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), name))
    for step in (InsertIdentity(), EnlargeKernel("u", to=3)):
        with pytest.raises(NotEquivalentError) as caught:
            step(proto)
        assert caught.value.report.verdict is Verdict.UNPROVED
        assert all(a.alive is None for a in caught.value.report.alive)
