"""Fused attention: whole heads, wider values, queries with their keys; grown and proved by all tiers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support import analysis_of, model_of

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import GrowError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap, ValueGrowth
from onnxgrow.io import copy_model
from onnxgrow.passes import Widen
from onnxgrow.passes.rewriter import Rewriter
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

MS = ', "com.microsoft": 1'
SHARED = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3)}
QKV = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"


def network(nodes: str, shape: str = "2,5,6") -> str:
    return f"g (float[{shape}] x) => (float[2,5,3] y) {{ {nodes} y = MatMul(a, wo) }}"


def three(call: str) -> str:
    return network(f"{QKV} a = {call}")


FOUR = network(
    f"{QKV} q4 = Reshape(q, s) k4 = Reshape(k, s) v4 = Reshape(v, s) qt = Transpose <perm = [0, 2, 1, 3]> (q4)"
    " kt = Transpose <perm = [0, 2, 1, 3]> (k4) vt = Transpose <perm = [0, 2, 1, 3]> (v4)"
    " o = Attention <is_causal = 1> (qt, kt, vt) t = Transpose <perm = [0, 2, 1, 3]> (o) a = Reshape(t, f)"
)
CASES = {
    "Attention of three axes": (
        three("Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"),
        SHARED,
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "Attention of four axes": (
        FOUR,
        SHARED | {"s": np.array([0, 0, 2, 4]), "f": np.array([0, 0, 8])},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "Attention with a scale and a mask for each head": (
        three("Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.3> (q, k, v, m)"),
        SHARED | {"m": (2, 5, 5)},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "grouped queries": (
        three("Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v)"),
        {"wq": (6, 8), "wk": (6, 4), "wv": (6, 6), "wo": (12, 3)},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "past keys and values that are stored, and queries that cannot be zero": (
        network(
            f"{QKV} qs = Sigmoid(q) a, nk, nv = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1>"
            " (qs, k, v, , pk, pv)"
        ),
        SHARED | {"pk": (2, 2, 3, 4), "pv": (2, 2, 3, 4)},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "scores that are read, too": (
        network(
            f"{QKV} o, , , p = Attention <q_num_heads = 2, kv_num_heads = 2, softcap = 2.0, qk_matmul_output_mode = 2>"
            " (q, k, v) h = ReduceMean <keepdims = 0> (p, ax) e = MatMul(h, e5) a = Add(o, e)"
        ),
        SHARED | {"ax": np.array([1]), "e5": (5, 8)},
        ("wq/inner", "wv/inner"),
    ),
    "MultiHeadAttention": (
        three("com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)"),
        SHARED,
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "MultiHeadAttention with a bias": (
        three("com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, b)"),
        SHARED | {"b": (24,)},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "MultiHeadAttention with keys laid out by heads": (
        network(
            f"{QKV} k4 = Reshape(k, s) v4 = Reshape(v, s) kt = Transpose <perm = [0, 2, 1, 3]> (k4)"
            " vt = Transpose <perm = [0, 2, 1, 3]> (v4)"
            " a = com.microsoft.MultiHeadAttention <num_heads = 2> (q, kt, vt)"
        ),
        SHARED | {"s": np.array([0, 0, 2, 4])},
        ("wq/outer", "wq/inner"),
    ),
    "Attention with its weight inside": (
        network("a = com.microsoft.Attention <num_heads = 2> (x, w, b)"),
        {"w": (6, 24), "b": (24,), "wo": (8, 3)},
        ("w[0:8]/outer", "w[0:8]/inner", "w[16:24]/inner"),
    ),
    "Attention with its weight inside, parts of other sizes, and a scale": (
        network("a = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [6, 6, 8], scale = 0.3> (x, w, b)"),
        {"w": (6, 20), "b": (20,), "wo": (8, 3)},
        ("w[0:6]/outer", "w[0:6]/inner", "w[12:20]/inner"),
    ),
    "packed GroupQueryAttention": (
        network(
            "p = MatMul(x, w) a, keys, values = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>"
            " (p, , , , , lengths, total)"
        ),
        {"w": (6, 64), "wo": (32, 3), "lengths": np.array([4, 4], np.int32), "total": np.array(5, np.int32)},
        ("w[0:32]/outer",),
    ),
    "GroupQueryAttention": (
        network(
            f"{QKV} a, keys, values = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>"
            " (q, k, v, , , lengths, total)"
        ),
        {
            "wq": (6, 32),
            "wk": (6, 16),
            "wv": (6, 16),
            "wo": (32, 3),
            "lengths": np.array([4, 4], np.int32),
            "total": np.array(5, np.int32),
        },
        ("wq/outer",),
    ),
    "RotaryEmbedding of ONNX Runtime before MultiHeadAttention": (
        network(
            f"{QKV} qr = com.microsoft.RotaryEmbedding(q, p, c, s) kr = com.microsoft.RotaryEmbedding(k, p, c, s)"
            " a = com.microsoft.MultiHeadAttention <num_heads = 2> (qr, kr, v)"
        ),
        SHARED | {"c": (16, 2), "s": (16, 2), "p": np.tile(np.arange(5), (2, 1))},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "RotaryEmbedding before it": (
        network(
            f"{QKV} qr = RotaryEmbedding <num_heads = 2> (q, c, s, p) kr = RotaryEmbedding <num_heads = 2> (k, c, s, p)"
            " a = Attention <q_num_heads = 2, kv_num_heads = 2> (qr, kr, v)"
        ),
        SHARED | {"c": (16, 2), "s": (16, 2), "p": np.tile(np.arange(5), (2, 1))},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
    "a part of each head rotated in neighbouring pairs": (
        network(
            f"{QKV} qr = RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4, interleaved = 1> (q, c, s, p)"
            " kr = RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4, interleaved = 1> (k, c, s, p)"
            " a = Attention <q_num_heads = 2, kv_num_heads = 2> (qr, kr, v)"
        ),
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 8), "wo": (8, 3)}
        | {"c": (16, 2), "s": (16, 2), "p": np.tile(np.arange(5), (2, 1))},
        ("wq/outer", "wq/inner[0:4]/outer", "wq/inner[4:6]", "wv/inner"),
    ),
    "heads of four axes rotated, by angles computed from positions": (
        network(
            f"{QKV} q4 = Reshape(q, sh) k4 = Reshape(k, sh) v4 = Reshape(v, sh)"
            " qt = Transpose <perm = [0, 2, 1, 3]> (q4) kt = Transpose <perm = [0, 2, 1, 3]> (k4)"
            " vt = Transpose <perm = [0, 2, 1, 3]> (v4) t = Mul(p, f) c = Cos(t) s = Sin(t)"
            " qr = RotaryEmbedding(qt, c, s) kr = RotaryEmbedding(kt, c, s)"
            " o = Attention <softcap = 2.0> (qr, kr, vt) ot = Transpose <perm = [0, 2, 1, 3]> (o) a = Reshape(ot, fl)"
        ),
        SHARED
        | {"sh": np.array([0, 0, 2, 4]), "fl": np.array([0, 0, 8]), "f": (2,)}
        | {"p": np.tile(np.arange(5, dtype=np.float32)[:, None], (2, 1, 1))},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
}


def model(name: str) -> ir.Model:
    text, weights, _ = CASES[name]
    return model_of(text, weights, opset=23, ir_version=11, imports=MS)


@pytest.mark.parametrize("name", CASES)
def test_attention_grows_proved_by_all_tiers_and_alive(name: str) -> None:
    given = model(name)
    names = [s.name for s in analysis_of(given).growable]
    assert tuple(names) == CASES[name][2]
    for selected in (names[-1], None):
        result = Widen(selected, add=2)(given)
        assert result.report.verdict is Verdict.EQUIVALENT, selected
        assert all(r.alive for r in result.report.alive), selected


SHARED_PROJECTIONS = (
    "g (float[2,5,6] x, float[5,6] r) => (float[2,5,3] y) { q = MatMul(x, wq) k = MatMul(x, wk) pq = MatMul(r, wq)"
    " pk = MatMul(r, wk) kt = Transpose <perm = [0, 2, 1]> (k) s1 = MatMul(q, kt) pkt = Transpose(pk)"
    " pk3 = Unsqueeze(pkt, first) pkr = Tile(pk3, twice) s2 = MatMul(q, pkr) pqt = Transpose(pq) s3 = MatMul(k, pqt)"
    " s3t = Transpose <perm = [0, 2, 1]> (s3) s4 = Add(s1, s2) s5 = Add(s4, s3t) p = Softmax(s5) y = MatMul(p, v) }"
)


def test_projections_that_serve_several_products_are_zero_on_one_side_of_all() -> None:
    """Content with content, with positions, and positions with content: one by one, both would lose their rows."""
    weights = {"wq": (6, 4), "wk": (6, 4), "v": (2, 5, 3), "first": np.array([0]), "twice": np.array([2, 1, 1])}
    old = model_of(SHARED_PROJECTIONS, weights)
    result = Widen("wq", add=2)(old)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(r.alive for r in result.report.alive)
    stored = {k: np.array(result.model.graph.initializers[k].const_value.numpy())[:, 4:] for k in ("wq", "wk")}
    assert sorted(bool(values.any()) for values in stored.values()) == [False, True]
    grown = copy_model(result.model)
    name = next(k for k, values in stored.items() if not values.any())
    values = np.array(grown.graph.initializers[name].const_value.numpy())
    values[values == 0] = 1e-6
    Rewriter(grown).set_constant(name, ir.Tensor(values, name=name))
    assert certificate(old, grown) is TierStatus.FAILED


def test_an_implicit_scale_is_written_down_where_the_head_size_grows() -> None:
    grown = Widen("wq/inner", add=5)(model("Attention of three axes")).model
    node = next(n for n in grown.graph if n.op_type == "Attention")
    assert node.attributes["scale"].as_float() == 0.5
    heads = Widen("wq/outer", add=1)(model("Attention of three axes")).model
    node = next(n for n in heads.graph if n.op_type == "Attention")
    assert node.attributes["q_num_heads"].as_int() == node.attributes["kv_num_heads"].as_int() == 3
    assert "scale" not in node.attributes


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("Attention of three axes", "scale", 0.4),
        ("Attention of three axes", "scale", None),
        ("MultiHeadAttention", "num_heads", 3),
        ("Attention of four axes", "scale", None),
        ("Attention with its weight inside", "scale", None),
        ("Attention with its weight inside", "qkv_hidden_sizes", [12, 12, 8][::-1]),
    ],
)
def test_the_certificate_sees_a_wrong_scale_or_number_of_heads(name: str, attribute: str, value: object) -> None:
    old = model(name)
    grown = copy_model(Widen(CASES[name][2][1], add=2)(old).model)
    node = next(n for n in grown.graph if n.op_type.endswith("Attention"))
    Rewriter(grown).set_attribute(node.outputs[0].name or "", attribute, value)
    assert certificate(old, grown) is TierStatus.FAILED


@pytest.mark.parametrize(
    "name",
    ["GroupQueryAttention", "packed GroupQueryAttention", "Attention with its weight inside", "grouped queries"],
)
def test_the_certificate_sees_old_heads_that_change_places(name: str) -> None:
    old = model(name)
    grown = Widen(CASES[name][2][0], add=1)(old).model
    listed = GrowthMap.of_model(grown.metadata_props)
    assert listed is not None
    # The features of the output are said to be those of another order of heads.
    size = listed.values["a"].axes[2].new_size
    features = np.roll(listed.values["a"].axes[2].source(), size // 2)
    false = ValueGrowth({2: AxisMap.from_source(features)})
    grown.metadata_props[METADATA_KEY] = replace(listed, values={**listed.values, "a": false}).dumps()
    assert certificate(old, grown) is TierStatus.FAILED


@pytest.mark.parametrize("name", ["Attention of three axes", "MultiHeadAttention", "Attention of four axes"])
def test_the_certificate_sees_queries_and_keys_that_are_both_not_zero(name: str) -> None:
    old = model(name)
    grown = copy_model(Widen("wq/inner", add=2)(old).model)
    zeroed = [k for k in ("wq", "wk") if not np.all(grown.graph.initializers[k].const_value.numpy())]
    assert len(zeroed) == 1
    values = np.array(grown.graph.initializers[zeroed[0]].const_value.numpy())
    values[values == 0] = 1e-6
    Rewriter(grown).set_constant(zeroed[0], ir.Tensor(values, name=zeroed[0]))
    assert certificate(old, grown) is TierStatus.FAILED


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("MultiHeadAttention with a bias", "b"),
        ("Attention with its weight inside", "w"),
        ("Attention with its weight inside", "b"),
    ],
)
def test_the_certificate_sees_a_bias_that_fills_the_zeros_of_queries(name: str, tensor: str) -> None:
    old = model(name)
    grown = copy_model(Widen(CASES[name][2][1], add=2)(old).model)
    values = np.array(grown.graph.initializers[tensor].const_value.numpy())
    assert not np.all(values)
    values[values == 0] = 1e-6
    Rewriter(grown).set_constant(tensor, ir.Tensor(values, name=tensor))
    assert certificate(old, grown) is TierStatus.FAILED


ROTATED = [name for name in CASES if "otary" in name or "rotated" in name]


@pytest.mark.parametrize("name", ROTATED)
def test_old_features_keep_their_partners_and_angles(name: str) -> None:
    """Turned by other angles, or together with other features, they are refused."""
    old = model(name)
    pairs = next(n for n in CASES[name][2] if n not in ("wq/outer", "wq/inner[4:6]", "wv/inner"))
    grown = Widen(pairs, add=1)(old).model
    assert certificate(old, grown) is TierStatus.PASSED
    node = next(n for n in grown.graph if n.op_type == "RotaryEmbedding")
    before = node.attributes.get_int("interleaved", 0)
    other = copy_model(grown)
    Rewriter(other).set_attribute(node.outputs[0].name or "", "interleaved", 1 - before)
    assert certificate(old, other) is TierStatus.FAILED
    table = "f" if "computed" in name else "c"
    shifted = copy_model(grown)
    values = np.array(shifted.graph.initializers[table].const_value.numpy())
    Rewriter(shifted).set_constant(table, ir.Tensor(np.roll(values, 1, axis=-1), name=table))
    assert certificate(old, shifted) is TierStatus.FAILED


def test_the_certificate_sees_past_keys_that_fill_the_zeros_of_keys() -> None:
    old = model("past keys and values that are stored, and queries that cannot be zero")
    grown = copy_model(Widen("wq/inner", add=2)(old).model)
    values = np.array(grown.graph.initializers["pk"].const_value.numpy())
    assert (values[..., 4:] == 0).all()
    values[..., 4:] = 1e-6
    Rewriter(grown).set_constant("pk", ir.Tensor(values, name="pk"))
    assert certificate(old, grown) is TierStatus.FAILED


def test_packed_operands_that_the_cpu_does_not_run_are_refused_by_name() -> None:
    """Without a run nothing could be traced or verified; the reason says so."""
    text = (
        "g (float[2,5,6] x) => (float[2,5,3] y) { p = MatMul(x, w) q = Reshape(p, s)"
        " a = com.microsoft.MultiHeadAttention <num_heads = 2> (q) y = MatMul(a, wo) }"
    )
    weights = {"w": (6, 24), "s": np.array([0, 0, 2, 3, 4]), "wo": (8, 3)}
    with pytest.raises(GrowError, match="Packed QKV"):
        Widen(add=2)(model_of(text, weights, imports=MS))


def certificate(old: ir.Model, grown: ir.Model) -> TierStatus:
    report = verify(old, grown, tiers=("certificate",))
    return next(t for t in report.tiers if t.name == "certificate").status


def test_a_cache_freezes_the_heads_and_says_why() -> None:
    text = (
        "g (float[2,5,6] x, float[2,2,3,4] pk, float[2,2,3,4] pv) => (float[2,5,3] y, float[2,2,8,4] nk,"
        f" float[2,2,8,4] nv) {{ {QKV} a, nk, nv = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, , pk, pv)"
        " y = MatMul(a, wo) }"
    )
    analysis = analysis_of(model_of(text, SHARED, opset=23, ir_version=11))
    assert not analysis.growable
    reasons = [str(r) for s in analysis.sets for r in s.reasons]
    assert "it is an input of the network (input pk, axis 1)" in reasons


FUSED = {
    "FusedMatMul": (
        "g (float[4,6] x) => (float[4,3] y) { h = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, wa)"
        " y = com.microsoft.FusedMatMul <transA = 1> (t, wb) t = Transpose(h) }",
        {"wa": (4, 6), "wb": (4, 3)},
    ),
    "queries and keys by FusedMatMul": (
        "g (float[2,5,6] x) => (float[2,5,3] y) { q = MatMul(x, wq) k = MatMul(x, wk)"
        " a = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (q, k) p = Softmax(a) y = MatMul(p, v) }",
        {"wq": (6, 4), "wk": (6, 4), "v": (2, 5, 3)},
    ),
    "FusedConv": (
        "g (float[2,3,8,8] x) => (float[2,5,8,8] y) {"
        ' h = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [1, 1]> (x, wa, ba) '
        ' g = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [1, 1]> (x, wc, ba, h) y = Conv(g, wb) }',
        {"wa": (4, 3, 1, 1), "ba": (4,), "wc": (4, 3, 1, 1), "wb": (5, 4, 1, 1)},
    ),
    "FusedGemm": (
        'g (float[4,6] x) => (float[4,3] y) { h = com.microsoft.FusedGemm <activation = "Relu"> (x, wa, ba)'
        " y = MatMul(h, wb) }",
        {"wa": (6, 4), "ba": (4,), "wb": (4, 3)},
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_channels_grow_through_fused_linear_ops(name: str) -> None:
    text, weights = FUSED[name]
    result = Widen(add=2)(model_of(text, weights, imports=MS))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(r.alive for r in result.report.alive)
