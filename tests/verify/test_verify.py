"""Verification end to end: which evidence leads to which verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from by_hand import MLP, copy, grown_cnn, grown_mlp, mlp, set_weight, text_model, weight

from onnxgrow.errors import BadInputError, EnvironmentFault, UnsupportedError, UsageError
from onnxgrow.growth_map import METADATA_KEY, TensorGrowth
from onnxgrow.io import load, save_bytes
from onnxgrow.io.digest import tensor_digest
from onnxgrow.verify import Report, TierStatus, Verdict, judge, sessions
from onnxgrow.verify.inputs import variants
from onnxgrow.verify.judge import verify
from onnxgrow.verify.noise import moved_weights
from onnxgrow.verify.sessions import ModelSource

RNG = np.random.default_rng(5)
TIERS = ("accounting", "certificate", "float64", "runtime")


def statuses(report: Report) -> dict[str, TierStatus]:
    return {t.name: t.status for t in report.tiers}


def reweigh(grown: ir.Model, growth, name: str, array: np.ndarray):
    """Change a tensor of the result and claim its new digest: accounting alone cannot object."""
    set_weight(grown, name, array)
    digest = tensor_digest(grown.graph.initializers[name].const_value)
    return replace(growth, tensors={**growth.tensors, name: replace(growth.tensors[name], sha256=digest)})


@pytest.mark.parametrize("make", [grown_mlp, grown_cnn])
def test_exact_growth_is_equivalent_on_all_four_tiers(make) -> None:
    original, grown, growth = make()
    said: list[str] = []
    shapes = {"x": [2, 3, 9, 9]} if make is grown_cnn else None
    report = verify(original, grown, growth, input_shapes=shapes, provider="cpu", progress=said.append)
    assert report.verdict is Verdict.EQUIVALENT
    assert report.ok
    assert statuses(report) == dict.fromkeys(TIERS, TierStatus.PASSED)
    assert said == [*TIERS, "alive"]
    assert [a.alive for a in report.alive] == [growth.sets[0].new - growth.sets[0].old]
    json.dumps(report.to_json(), allow_nan=False)


def test_dynamic_dimensions_are_verified_at_two_sizes() -> None:
    report = verify(*grown_mlp(), provider="cpu")
    sizes = {s["x"][0] for s in report.tier("certificate").figures["input_shapes"]}
    assert len(sizes) == 2
    assert report.tier("float64").figures["runs"] == 2
    assert report.tier("runtime").figures["runs"] >= 4


def test_the_same_seed_gives_the_same_figures() -> None:
    figures = []
    for _ in range(2):
        report = verify(*grown_mlp(), provider="cpu", seed=3)
        figures.append([dict(t.figures) for t in report.tiers])
    assert figures[0] == figures[1]


def test_the_users_inputs_are_used() -> None:
    given = {"x": np.full((3, 6), 0.25, np.float32)}
    report = verify(*grown_mlp(), inputs=given, provider="cpu")
    assert report.tier("certificate").figures["input_shapes"] == [{"x": [3, 6]}]
    with pytest.raises(UsageError):
        verify(*grown_mlp(), inputs={"nobody": given["x"]}, provider="cpu")


def test_the_map_in_the_metadata_is_the_default() -> None:
    original, grown, growth = grown_mlp()
    grown.metadata_props[METADATA_KEY] = growth.dumps()
    assert verify(original, grown, provider="cpu").verdict is Verdict.EQUIVALENT
    grown.metadata_props[METADATA_KEY] = "{"
    with pytest.raises(BadInputError, match="metadata"):
        verify(original, grown, provider="cpu")


def test_without_a_map_only_identical_models_are_equivalent() -> None:
    model = mlp()
    assert verify(model, copy(model), provider="cpu").verdict is Verdict.EQUIVALENT
    original, grown, _ = grown_mlp()
    report = verify(original, grown, provider="cpu")
    assert report.verdict is Verdict.UNPROVED
    assert not report.ok
    assert "no growth map" in report.notes[0]


def test_a_broken_zero_is_not_equivalent_and_all_tiers_say_so() -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[5, 0] = 1e-2
    report = verify(original, grown, reweigh(grown, growth, "w2", w), provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert not report.ok
    found = statuses(report)
    assert found["accounting"] is TierStatus.PASSED  # all is listed; the others see the fault
    assert {found[name] for name in TIERS[1:]} == {TierStatus.FAILED}


def test_a_fault_too_small_for_float32_is_still_not_equivalent() -> None:
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[1, 1] = np.nextafter(w[1, 1], np.float32(9))
    report = verify(original, grown, reweigh(grown, growth, "w2", w), provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert statuses(report)["float64"] is TierStatus.FAILED
    assert statuses(report)["runtime"] is TierStatus.PASSED


def test_a_tier_that_is_left_out_leaves_the_claim_unproved() -> None:
    for left_out in TIERS:
        report = verify(*grown_mlp(), provider="cpu", tiers=[t for t in TIERS if t != left_out])
        assert report.verdict is Verdict.UNPROVED
        assert statuses(report)[left_out] is TierStatus.NOT_RUN
    with pytest.raises(UsageError, match="hope"):
        verify(*grown_mlp(), tiers=["hope"])


def test_an_operator_without_float64_is_unproved() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y) { r = Bernoulli(z) y = Mul(x, r) }'
    )
    model = text_model(text, {"z": np.ones((1, 6), np.float32)})
    report = verify(model, copy(model), provider="cpu")
    assert report.verdict is Verdict.UNPROVED
    assert report.tier("float64").status is TierStatus.NOT_RUN
    assert report.tier("float64").findings[0].subject == "Bernoulli"


def test_a_set_that_cannot_learn_is_not_called_equivalent() -> None:
    original, grown, growth = grown_mlp()
    w, b = weight(grown, "w1"), weight(grown, "b1")
    w[:, 4:], b[4:] = 0, 0
    growth = reweigh(grown, reweigh(grown, growth, "w1", w), "b1", b)
    report = verify(original, grown, growth, provider="cpu")
    assert set(statuses(report).values()) == {TierStatus.PASSED}
    assert report.verdict is Verdict.UNPROVED
    assert any("can learn" in note for note in report.notes)


def near_zero(size: float):
    original, grown, growth = grown_mlp()
    w = weight(grown, "w2")
    w[4:] = size
    growth = reweigh(grown, growth, "w2", w)
    return original, grown, replace(growth, exact=False)


def test_inexact_growth_is_changed_by_a_measured_amount() -> None:
    report = verify(*near_zero(1e-3), max_change=0.1, provider="cpu")
    assert report.verdict is Verdict.CHANGED
    assert report.ok
    assert 1e-5 < report.change < 0.1
    assert not verify(*near_zero(1e-3), max_change=report.change / 2, provider="cpu").ok
    assert not verify(*near_zero(1e-3), provider="cpu").ok


def test_inexact_growth_is_never_equivalent_even_without_a_change() -> None:
    report = verify(*near_zero(0.0), max_change=0.1, provider="cpu")
    assert report.verdict is Verdict.CHANGED


def test_inexact_growth_with_unlisted_changes_is_not_equivalent() -> None:
    original, grown, growth = near_zero(1e-3)
    set_weight(grown, "b2", weight(grown, "b2") + 1)
    report = verify(original, grown, growth, max_change=100.0, provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert not report.ok


def test_nan_outputs_are_no_measured_change() -> None:
    original, grown, growth = near_zero(1e-3)
    growth = reweigh(grown, growth, "w2", np.full((7, 3), np.nan, np.float32))
    report = verify(original, grown, growth, max_change=100.0, provider="cpu")
    assert not report.ok


def test_files_are_used_where_they_are_given(tmp_path: Path) -> None:
    original, grown, growth = grown_mlp()
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    onnx.save(ir.to_proto(original), old)
    onnx.save(ir.to_proto(original), new)  # not what the memory holds: the runtime tier must see the file
    report = verify(original, grown, growth, original_path=old, grown_path=new, provider="cpu")
    assert statuses(report)["runtime"] is TierStatus.FAILED
    onnx.save(ir.to_proto(grown), new)
    report = verify(original, grown, growth, original_path=old, grown_path=new, provider="cpu")
    assert report.verdict is Verdict.EQUIVALENT


def test_a_damaged_original_file_is_one_line_not_a_traceback(tmp_path: Path) -> None:
    original, grown, growth = grown_mlp()
    path = tmp_path / "old.onnx"
    path.write_bytes(b"\x08\x08garbage")
    with pytest.raises(UnsupportedError, match="refuses"):
        verify(original, grown, growth, original_path=path, provider="cpu")


def test_an_original_that_onnx_runtime_refuses_is_unsupported() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "nobody" : 1]>
        g (float[N,6] x) => (float[N,6] y) { y = nobody.Knows(x) }"""
    model = text_model(text, {})
    with pytest.raises(UnsupportedError):
        verify(model, copy(model), provider="cpu")


