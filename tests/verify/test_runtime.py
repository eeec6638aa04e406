"""The runtime tier: sessions, providers, and faults seen by ONNX Runtime itself."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from by_hand import copy, grown_cnn, grown_mlp, mlp, set_weight, text_model, weight

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import EnvironmentFault, UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify import level, sessions
from onnxgrow.verify.noise import moved, moved_inputs, moved_weights
from onnxgrow.verify.report import TierStatus
from onnxgrow.verify.runtime import Pair, run_tier
from onnxgrow.verify.sessions import ModelSource, RuntimeSession, check_runtime, open_session, resolve_provider

RNG = np.random.default_rng(5)
X = {"x": RNG.normal(size=(5, 6)).astype(np.float32)}
IMAGES = {"x": RNG.normal(size=(2, 3, 9, 9)).astype(np.float32)}

has_cuda = not sessions._cuda_fault()


def source(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def pairs(growth: GrowthMap, *names: str) -> list[Pair]:
    return [Pair(n, n, growth.values[n].axes if n in growth.values else {}) for n in names]


@pytest.mark.parametrize(("make", "feeds", "inner"), [(grown_mlp, X, "ha"), (grown_cnn, IMAGES, "cnapf")])
def test_exact_growth_passes(make, feeds, inner: str) -> None:
    original, grown, growth = make()
    result = run_tier(source(original), source(grown), [feeds], "cpu", growth, pairs(growth, *inner))
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["values_compared"] == len(inner)
    assert result.figures["outputs_compared"] == 2  # without and with optimisations
    assert set(result.figures["nodes"]["disabled"]) == {"CPUExecutionProvider"}


def test_models_with_external_data_run_from_their_files(tmp_path: Path) -> None:
    original, grown, growth = grown_mlp()
    paths = []
    for name, model in (("old", original), ("new", grown)):
        paths.append(tmp_path / name / "model.onnx")
        paths[-1].parent.mkdir()
        onnx.save(ir.to_proto(model), paths[-1], save_as_external_data=True, location="weights.bin", size_threshold=0)
    feeds = {"x": np.zeros((2, 6), np.float32)}
    result = run_tier(paths[0], paths[1], [feeds, X], "cpu", growth, pairs(growth, "h", "a"))
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["values_compared"] == 4


def test_a_moved_output_fails() -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[5, 0] = 1e-3
    set_weight(grown, "w2", w)
    result = run_tier(source(original), source(grown), [X], "cpu", growth)
    assert result.status is TierStatus.FAILED
    assert {f.subject for f in result.findings} == {"y"}


def test_a_run_gives_out_no_more_than_its_share_and_all_values_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    original, grown, growth = grown_mlp()
    each = [Pair(p.name, p.of, p.axes, nbytes=100) for p in pairs(growth, "h", "a")]
    asked: list[list[str]] = []
    run = RuntimeSession.run

    def watched(session: RuntimeSession, feeds, outputs=None):
        asked.append(list(outputs))
        return run(session, feeds, outputs)

    monkeypatch.setattr(RuntimeSession, "run", watched)
    monkeypatch.setattr(level, "RUN_LIMIT", 100)
    result = run_tier(source(original), source(grown), [X], "cpu", growth, each)
    assert result.status is TierStatus.PASSED, result.findings
    assert (result.figures["values_compared"], result.figures["outputs_compared"]) == (2, 2)
    assert {tuple(names) for names in asked} == {("y", "h"), ("a",), ("y",)}  # the last one optimised


def test_larger_inputs_make_smaller_shares_and_none_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "RUN_LIMIT", 100)
    monkeypatch.setattr(level, "SHARES", 100)
    each = [Pair(str(i), str(i), nbytes=25) for i in range(8)]

    def sizes(*counts: int) -> list[int]:
        return [len(share) for share in level.shares(each, [{"x": np.zeros(n)} if n else {} for n in counts])]

    assert (sizes(6), sizes(6, 3), sizes(6, 12), sizes(0), sizes(0, 0)) == ([4, 4], [4, 4], [2] * 4, [4, 4], [4, 4])
    monkeypatch.setattr(level, "SHARES", 2)
    assert sizes(6, 12) == [4, 4]  # not more shares than that


def test_a_network_without_inputs_is_compared() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g () => (float[5,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  y = Gemm(a, w2, b2) }"""
    base = mlp()
    weights = {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")} | X
    original, grown, growth = grown_mlp(text_model(text, weights))
    result = run_tier(source(original), source(grown), [{}], "cpu", growth, pairs(growth, "h", "a"))
    assert result.status is TierStatus.PASSED, result.findings
    assert result.figures["values_compared"] == 2
    set_weight(grown, "b1", weight(grown, "b1") + np.float32(1e-2))
    assert run_tier(source(original), source(grown), [{}], "cpu", growth).status is TierStatus.FAILED


def test_a_fault_in_the_last_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original, grown, growth = grown_mlp()
    set_weight(grown, "b1", weight(grown, "b1") + np.float32(1e-2))
    set_weight(grown, "w2", 0 * weight(grown, "w2"))
    set_weight(original, "w2", 0 * weight(original, "w2"))  # nothing reaches the output
    monkeypatch.setattr(level, "RUN_LIMIT", 100)
    each = [Pair(p.name, p.of, p.axes, nbytes=100) for p in pairs(growth, "h", "a")]
    result = run_tier(source(original), source(grown), [X], "cpu", growth, each)
    assert {f.subject for f in result.findings} == {"h", "a"}


def test_a_fault_in_front_of_a_saturated_output_needs_the_intermediate_values() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  z = Gemm(a, w2, b2)  y = Sigmoid(z) }"""
    base = mlp()
    weights = {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")} | {"b2": np.full(3, -200, np.float32)}
    original, grown, growth = grown_mlp(text_model(text, weights))
    w = weight(grown, "w2")
    w[5, 0] = 1
    set_weight(grown, "w2", w)
    blind = run_tier(source(original), source(grown), [X], "cpu", growth)
    seeing = run_tier(source(original), source(grown), [X], "cpu", growth, pairs(growth, "h", "a", "z"))
    assert blind.status is TierStatus.PASSED  # the control: outputs alone do not show it
    assert seeing.status is TierStatus.FAILED
    assert {f.subject for f in seeing.findings} == {"z"}


def test_the_bound_follows_the_measured_noise() -> None:
    # taking a large constant away amplifies the rounding of the input far above ten epsilons
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) { y = Sub(x, c) }'
    model = text_model(text, {"c": np.full(6, 1e4, np.float32)})
    result = run_tier(source(model), source(copy(model)), [{"x": X["x"] + 10_000}], "cpu", GrowthMap())
    assert result.figures["outputs_bound"] > 1e-3
    ordinary = run_tier(source(model), source(copy(model)), [X], "cpu", GrowthMap())
    assert ordinary.figures["outputs_bound"] < 1e-5


def test_integer_outputs_have_to_be_equal() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6] x) => (int64[N] y) { z = Mul(x, s) y = ArgMax<axis = 1, keepdims = 0>(z) }"""
    original = text_model(text, {"s": np.ones(6, np.float32)})
    grown = copy(original)
    set_weight(grown, "s", -np.ones(6, np.float32))
    result = run_tier(source(original), source(grown), [X], "cpu", GrowthMap())
    assert result.status is TierStatus.FAILED
    assert "entries differ" in result.findings[0].reason
    assert run_tier(source(original), source(copy(original)), [X], "cpu", GrowthMap()).status is TierStatus.PASSED


