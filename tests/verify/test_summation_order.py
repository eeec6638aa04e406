"""Sums over many terms of one sign: zeros that growth inserts regroup them, and that is noise, not a fault."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from by_hand import copy, grow, set_weight, text_model, weight

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify import runtime
from onnxgrow.verify.float64 import prepare, run_tier, twins
from onnxgrow.verify.float64.kernels import CONTRACTIONS
from onnxgrow.verify.float64.lockstep import lockstep
from onnxgrow.verify.regroup import regrouped
from onnxgrow.verify.report import TierStatus
from onnxgrow.verify.sessions import ModelSource, open_session

TERMS = 25088
FEEDS = [{"x": np.full((1, 3), 0.37, np.float32)}]


def constant_network() -> tuple[ir.Model, ir.Model, GrowthMap]:
    """Every weight holds one value, as in models made for benchmarks; new zeros come between the old terms."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3] x) => (float[1,4] y)'
        "{ h = MatMul (x, w1) y = MatMul (h, w2) }"
    )
    old = text_model(text, {"w1": np.full((3, TERMS), 0.11, np.float32), "w2": np.full((TERMS, 4), 0.02, np.float32)})
    source = np.full(2 * TERMS, -1)
    source[np.flatnonzero(np.random.default_rng(0).permutation(2 * TERMS) < TERMS)] = np.arange(TERMS)
    axis = AxisMap.from_source(source)
    return old, *grow(old, {"w1": {1: axis}, "w2": {0: axis}}, {"h": {1: axis}}, zero_axis={"w2": 0})


def test_the_floor_counts_that_terms_are_regrouped(monkeypatch: pytest.MonkeyPatch) -> None:
    old, grown, growth = constant_network()
    assert run_tier(old, grown, growth, FEEDS).status is TierStatus.PASSED
    measured = lockstep(prepare(old), prepare(grown), growth, FEEDS[0], range(4)).outputs[0]
    monkeypatch.setattr(twins, "CUTS", 0)
    unmeasured = lockstep(prepare(old), prepare(grown), growth, FEEDS[0], range(4)).outputs[0]
    assert measured.floor > 4 * unmeasured.floor


@pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-11])
def test_a_fault_of_a_weight_shows_nevertheless(size: float) -> None:
    old, grown, growth = constant_network()
    # in double precision, where a fault of this size can be stored
    for model in (old, grown):
        for name in ("w1", "w2"):
            set_weight(model, name, weight(model, name).astype(np.float64))
    wrong = weight(grown, "w1")
    wrong[:, growth.values["h"].axes[1].positions()] *= 1 + size
    set_weight(grown, "w1", wrong)
    assert run_tier(old, grown, growth, FEEDS).status is TierStatus.FAILED


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(0.5, 1.5, shape)


CONTRACTED = {
    "MatMul": ("MatMul (x, w)", random(2, 700), random(700, 3)),
    "MatMul of vectors": ("MatMul (x, w)", random(700), random(700)),
    "MatMul of stacks": ("MatMul (x, w)", random(2, 2, 700), random(2, 700, 3)),
    "Gemm": ("Gemm <transA = 1, transB = 1> (x, w)", random(700, 2), random(3, 700)),
    "FusedMatMul": ("com.microsoft.FusedMatMul <transB = 1> (x, w)", random(2, 700), random(3, 700)),
    "Conv": ("Conv <pads = [1, 1]> (x, w)", random(2, 90, 9), random(4, 90, 3)),
    "grouped Conv": ("Conv <group = 2> (x, w)", random(2, 90, 9), random(4, 45, 3)),
    "pointwise Conv": ("Conv (x, w)", random(2, 400, 5), random(4, 400, 1)),
    "ConvTranspose": ("ConvTranspose <group = 2> (x, w)", random(2, 400, 5), random(400, 3, 2)),
    "Einsum": ('Einsum <equation = "bi, oi -> bo"> (x, w)', random(2, 700), random(3, 700)),
    "implicit Einsum": ('Einsum <equation = "bi, io"> (x, w)', random(2, 700), random(700, 3)),
}


