"""ActiSwitch: exact at its exact starts whatever f, measured at others, and never a 0 · Inf."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of, run

import onnxgrow
from onnxgrow import names
from onnxgrow.analysis.study import study
from onnxgrow.concrete.infer import concretize
from onnxgrow.errors import NotEquivalentError, UnsupportedError
from onnxgrow.passes import AddActiSwitch, InsertIdentity, Proof
from onnxgrow.passes.deepen.functions import AUTO, FUNCTIONS
from onnxgrow.passes.deepen.places import Places
from onnxgrow.verify.certificate.bounded import is_finite
from onnxgrow.verify.certificate.side import Side
from onnxgrow.verify.report import Verdict

MLP = "g (float[n,4] x) => (float[n,3] y) {{ h = MatMul(x, u) {} y = MatMul(a, v) }}"
WEIGHTS = {"u": (4, 8), "v": (8, 3)}
NUMBERS = {name: np.float32(value) for name, value in {"half": 0.5, "one": 1, "root": 2**0.5, "three": 3}.items()}

ACTIVATIONS = {
    "Relu": "a = Relu(h)",
    "LeakyRelu": "a = LeakyRelu(h)",
    "Sigmoid+Mul": "s = Sigmoid(h) a = Mul(h, s)",
    "Div+Erf+Add+Mul+Mul": "d = Div(h, root) e = Erf(d) p = Add(e, one) m = Mul(h, p) a = Mul(m, half)",
    "Softplus+Tanh+Mul": "s = Softplus(h) t = Tanh(s) a = Mul(h, t)",
    "HardSigmoid+Mul": "s = HardSigmoid(h) a = Mul(h, s)",
    "Tanh": "a = Tanh(h)",
}


def mlp(activation: str = "a = Relu(h)", **options: object) -> ir.Model:
    return model_of(MLP.format(activation), {**WEIGHTS, **NUMBERS}, **options)


def outputs(model: ir.Model) -> np.ndarray:
    return run(model, {"x": np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)})[0]


@pytest.mark.parametrize("ops", ACTIVATIONS)
def test_an_activation_of_any_number_of_nodes_is_wrapped_exactly(ops: str) -> None:
    result = AddActiSwitch()(mlp(ACTIVATIONS[ops]))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [layer["activation"] for layer in result.plan["layers"]] == [ops]
    inserted = {n.op_type: [v.name for v in n.inputs if v] for n in result.model.graph if n.name}
    assert inserted["Add"] == ["a.actiswitch/linear", "a.actiswitch/nonlinear"]
    assert {"h", "a"} <= {v.name for n in result.model.graph if n.op_type == "Mul" and n.name for v in n.inputs if v}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("opset", [9, 17])
def test_every_function_starts_linear_behind_a_new_layer(function: str, opset: int) -> None:
    result = InsertIdentity(activation=function)(mlp(opset=opset))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(a.alive == a.channels for a in result.report.alive)


REFERENCE = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(__import__("math").erf)(x / np.sqrt(2))),
    "gelu-tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "hard-swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("function", REFERENCE)
def test_functions_are_what_their_names_say(function: str) -> None:
    graph = "g (float[n,4] x) => (float[n,4] y) { h = MatMul(x, one) y = MatMul(h, one) }"
    model = model_of(graph, {"one": np.eye(4, dtype=np.float32)})
    step = InsertIdentity("h", activation=function, start=(0.0, 1.0), proof=Proof(max_change=10.0))
    result = step(model)
    assert result.report.verdict is Verdict.CHANGED
    x = np.linspace(-9, 9, 40, dtype=np.float32).reshape(10, 4)
    assert np.allclose(run(result.model, {"x": x})[0], REFERENCE[function](x.astype(np.float64)), atol=2e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_no_finite_input_overflows_on_its_way_through_f(function: str, dtype: str) -> None:
    kind = {"float": np.float32, "float16": np.float16}[dtype]
    graph = f"g ({dtype}[n,1] x) => ({dtype}[n,1] y) {{ h = MatMul(x, one) y = MatMul(h, one) }}"
    model = model_of(graph, {"one": np.eye(1, dtype=kind)})
    grown = InsertIdentity("h", activation=function).grow(model).model
    top = float(np.finfo(kind).max) / 2
    x = np.array([-top, -1e4, -50, -1, -1e-7, 0, 1e-7, 1, 50, 1e4, top], kind).reshape(-1, 1)
    assert np.array_equal(run(grown, {"x": x})[0], x)


def test_the_certificate_knows_what_is_finite_and_what_is_not() -> None:
    graph = """g (float[4] x) => (float[4] y) {
        e = Exp(x)  s = Sigmoid(x)  m = Mul(x, s)  q = Mul(x, x)  t = Tanh(q)  b = Add(m, x)  y = Mul(e, t)
    }"""
    model = model_of(graph)
    side = Side(model, concretize(model, {"x": (4,)}))
    found = {name: is_finite(side, name, {"x"}.__contains__) for name in "xesmqtby"}
    assert found == {"x": True, "e": False, "s": True, "m": True, "q": False, "t": False, "b": True, "y": False}


@pytest.mark.parametrize("per_channel", [False, True])
def test_factors_are_marked_as_ours(per_channel: bool) -> None:
    graph = "g (float[n,3,h,w] x) => (float[n,2,h,w] y) { c = Conv(x, u) a = Relu(c) y = Conv(a, v) }"
    model = model_of(graph, {"u": (4, 3, 1, 1), "v": (2, 4, 1, 1)})
    result = onnxgrow.add_actiswitch(model, per_channel=per_channel)
    assert result.report.verdict is Verdict.EQUIVALENT
    factors = {k: v for k, v in result.model.graph.initializers.items() if k.startswith("a.actiswitch")}
    assert list(factors) == ["a.actiswitch.a", "a.actiswitch.b"]
    for value, number in zip(factors.values(), (0, 1), strict=True):
        assert value.const_value is not None
        assert value.const_value.metadata_props == {"onnxgrow.role": "actiswitch"}
        entries = value.const_value.numpy()
        assert entries.shape == ((4, 1, 1) if per_channel else ())
        assert (entries == number).all()


def test_another_start_is_measured_and_never_called_equivalent() -> None:
    model = mlp()
    with pytest.raises(NotEquivalentError, match="--max-change"):
        AddActiSwitch(start=(0.25, 0.75))(model)
    result = AddActiSwitch(start=(0.25, 0.75), proof=Proof(max_change=2.0))(model)
    assert result.report.verdict is Verdict.CHANGED
    assert result.report.change is not None
    assert result.report.change > 0.01
    assert result.growth_map.tensors["a.actiswitch.a"].formula == "filled"
    assert result.growth_map.tensors["a.actiswitch.a"].factor == 0.25


def test_the_function_fits_the_place_and_odd_choices_are_remarked_on() -> None:
    for activation, chosen in (("a = Relu(h)", "tanh"), ("a = Tanh(h)", "silu")):
        plan = InsertIdentity().plan(mlp(activation))
        assert [part.switch.function for part in plan.parts if part.switch] == [chosen]
        assert plan.notes == ()
    (note,) = InsertIdentity(activation="relu").plan(mlp()).notes
    assert "a is never negative" in note


def test_what_is_no_activation_is_not_wrapped() -> None:
    with pytest.raises(UnsupportedError, match="not the result of an activation"):
        AddActiSwitch("h")(mlp())


def test_an_activation_of_what_may_be_infinite_is_not_wrapped() -> None:
    model = model_of(MLP.format("m = Add(h, mask) a = Relu(m)"), {**WEIGHTS, "mask": np.full(8, -np.inf, np.float32)})
    with pytest.raises(UnsupportedError, match="may be infinite"):
        AddActiSwitch("a")(model)


BEHIND_INFINITIES = {
    "a border": "p = Constant<value = int64[4] {0, 1, 0, 1}>() b = Pad(h, p, low) m = Slice(b, one, nine, one)",
    "an expanded number": "s = Shape(h) e = Expand(low, s) c = Less(h, zero) m = Where(c, e, h)",
    "a filling": "s = Shape(h) e = ConstantOfShape<value = float[1] {-3e38}>(s) n = Max(e, h) m = Neg(n)",
    "entries written into it": "e = Expand(low, two) i = Expand(one, two) m = ScatterElements<axis = 1>(h, i, e)",
    "a body that reads it": """s = ReduceSum<keepdims = 0>(x) c = Greater(s, many)
        m = If(c) <then_branch = a () => (float[n,8] t) { l = Less(h, zero) t = Where(l, low, h) },
                   else_branch = b () => (float[n,8] e) { e = Identity(h) }>""",
    "a body that holds it": """s = ReduceSum<keepdims = 0>(x) c = Greater(s, many)
        m = If(c) <then_branch = a () => (float[n,8] t) { k = Constant<value = float {-3e38}>() t = Min(h, k) },
                   else_branch = b () => (float[n,8] e) { e = Identity(h) }>""",
}


@pytest.mark.parametrize("case", BEHIND_INFINITIES)
def test_infinities_are_followed_from_the_constants_that_hold_them(case: str) -> None:
    """Samples need not show them: a branch may not be taken."""
    constants = {"low": np.float32(-np.inf), "zero": np.float32(0), "many": np.float32(1e6)}
    indices = {"one": np.array([1]), "nine": np.array([9]), "two": np.array([1, 1])}
    body = f"{BEHIND_INFINITIES[case]} a = Sigmoid(m)"
    with pytest.raises(UnsupportedError, match="may be infinite"):
        AddActiSwitch("a").plan(model_of(MLP.format(body), {**WEIGHTS, **constants, **indices}))


def test_activations_in_a_row_read_each_others_switches() -> None:
    result = AddActiSwitch()(mlp("r = Relu(h) a = Tanh(r)"))
    assert result.report.verdict is Verdict.EQUIVALENT
    linear = next(n for n in result.model.graph if n.name == "a.actiswitch/linear")
    assert [v.name for v in linear.inputs if v] == ["a.actiswitch.a", "r.actiswitch/sum"]


def test_a_scaled_activation_is_one_activation() -> None:
    places = Places(study(mlp("r = Relu(h) a = Mul(r, half)")))
    assert places.automatic() == ["a"]


def test_the_command_offers_every_function() -> None:
    assert sorted(names.ACTIVATIONS) == sorted((AUTO, *FUNCTIONS))
