"""The float64 tier: what it compares, and faults that float32 cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from by_hand import copy, grown_cnn, grown_mlp, mlp, set_weight, text_model, weight

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.growth_map import GrowthMap, TensorGrowth
from onnxgrow.verify.float64 import run_tier
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.kernels import KERNELS, Call
from onnxgrow.verify.float64.rerandomise import rerandomise
from onnxgrow.verify.float64.twins import Noise
from onnxgrow.verify.report import TierStatus

RNG = np.random.default_rng(5)
X = {"x": RNG.normal(size=(5, 6)).astype(np.float32)}
IMAGES = {"x": RNG.normal(size=(2, 3, 9, 9)).astype(np.float32)}


# ---- comparison ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ([1.0, np.nan], [1.0, 2.0], "NaN"),
        ([1.0, np.inf], [1.0, -np.inf], "infinities"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "shape"),
        ([1, 2], [1, 3], "1 of 2 entries differ"),
    ],
)
def test_difference_names_what_no_tolerance_covers(old: list[float], new: list[float], fault: str) -> None:
    assert fault in difference(np.array(old), np.array(new)).fault


def test_difference_is_relative_to_the_largest_finite_entry() -> None:
    found = difference(np.array([0.0, -4.0, np.inf]), np.array([1.0, -4.0, np.inf]))
    assert not found.fault
    assert found.relative == 0.25


def test_noise_is_one_ulp_and_repeatable() -> None:
    x = RNG.normal(size=1000)
    moved = Noise(3)(x)
    relative = np.abs(moved / x - 1)
    assert relative.min() > 0
    assert relative.max() <= 2**-51
    assert 300 < np.count_nonzero(np.abs(moved) > np.abs(x)) < 700
    assert np.array_equal(moved, Noise(3)(x))
    assert not np.array_equal(moved, Noise(4)(x))


@pytest.mark.parametrize("epsilon", [2.0**-52, 2.0**-23])
def test_noise_of_a_number_without_axes_is_measured(epsilon: float) -> None:
    x = np.array(0.3)
    moved = Noise(3)(x, epsilon)
    assert isinstance(moved, np.ndarray)
    assert not difference(x, moved).fault
    assert difference(x, moved).relative > 0


# ---- the tier -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "feeds"), [(grown_mlp, X), (grown_cnn, IMAGES)])
def test_exact_growth_passes_and_every_value_is_compared(make, feeds) -> None:
    original, grown, growth = make()
    result = run_tier(original, grown, growth, [feeds])
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["values_compared"] == len(list(original.graph))
    assert result.figures["larger_new_weights"]["largest_difference"] < 1e-14


def test_channels_in_the_middle_are_mapped() -> None:
    original, grown, growth = grown_mlp()
    middle = AxisMap((Segment(2, 0), Segment(3, fact="any"), Segment(2, 2)))
    order = [0, 1, 4, 5, 6, 2, 3]
    for name, axis in (("w1", 1), ("b1", 0), ("w2", 0)):
        set_weight(grown, name, np.take(weight(grown, name), order, axis=axis))
    moved = replace(
        growth,
        values={k: replace(v, axes={1: middle}) for k, v in growth.values.items()},
        tensors={k: replace(t, axes=dict.fromkeys(t.axes, middle)) for k, t in growth.tensors.items()},
    )
    assert run_tier(original, grown, moved, [X]).status is TierStatus.PASSED
    assert run_tier(original, grown, growth, [X]).status is TierStatus.FAILED  # the map that does not tell


def test_a_scale_error_of_a_millionth_is_seen_though_float32_hides_it() -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[1, 1] = np.nextafter(w[1, 1], np.float32(9))  # one ulp of one weight
    set_weight(grown, "w2", w)
    result = run_tier(original, grown, growth, [X])
    assert result.status is TierStatus.FAILED
    assert result.figures["outputs_difference"] < 1e-6
    assert {f.subject for f in result.findings} == {"y"}


@pytest.mark.parametrize("size", [1e-6, 1e-12])
def test_a_new_entry_that_should_be_zero_is_seen(size: float) -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[5, 0] = size
    set_weight(grown, "w2", w)
    assert run_tier(original, grown, growth, [X]).status is TierStatus.FAILED


def test_larger_new_weights_show_what_hides_below_the_bound() -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[4:, :] = 4e-16  # below the bound of the plain comparison
    set_weight(grown, "w2", w)
    plain = run_tier(original, grown, replace(growth, exact=False), [X])
    larger = run_tier(original, grown, growth, [X])
    assert plain.status is TierStatus.PASSED
    assert larger.figures["larger_new_weights"]["largest_difference"] > plain.figures["largest_difference"]


def test_a_fault_in_front_of_a_saturated_output_is_seen() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  z = Gemm(a, w2, b2)  y = Sigmoid(z) }"""
    base = mlp()
    weights = {name: weight(base, name) for name in ("w1", "b1", "w2", "b2")} | {"b2": np.full(3, -600, np.float32)}
    original, grown, growth = grown_mlp(text_model(text, weights))
    w = weight(grown, "w2")
    w[5, 0] = 1e-3
    set_weight(grown, "w2", w)
    result = run_tier(original, grown, growth, [X])
    assert result.status is TierStatus.FAILED
    assert "z" in {f.subject for f in result.findings}


