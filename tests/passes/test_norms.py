"""Norms in every form: what grows is proved by all tiers and alive; what cannot says which node and why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support import Weight, analysis_of, model_of

from onnxgrow.io import copy_model
from onnxgrow.passes import Widen
from onnxgrow.passes.rewriter import Rewriter
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

CONVS: dict[str, Weight] = {"wa": (8, 3, 1, 1), "wb": (5, 8, 1, 1), "g": (8,), "b": (8,)}
STATISTICS: dict[str, Weight] = {"m": (8,), "variance": np.linspace(0.5, 2, 8, dtype=np.float32)}
GROUPS: dict[str, Weight] = {
    "s": np.array([0, 2, -1]),
    "back": np.array([0, 8, 4, 4]),
    "gg": (8, 1, 1),
    "bb": (8, 1, 1),
    "ones": np.ones(2, np.float32),
    "zeros": np.zeros(2, np.float32),
}


def between(nodes: str) -> str:
    return f"g (float[2,3,4,4] x) => (float[2,5,4,4] y) {{ c = Conv(x, wa) {nodes} y = Conv(n, wb) }}"


# name: (nodes, more weights, opset, grown channels)
GROWN: dict[str, tuple[str, dict[str, Weight], int, int]] = {
    "GroupNormalization with a scale for each group": (
        "n = GroupNormalization <num_groups = 2> (c, g2, b2)",
        {"g2": (2,), "b2": (2,)},
        18,
        12,
    ),
    "GroupNormalization with a scale for each channel": (
        "n = GroupNormalization <num_groups = 2> (c, g, b)",
        {},
        21,
        12,
    ),
    "groups by Reshape and InstanceNormalization": (
        "r = Reshape(c, s) i = InstanceNormalization(r, ones, zeros) k = Reshape(i, back) d = Mul(k, gg)"
        " n = Add(d, bb)",
        GROUPS,
        17,
        12,
    ),
    "InstanceNormalization": ("n = InstanceNormalization(c, g, b)", {}, 17, 11),
    "MeanVarianceNormalization of single channels": (
        "n = MeanVarianceNormalization <axes = [0, 2, 3]> (c)",
        {},
        17,
        11,
    ),
    "BatchNormalization": ("n = BatchNormalization(c, g, b, m, variance)", STATISTICS, 17, 11),
    "BatchNormalization in training": (
        "n, nm, nv = BatchNormalization <training_mode = 1> (c, g, b, m, variance)",
        STATISTICS,
        15,
        11,
    ),
}


@pytest.mark.parametrize("name", GROWN)
def test_channels_grow_through_a_norm_of_single_channels_or_whole_groups(name: str) -> None:
    nodes, more, opset, size = GROWN[name]
    model = model_of(between(nodes), CONVS | more, opset=opset)
    result = Widen(add=3 if size == 11 else 1)(model)
    assert [s.old for s in result.growth_map.sets] == [8 if size == 11 else 2]
    assert result.model.graph.initializers["wb"].const_value.shape[1] == size
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(r.alive for r in result.report.alive)


@pytest.mark.parametrize("name", [n for n in GROWN if n.startswith("Group")])
def test_groups_that_mix_old_and_new_channels_are_refused(name: str) -> None:
    nodes, more, opset, _ = GROWN[name]
    model = model_of(between(nodes), CONVS | more, opset=opset)
    grown = copy_model(Widen(add=2)(model).model)
    Rewriter(grown).set_attribute("n", "num_groups", 2)
    tiers = {t.name: t.status for t in verify(model, grown, tiers=("certificate",)).tiers}
    assert tiers["certificate"] is TierStatus.FAILED


FROZEN: dict[str, tuple[str, dict[str, Weight], str]] = {
    "neighbouring channels": ("n = LRN <size = 3> (c)", {}, "it is normalised over (LRN n, axis 1)"),
    "one group": (
        "n = GroupNormalization <num_groups = 1> (c, g2, b2)",
        {"g2": (1,), "b2": (1,)},
        "it is normalised over (GroupNormalization n, axis 1)",
    ),
    "mean and variance over channels": (
        "n = MeanVarianceNormalization <axes = [1]> (c)",
        {},
        "it is normalised over (MeanVarianceNormalization n, axis 1)",
    ),
    "several axes": (
        "n = LayerNormalization <axis = 1> (c, g3, b3)",
        {"g3": (8, 4, 4), "b3": (8, 4, 4)},
        "it is normalised over (LayerNormalization n, axis 1)",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_no_new_channel_leaves_alone_is_frozen_with_the_reason(name: str) -> None:
    """But for copies, which keep the statistics of all channels, and of several axes."""
    nodes, more, reason = FROZEN[name]
    analysis = analysis_of(model_of(between(nodes), CONVS | more, opset=18))
    found = next(s for s in analysis.sets if s.name == "wa" or s.size == 8)
    said = [str(r) for r in (*found.reasons, *(r for way in found.ways for r in way.statistics))]
    assert reason in said
    assert [way.mode for way in found.ways] == ([] if name == "neighbouring channels" else ["copy"])


def test_normalised_queries_and_keys_keep_their_size_and_grow_in_number() -> None:
    """Zeros would keep the norms, and then both were zero where they are multiplied: nothing there could learn."""
    text = (
        "g (float[2,5,6] x) => (float[2,5,3] y) { q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " q4 = Reshape(q, sh) k4 = Reshape(k, sh) v4 = Reshape(v, sh) qn = RMSNormalization(q4, gq)"
        " kn = RMSNormalization(k4, gk) qt = Transpose <perm = [0, 2, 1, 3]> (qn) kt = Transpose <perm = [0, 2, 3, 1]>"
        " (kn) vt = Transpose <perm = [0, 2, 1, 3]> (v4) s = MatMul(qt, kt) p = Softmax(s) o = MatMul(p, vt)"
        " ot = Transpose <perm = [0, 2, 1, 3]> (o) a = Reshape(ot, fl) y = MatMul(a, wo) }"
    )
    weights: dict[str, Weight] = {
        "wq": (6, 8),
        "wk": (6, 8),
        "wv": (6, 8),
        "wo": (8, 3),
        "gq": (4,),
        "gk": (4,),
        "sh": np.array([0, 0, 2, 4]),
        "fl": np.array([0, 0, 8]),
    }
    model = model_of(text, weights, opset=23, ir_version=11)
    sets = {s.name: s for s in analysis_of(model).sets}
    assert [n for n, s in sets.items() if s.growable] == ["wq/outer", "wv/inner"]
    assert "it is normalised over (RMSNormalization qn, axis 3)" in [str(r) for r in sets["wq/inner"].reasons]
    assert Widen("wq/outer", add=1)(model).report.verdict is Verdict.EQUIVALENT


STREAM = (
    "g (float[N,6] x) => (float[N,8] y) { h = MatMul(x, w0) n = LayerNormalization <axis = -1> (h, g1, b1)"
    " u = MatMul(n, w1) r = Relu(u) d = MatMul(r, w2) y = Add(h, d) }"
)
LAYERS: dict[str, Weight] = {"w0": (6, 8), "g1": (8,), "b1": (8,), "w1": (8, 5), "w2": (5, 8)}


def stream() -> ir.Model:
    return model_of(STREAM, LAYERS)


def test_a_stream_that_is_a_graph_output_stays_and_says_so() -> None:
    plan = Widen(residual=True, add=2).plan(stream())[1]
    assert [p.channel_set.size for p in plan.sets] == [5]
    reasons = [str(r) for s in analysis_of(stream()).sets if s.size == 8 for r in s.reasons]
    assert "it is an output of the network (output y, axis 1)" in reasons


def test_a_stream_that_is_an_output_grows_by_name_and_the_verdict_is_changed() -> None:
    result = Widen(outputs="y=+3")(stream())
    assert [(s.old, s.new, s.method) for s in result.growth_map.sets] == [(8, 11, "residual-mean")]
    assert result.report.verdict is Verdict.CHANGED
    assert {t.status for t in result.report.tiers} == {TierStatus.PASSED}