@pytest.mark.skipif(not sessions._cuda_fault(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault):
        verify(*grown_mlp(), provider="cuda")


def test_an_unlisted_tensor_change_is_not_equivalent() -> None:
    original, grown, growth = grown_mlp()
    set_weight(grown, "b2", weight(grown, "b2") * np.float32(1.0000001))
    assert verify(original, grown, growth, provider="cpu").verdict is Verdict.NOT_EQUIVALENT
    listed = replace(growth, tensors={**growth.tensors, "b2": TensorGrowth(formula="trust me")})
    assert verify(original, grown, listed, provider="cpu").verdict is Verdict.NOT_EQUIVALENT


def plain(x: object) -> bool:
    """Whether ``x`` is made of JSON's own types; NumPy's numbers pass as floats and integers in an isinstance."""
    if type(x) is dict:
        return all(type(k) is str and plain(v) for k, v in x.items())
    if type(x) is list:
        return all(map(plain, x))
    return x is None or type(x) in (str, int, float, bool)


@pytest.mark.parametrize("fault", [0.0, 1e-2, np.nan, np.inf])
@pytest.mark.parametrize("make", [grown_mlp, grown_cnn])
def test_reports_hold_plain_types_only(make, fault: float) -> None:
    original, grown, growth = make()
    if fault:
        w = weight(grown, "w2")
        w[1, 1] = fault
        growth = reweigh(grown, growth, "w2", w)
    report = verify(original, grown, growth, provider="cpu")
    assert report.ok is not bool(fault)
    assert plain(report.to_json())
    json.dumps(report.to_json(), allow_nan=False)
    assert not plain({"x": np.float64(1)})  # the control
    assert not plain({"x": [np.int64(1)]})


def test_large_batches_are_cut_for_the_costly_tiers_only() -> None:
    for variant in variants(mlp(), ModelSource.of(save_bytes(mlp()))):
        assert variant.few_shapes == variant.shapes  # small inputs stay whole
    wide = text_model(WIDE, {"w": np.ones((2, 3, 1, 1), np.float32)})
    found = variants(wide, ModelSource.of(save_bytes(wide)))
    assert [v.few_shapes["x"] for v in found] == [(2, 3, 192, 192), (3, 3, 192, 192)]
    assert all(v.shapes["x"][0] >= 5 for v in found)
    assert np.array_equal(found[0].few[0]["x"], found[0].feeds[0]["x"][:2])
    given = {"x": np.zeros((4, 3, 192, 192), np.float32)}
    assert variants(wide, ModelSource.of(save_bytes(wide)), given)[0].few_shapes == {"x": (4, 3, 192, 192)}


WIDE = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,192,192] x) => (float[N,2,192,192] y) { y = Conv(x, w) }"""


def wide_mlp(tmp_path: Path | None):
    """An MLP with weights above the size that stays inside a protobuf; with a folder, mapped from files."""
    weights = {n: RNG.normal(size=s).astype(np.float32) for n, s in (("w1", (6, 400)), ("b1", (400,)))}
    weights |= {n: RNG.normal(size=s).astype(np.float32) for n, s in (("w2", (400, 3)), ("b2", (3,)))}
    original, grown, growth = grown_mlp(text_model(MLP, weights), old=400, new=430)
    if tmp_path is None:
        return original, grown, growth
    loaded = []
    for name, model in (("old", original), ("new", grown)):
        path = tmp_path / name / "model.onnx"
        path.parent.mkdir()
        onnx.save(ir.to_proto(model), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        loaded.append(load(path).model)
    return loaded[0], loaded[1], growth


@pytest.mark.parametrize("mapped", [False, True])
def test_large_models_are_lent_to_onnx_runtime_without_serialising_them(
    mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, grown, growth = wide_mlp(tmp_path if mapped else None)
    usual = verify(original, grown, growth, provider="cpu")

    def refuse(*_: object) -> bytes:
        raise AssertionError("serialised")

    monkeypatch.setattr(judge, "INLINE", 1000)
    monkeypatch.setattr(judge, "save_bytes", refuse)
    lent = verify(original, grown, growth, provider="cpu")
    assert lent.verdict is usual.verdict is Verdict.EQUIVALENT
    before, after = usual.tier("runtime"), lent.tier("runtime")
    assert after.figures["values_compared"] == before.figures["values_compared"] > 0
    w = weight(grown, "w2")
    w[410, 0] = 1e-2
    growth = reweigh(grown, growth, "w2", w)
    report = verify(original, grown, growth, provider="cpu", tiers=["accounting", "runtime"])
    assert report.tier("runtime").status is TierStatus.FAILED


def test_weights_that_are_lent_can_be_moved_by_noise() -> None:
    original = wide_mlp(None)[0]
    source = ModelSource.of_model(original)
    assert set(source.weights) == {"w1", "b1", "w2"}
    assert len(source.model) < 2000
    noisy = moved_weights(source, 0)
    assert not noisy.weights
    for tensor in noisy.proto().graph.initializer:
        old, new = weight(original, tensor.name), onnx.numpy_helper.to_array(tensor)
        assert np.all(old != new)
        assert np.allclose(old, new, rtol=1e-6)