def test_an_unlisted_shape_change_fails() -> None:
    original, grown, growth = grown_mlp()
    result = run_tier(original, grown, replace(growth, values={}), [X])
    assert result.status is TierStatus.FAILED
    assert any("shape" in f.reason for f in result.findings)


def test_a_map_that_does_not_fit_the_value_fails() -> None:
    original, grown, growth = grown_mlp()
    wrong = AxisMap.from_source([0, 1, 2, 3, -1])
    values = {k: replace(v, axes={1: wrong}) for k, v in growth.values.items()}
    assert run_tier(original, grown, replace(growth, values=values), [X]).status is TierStatus.FAILED


def test_a_result_that_cannot_be_evaluated_fails() -> None:
    original, grown, growth = grown_mlp()
    set_weight(grown, "w2", weight(grown, "w2")[:-1])
    result = run_tier(original, grown, growth, [X])
    assert result.status is TierStatus.FAILED
    assert "Gemm" in result.findings[0].reason


def test_a_lost_value_fails() -> None:
    original = mlp()
    grown = copy(original)
    gemm = next(iter(grown.graph))
    gemm.outputs[0].name = "renamed"
    result = run_tier(original, grown, GrowthMap(), [X])
    assert result.status is TierStatus.FAILED
    assert "h" in {f.subject for f in result.findings}


def test_without_a_double_implementation_the_tier_has_not_run() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) { y = RandomNormalLike(x) }'
    model = text_model(text, {})
    result = run_tier(model, copy(model), GrowthMap(), [X])
    assert result.status is TierStatus.NOT_RUN
    assert result.findings[0].subject == "RandomNormalLike"


def test_without_inputs_the_tier_has_not_run() -> None:
    original, grown, growth = grown_mlp()
    assert run_tier(original, grown, growth, []).status is TierStatus.NOT_RUN


def test_a_float_fault_is_not_excused_by_rounding_units() -> None:
    # noise on the input of Floor would flip whole units and blow the bound up
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) {
        r = Round(x)  f = Floor(r)  y = Mul(f, s) }"""
    original = text_model(text, {"s": np.ones(6, np.float32)})
    grown = copy(original)
    set_weight(grown, "s", np.full(6, 1 + 1e-6, np.float32))
    assert run_tier(original, grown, GrowthMap(), [X]).status is TierStatus.FAILED


def test_unrounded_values_of_a_formula_replace_the_stored_ones() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) { a = Mul(x, s) y = Mul(a, t) }'
    original = text_model(text, {"s": np.ones(6, np.float32), "t": np.ones(6, np.float32)})
    grown = copy(original)
    third = np.full(6, 1 / 3)
    set_weight(grown, "s", third.astype(np.float32))
    set_weight(grown, "t", np.full(6, 3, np.float32))
    growth = GrowthMap(tensors={"s": TensorGrowth(formula="third"), "t": TensorGrowth(formula="third")})
    rounded = run_tier(original, grown, growth, [X])
    exact = run_tier(original, grown, growth, [X], {"s": third})
    assert rounded.figures["outputs_difference"] > 1e-9 > 1e-14 > exact.figures["outputs_difference"]


def test_rerandomising_moves_free_entries_only() -> None:
    _, grown, growth = grown_cnn()
    found = rerandomise(grown, growth, 3.0)
    assert set(found) == {"w1", "b1", "scale", "bias", "mean", "var"}  # w2's new entries are zeros
    for name, array in found.items():
        stored = weight(grown, name).astype(np.float64)
        assert np.array_equal(array[:4], stored[:4])
        assert np.allclose(np.abs(array[4:]), 3 * np.abs(stored[4:]), rtol=1e-15)
    assert (found["var"] > 0).all()


@pytest.mark.parametrize(("widest", "status"), [(0, TierStatus.NOT_RUN), (4, TierStatus.FAILED)], ids=["both", "one"])
def test_only_what_the_original_can_evaluate_counts_against_the_result(
    monkeypatch: pytest.MonkeyPatch, widest: int, status: TierStatus
) -> None:
    original, grown, growth = grown_mlp()
    key = ("", next(n.op_type for n in original.graph if n.outputs[0].name == "a"))
    kernel = KERNELS[key]

    def narrow(call: Call) -> tuple[np.ndarray, ...]:
        if call.inputs[0].shape[1] > widest:
            raise ValueError("too wide")
        return kernel(call)

    monkeypatch.setitem(KERNELS, key, narrow)
    result = run_tier(original, grown, growth, [X])
    assert result.status is status
    assert "too wide" in result.findings[0].reason


def test_every_kernel_is_named_like_an_operator() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas()}
    runtime_only = {"SimplifiedLayerNormalization"}
    assert {op for domain, op in KERNELS if domain == ""} - known <= runtime_only


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,6] x) => (float[N,3] y) {
    h = Gemm(x, w1, b1)  a = own.Act(h)  y = Gemm(a, w2, b2) }
<opset_import: ["" : 17], domain: "own"> Act (v) => (u) { s = Sigmoid(v)  u = Mul(s, v) }"""


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: weight(model, name) for name in model.graph.initializers}