@pytest.mark.parametrize("name", CONTRACTED)
def test_a_contraction_in_parts_gives_the_same_up_to_its_roundings(name: str) -> None:
    body, x, w = CONTRACTED[name]
    shapes = (",".join(map(str, a.shape)) for a in (x, w))
    inputs = ", ".join(f"double[{shape}] {n}" for shape, n in zip(shapes, "xw", strict=True))
    imports = '"" : 17, "com.microsoft" : 1'
    text = f"<ir_version: 8, opset_import: [{imports}]> g ({inputs}) => (double[] y) {{ y = {body} }}"
    prepared = prepare(ir.from_proto(onnx.parser.parse_model(text)))
    (node,) = prepared.order
    assert (node.domain, node.op_type) in CONTRACTIONS
    run = prepared.interpreter(prepared.inputs({"x": x, "w": w}))
    (plain,) = run.evaluate(node)
    for gaps in (0, 7):
        (cut,) = run.evaluate(node, (0.31, 0.77), gaps)
        assert plain.shape == cut.shape
        apart = np.abs(plain - cut).max() / np.abs(plain).max()
        assert 0 < apart < 1e-14  # others than the plain roundings, and no more than roundings


def test_what_is_no_contraction_ignores_cuts() -> None:
    model = text_model('<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (float[3] y) { y = Exp (x) }', {})
    prepared = prepare(model)
    run = prepared.interpreter(prepared.inputs({"x": np.ones(3, np.float32)}))
    assert np.array_equal(run.evaluate(prepared.order[0])[0], run.evaluate(prepared.order[0], (0.5,))[0])


# ---- ONNX Runtime

REGROUPED = {
    "MatMul": ("MatMul (x, w)", (2, 600), (600, 3)),
    "MatMul with the weight on the left": ("MatMul (w, x)", (600, 2), (3, 600)),
    "Gemm with an addend": ("Gemm <transB = 1> (x, w, c)", (2, 600), (3, 600)),
    "Conv with a bias": ("Conv (x, w, c)", (2, 600, 5), (3, 600, 1)),
    "grouped Conv": ("Conv <group = 3> (x, w, c)", (2, 600, 5), (3, 200, 1)),
    "ConvTranspose": ("ConvTranspose (x, w, c)", (2, 600, 5), (600, 3, 1)),
}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("name", REGROUPED)
def test_a_regrouped_model_gives_the_same_up_to_its_roundings(name: str, opset: int) -> None:
    body, x, w = REGROUPED[name]
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{",".join(map(str, x))}] x) => (float[] y)'
        f"<float[{','.join(map(str, w))}] w = {{{','.join(['0.3'] * int(np.prod(w)))}}}, float[3] c = {{1, 2, 3}}>"
        f"{{ y = {body} }}"
    )
    source = ModelSource(onnx.parser.parse_model(text).SerializeToString())
    other = regrouped(source, 3)
    assert sum(n.op_type == "Mul" for n in other.proto().graph.node) == 2
    feeds = {"x": random(*x).astype(np.float32)}
    a, b = (open_session(s, "cpu", optimised=False).run(feeds)["y"] for s in (source, other))
    assert a.shape == b.shape
    assert 0 < np.abs(a - b).max() / np.abs(a).max() < 1e-4


def test_the_runtime_tier_takes_regrouped_sums_for_noise_but_no_fault() -> None:
    old, grown, growth = constant_network()
    before, after = (ir.to_proto(m).SerializeToString() for m in (old, grown))
    assert runtime.run_tier(before, after, FEEDS, "cpu", growth).status is TierStatus.PASSED
    wrong = copy(grown)
    set_weight(wrong, "w1", weight(grown, "w1") * np.float32(1.002))
    result = runtime.run_tier(before, ir.to_proto(wrong).SerializeToString(), FEEDS, "cpu", growth)
    assert result.status is TierStatus.FAILED