def test_nan_in_other_places_fails() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) { z = Add(x, s) y = Sqrt(z) }'
    original = text_model(text, {"s": np.zeros(6, np.float32)})
    grown = copy(original)
    set_weight(grown, "s", np.full(6, 100, np.float32))
    result = run_tier(source(original), source(grown), [X], "cpu", GrowthMap())
    assert any("NaN" in f.reason for f in result.findings)


def test_a_result_that_onnx_runtime_refuses_fails() -> None:
    original, grown, growth = grown_mlp()
    set_weight(grown, "w2", weight(grown, "w2")[:-1])
    result = run_tier(source(original), source(grown), [X], "cpu", growth)
    assert result.status is TierStatus.FAILED
    assert all(f.subject == "result" for f in result.findings)


def test_an_original_that_onnx_runtime_refuses_is_unsupported() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]>
        g (float[N,6] x) => (float[N,6] y) { y = nobody.Knows(x) }"""
    model = source(text_model(text, {}))
    with pytest.raises(UnsupportedError, match="Knows"):
        run_tier(model, model, [X], "cpu", GrowthMap())


def test_inputs_that_the_original_fails_on_are_unsupported() -> None:
    model = source(mlp())
    with pytest.raises(UnsupportedError, match="original model"):
        run_tier(model, model, [{"x": np.zeros((1, 5), np.float32)}], "cpu", GrowthMap())


def test_too_many_intermediate_values_are_skipped_and_said_so() -> None:
    original, grown, growth = grown_mlp()
    large = [Pair("h", "h", {1: AxisMap.from_source([0, 1, 2, 3, -1, -1, -1])}, nbytes=10**12)]
    result = run_tier(source(original), source(grown), [X], "cpu", growth, large)
    assert result.figures["values_compared"] == 0
    assert "1000.0 GB" in result.figures["intermediate_values_skipped"]


def test_intermediate_values_that_cannot_be_given_out_are_skipped_and_said_so() -> None:
    original, grown, growth = grown_mlp()
    result = run_tier(source(original), source(grown), [X], "cpu", growth, [Pair("nobody", "nobody")])
    assert result.status is TierStatus.PASSED
    assert result.figures["outputs_compared"] == 2
    assert "nobody" in result.figures["intermediate_values_skipped"]


def test_without_inputs_the_tier_has_not_run() -> None:
    model = source(mlp())
    assert run_tier(model, model, [], "cpu").status is TierStatus.NOT_RUN


# ---- noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_moved_by_exactly_one_ulp(dtype: type) -> None:
    x = np.array([0, 1, -1, 3.3, -1e-3, np.finfo(dtype).max, np.inf, np.nan] * 20, dtype)
    y = moved(x, 1)
    still = ~np.isfinite(x) | (x == 0)
    assert np.array_equal(y[still], x[still], equal_nan=True)
    with np.errstate(over="ignore"):
        neighbours = (np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf)))
    assert np.all(np.isfinite(y[np.isfinite(x)]))
    ordinary = ~still & (x != np.finfo(dtype).max)
    assert np.all((y == neighbours[0])[ordinary] | (y == neighbours[1])[ordinary])
    assert (y == neighbours[0])[ordinary].any()
    assert (y == neighbours[1])[ordinary].any()


def test_a_model_without_float_inputs_is_measured_through_its_weights() -> None:
    assert moved_inputs({"ids": np.arange(3)}, 0) is None
    model = mlp()
    new = onnx.ModelProto.FromString(moved_weights(ModelSource.of(source(model)), 0).model)
    for tensor in new.graph.initializer:
        old, array = weight(model, tensor.name), onnx.numpy_helper.to_array(tensor)
        assert np.all(old != array)
        assert np.allclose(old, array, rtol=1e-6)

    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i) => (float[N,3] y) { e = Gather(w, i) y = MatMul(e, v) }"""
    model = text_model(text, {"w": RNG.normal(size=(9, 4)).astype(np.float32), "v": np.ones((4, 3), np.float32)})
    result = run_tier(source(model), source(copy(model)), [{"i": np.arange(9)}], "cpu", GrowthMap())
    assert result.figures["outputs_floor"] > 0