def test_functions_of_the_model_are_evaluated_and_the_model_is_left_alone() -> None:
    original, grown, growth = grown_mlp(text_model(FUNCTION, weights_of(mlp())))
    result = run_tier(original, grown, growth, [X])
    assert result.status is TierStatus.PASSED, result.findings
    assert grown.functions
    assert [node.op_type for node in grown.graph] == ["Gemm", "Act", "Gemm"]
    w = weight(grown, "w2")
    w[6, 2] = 1e-6
    set_weight(grown, "w2", w)
    assert run_tier(original, grown, growth, [X]).status is TierStatus.FAILED


def test_large_models_are_converted_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    original, grown, growth = grown_mlp()
    small = run_tier(original, grown, growth, [X])
    monkeypatch.setattr("onnxgrow.verify.float64.prepared.SMALL", 0)
    large = run_tier(original, grown, growth, [X])
    assert large.status is TierStatus.PASSED
    assert dict(large.figures) == dict(small.figures)


def test_initializers_that_are_inputs_keep_their_defaults() -> None:
    text = (
        """<ir_version: 3, opset_import: ["" : 9]> g (float[2,3] x, float[3] s) => (float[2,3] y) { y = Mul(x, s) }"""
    )
    original = text_model(text, {"s": np.arange(3, dtype=np.float32)})
    grown = copy(original)
    feeds = {"x": np.ones((2, 3), np.float32)}
    assert run_tier(original, grown, GrowthMap(), [feeds]).status is TierStatus.PASSED
    set_weight(grown, "s", np.array([0, 1, 3], np.float32))
    assert run_tier(original, grown, GrowthMap(), [feeds]).status is TierStatus.FAILED
    missing = run_tier(original, grown, GrowthMap(), [{}])
    assert missing.status is TierStatus.NOT_RUN
    assert missing.findings[0].subject == "input x"


def test_half_precision_weights_are_compared_in_double() -> None:
    original, grown, growth = grown_mlp(mlp_of(np.float16))
    feeds = {"x": X["x"].astype(np.float16)}
    assert run_tier(original, grown, growth, [feeds]).status is TierStatus.PASSED
    w = weight(grown, "w2")
    w[5, 0] = 6e-8  # the smallest half
    set_weight(grown, "w2", w)
    assert run_tier(original, grown, growth, [feeds]).status is TierStatus.FAILED


def mlp_of(dtype: type) -> ir.Model:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float16[N,6] x) => (float16[N,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  y = Gemm(a, w2, b2) }"""
    return text_model(text, {name: w.astype(dtype) for name, w in weights_of(mlp()).items()})


BRANCHES = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
    h = Gemm(x, w1, b1)  a = Relu(h)  z = Gemm(a, w2, b2)  m = ReduceSum<keepdims = 0>(z)
    zero = Constant<value = float {0}>()
    c = Greater(m, zero)
    y = If (c) <then_branch = t () => (float[N,3] p) { p = Mul(z, z) },
                else_branch = e () => (float[N,3] q) { q = Neg(z) }> }"""


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_read_captured_values(sign: int) -> None:
    weights = weights_of(mlp()) | {"b2": np.full(3, 50 * sign, np.float32)}
    original, grown, growth = grown_mlp(text_model(BRANCHES, weights))
    result = run_tier(original, grown, growth, [X])
    assert result.status is TierStatus.PASSED, result.findings
    w = weight(grown, "w2")
    w[5, 0] = 1e-5
    set_weight(grown, "w2", w)
    faults = {f.subject for f in run_tier(original, grown, growth, [X]).findings}
    assert {"z", "y"} <= faults