@pytest.mark.parametrize("stored", ["initializer", "constant"])
def test_noise_leaves_scales_that_sizes_are_computed_from(stored: str) -> None:
    """A scale of 1 that is not quite 1 would be refused, and a fault in the result could not be told."""
    scales = np.array([1, 1, 2, 2], np.float32)
    node = "" if stored == "initializer" else "s = Constant<value = float[4] {1, 1, 2, 2}>()"
    text = f"""<ir_version: 4, opset_import: ["" : 9]>
        g (float[1,3,2,2] x) => (float[1,2,4,4] y) {{ {node} u = Upsample(x, s) y = Conv(u, w) }}"""
    weights = {"w": RNG.normal(size=(2, 3, 1, 1)).astype(np.float32)}
    model = text_model(text, {**weights, "s": scales} if not node else weights)
    faulty = text_model(text, {**weights, "s": scales, "w": 2 * weights["w"]} if not node else {"w": 2 * weights["w"]})
    feeds = [{"x": RNG.normal(size=(1, 3, 2, 2)).astype(np.float32)}]
    assert run_tier(source(model), source(faulty), feeds, "cpu", GrowthMap()).status is TierStatus.FAILED


# ---- providers and installation -----------------------------------------------------------------------------


@pytest.mark.skipif(has_cuda, reason="this machine has CUDA")
def test_cuda_by_name_is_never_replaced_by_the_cpu() -> None:
    model = source(mlp())
    with pytest.raises(EnvironmentFault, match="provider cuda"):
        run_tier(model, model, [X], "cuda")
    with pytest.raises(EnvironmentFault, match="cuda"):
        open_session(ModelSource.of(model), "cuda", optimised=False)
    assert resolve_provider("auto") == "cpu"


def test_an_unknown_provider_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="rocket"):
        resolve_provider("rocket")


def test_both_variants_of_onnxruntime_installed_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.0"}

    def version(name: str) -> str:
        if name not in present:
            raise metadata.PackageNotFoundError(name)
        return present[name]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(EnvironmentFault, match=r"pip uninstall -y onnxruntime onnxruntime-gpu && pip install") as e:
        check_runtime()
    assert e.value.exit_code == 5
    del present["onnxruntime"]
    assert check_runtime() is not None  # the control: one of them alone is fine


@pytest.mark.parametrize("broken", [ImportError("libfoo.so: cannot open"), None])
def test_a_clobbered_onnxruntime_is_detected(broken: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        if broken is not None:
            raise broken
        return object()

    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(EnvironmentFault, match="--force-reinstall"):
        check_runtime()


def test_sessions_of_both_models_have_the_same_options() -> None:
    model = ModelSource.of(source(mlp()))
    for optimised in (False, True):
        a, b = (open_session(model, "cpu", optimised=optimised).session.get_session_options() for _ in range(2))
        for name in ("intra_op_num_threads", "inter_op_num_threads", "graph_optimization_level", "execution_mode"):
            assert getattr(a, name) == getattr(b, name)
        assert a.use_deterministic_compute
        assert a.get_session_config_entry("session.disable_prepacking") == "1"
