from __future__ import annotations

import hashlib

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxgrow.concrete import sample_inputs

COPY = "g (float[N] x) => (float[N] y) { y = Identity (x) }"


def test_floats_have_both_signs_and_edge_values(parse):
    x = sample_inputs(parse(COPY), {"x": (1000,)})["x"]
    assert x.dtype == np.float32
    assert (x < 0).mean() > 0.4
    assert (x > 0).mean() > 0.4
    for edge in (0, 1, -1, 16, -16):
        assert (x == edge).any()
    bulk = x[np.abs(x) < 3.6]
    assert abs(bulk.mean()) < 0.2
    assert 0.8 < bulk.std() < 1.2


def test_the_stream_is_stable(parse):
    digest = hashlib.sha256(sample_inputs(parse(COPY), {"x": (64,)})["x"].tobytes()).hexdigest()
    assert digest == "f43c984d6edfc8d8a3a1175c787d58bab8041f768607a6d48909ea38b4f5b34c"


def test_seed_variant_and_name_key_the_stream(parse):
    model = parse("g (float[N] x, float[N] y) => (float[N] z) { z = Add (x, y) }")
    shapes = {"x": (64,), "y": (64,)}
    base = sample_inputs(model, shapes)
    assert not np.array_equal(base["x"], base["y"])
    assert np.array_equal(base["x"], sample_inputs(model, shapes)["x"])
    for other in (sample_inputs(model, shapes, seed=1), sample_inputs(model, shapes, variant=1)):
        assert not np.array_equal(base["x"], other["x"])


def test_positive_floats_on_request(parse):
    assert sample_inputs(parse(COPY), {"x": (100,)}, positive=True)["x"].min() >= 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "uint8", "int8", "int32", "int64", "bool"])
def test_every_dtype_and_rank_zero(parse, dtype):
    model = parse(f"g ({dtype}[N] x, {dtype} s) => ({dtype}[N] y) {{ y = Identity (x) }}")
    feeds = sample_inputs(model, {"x": (40,), "s": ()})
    expected = model.graph.inputs[0].dtype.numpy()
    assert feeds["x"].dtype == feeds["s"].dtype == expected
    assert feeds["x"].shape == (40,)
    assert feeds["s"].shape == ()


# (graph, input, lowest, highest allowed): the input is an integer, its range follows from its uses.
TABLE = "float[11, 4] t = {" + ", ".join(["0"] * 44) + "}"
RANGES = {
    "gather": (f"g (int64[B] i) => (float[B, 4] y) <{TABLE}> {{ y = Gather (t, i) }}", 0, 10),
    "gather on another axis": (
        f"g (int64[B] i) => (float[n, B] y) <{TABLE}> {{ y = Gather <axis = -1> (t, i) }}",
        0,
        3,
    ),
    "through cast and reshape": (
        f"""g (int32[B] i) => (float[n, m] y) <{TABLE}, int64[1] minus = {{-1}}> {{
            c = Cast <to = 7> (i)  r = Reshape (c, minus)  y = Gather (t, r) }}""",
        0,
        10,
    ),
    "an offset is added": (
        f"g (int64[B] i) => (float[B, 4] y) <{TABLE}, int64 two = {{2}}> {{ j = Add (i, two)  y = Gather (t, j) }}",
        0,
        8,
    ),
    "the tightest of two tables": (
        f"""g (int64[B] i) => (float[B, 4] y) <{TABLE}, float[3, 4] u = {{0,0,0,0,0,0,0,0,0,0,0,0}}> {{
            a = Gather (t, i)  b = Gather (u, i)  y = Add (a, b) }}""",
        0,
        2,
    ),
    "a table that is computed": (
        """g (int64[B] i, float[T, 4] x) => (float[B, 4] y) { t = Relu (x)  y = Gather (t, i) }""",
        0,
        6,
    ),
    "one hot": (
        """g (int64[B] i) => (float[B, 6] y) <int64 depth = {6}, float[2] v = {0, 1}> {
            y = OneHot (i, depth, v) }""",
        0,
        5,
    ),
    "one hot by comparison": (
        """g (int64[B, 1] i) => (bool[B, 7] y) <int64[7] r = {0, 1, 2, 3, 4, 5, 6}> { y = Equal (i, r) }""",
        0,
        6,
    ),
    "gather elements": (
        f"g (int64[11, 2] i) => (float[11, 2] y) <{TABLE}> {{ y = GatherElements <axis = 1> (t, i) }}",
        0,
        3,
    ),
    "a mask in where": (
        """g (int64[B] i, float[B] x) => (float[B] y) { c = Cast <to = 9> (i)  y = Where (c, x, x) }""",
        0,
        1,
    ),
    "a mask subtracted from one": (
        """g (int64[B, T] i) => (float[B, T] y) <float one = {1.0}> {
            f = Cast <to = 1> (i)  y = Sub (one, f) }""",
        0,
        1,
    ),
    "inside an if": (
        f"""g (int64[B] i, bool c) => (float[B, 4] y) <{TABLE}> {{
            y = If (c) <then_branch = t1 () => (float[B, 4] a) {{ a = Gather (t, i) }},
                        else_branch = e1 () => (float[B, 4] b) {{ b = Gather (t, i) }}>
        }}""",
        0,
        10,
    ),
}


@pytest.mark.parametrize(("graph", "low", "high"), RANGES.values(), ids=RANGES)
def test_integers_stay_in_the_range_the_uses_allow(parse, graph, low, high):
    model = parse(graph)
    shapes = {"i": {1: (200,), 2: (200, 1)}[len(model.graph.inputs[0].shape)], "x": (7, 4), "c": ()}
    if "GatherElements" in graph:
        shapes["i"] = (11, 2)
    if "Where" in graph:
        shapes["x"] = (200,)
    wanted = {value.name: shapes[value.name] for value in model.graph.inputs}
    i = sample_inputs(model, wanted)["i"]
    assert i.min() >= low
    assert i.max() <= high
    if "GatherElements" not in graph and "1 - " not in graph and i.shape[-1] > 1:
        assert i.max() == high, "the far end of the range is exercised"


def test_a_range_inside_a_function_is_found():
    model = ir.from_proto(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (int64[B] i, float[9, 2] t) => (float[B, 2] y) { y = local.embed (i, t) }
        <domain: "local", opset_import: ["": 17]> embed (a, b) => (c) {
            k = Identity (a)  table = Constant <value = float[3, 1] {1, 2, 3}> ()  c = Gather (table, k) }
        """)
    )
    i = sample_inputs(model, {"i": (100,), "t": (9, 2)})["i"]
    assert (i.min(), i.max()) == (0, 2)


def test_a_range_behind_a_function_is_found():
    model = ir.from_proto(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (int64[B] i) => (float[B, 1] y) <float[4, 1] table = {1, 2, 3, 4}> {
            k = local.same (i)  y = Gather (table, k) }
        <domain: "local", opset_import: ["": 17]> same (a) => (b) { b = Identity (a) }
        """)
    )
    i = sample_inputs(model, {"i": (100,)})["i"]
    assert (i.min(), i.max()) == (0, 3)


def test_a_scalar_compared_with_constants_is_one_of_them(parse):
    model = parse("""g (int64 sr, float[B] x) => (float[B] y) <int64 a = {16000}, int64 b = {8000}> {
        p = Equal (sr, a)  q = Equal (sr, b)  c = Or (p, q)  y = Where (c, x, x) }""")
    assert sample_inputs(model, {"sr": (), "x": (5,)})["sr"] in (8000, 16000)


def test_every_row_of_a_mask_keeps_a_valid_position_and_some_are_masked(parse):
    model = parse("g (bool[B, T] m, float[B, T] x) => (float[B, T] y) { y = Where (m, x, x) }")
    mask = sample_inputs(model, {"m": (50, 9), "x": (50, 9)})["m"]
    assert mask[:, 0].all()
    assert mask[0].all()
    assert not mask.all()


def test_an_index_wins_over_a_mask(parse):
    model = parse(
        f"""g (int64[B] i) => (float[B, 4] y, bool[B] pad) <{TABLE}, int64 one = {{1}}> {{
        y = Gather (t, i)  pad = Equal (i, one) }}"""
    )
    assert sample_inputs(model, {"i": (200,)})["i"].max() == 10


def test_sequence_lengths_fit_the_sequence(parse):
    zeros = lambda count: "{" + ", ".join(["0"] * count) + "}"  # noqa: E731 - one word in three places
    model = parse(f"""g (float[T, B, 2] x, int32[B] lens) => (float[T, 1, B, 3] y)
        <float[1, 3, 2] w = {zeros(6)}, float[1, 3, 3] r = {zeros(9)}, float[1, 6] b = {zeros(6)}> {{
        y = RNN <hidden_size = 3> (x, w, r, b, lens) }}""")
    lens = sample_inputs(model, {"x": (7, 40, 2), "lens": (40,)})["lens"]
    assert lens.min() >= 1
    assert lens.max() == 7


def test_strings_are_keys_the_model_knows(parse):
    model = parse(
        """g (string[N] s) => (int64[N] y) {
        y = ai.onnx.ml.LabelEncoder <keys_strings = ["red", "green"], values_int64s = [0, 1]> (s) }""",
        others=', "ai.onnx.ml": 2',
    )
    assert set(sample_inputs(model, {"s": (20,)})["s"]) == {"red", "green"}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("attention_mask", lambda v: set(v.ravel().tolist()) <= {0, 1} and v[:, 0].all()),
        ("token_type_ids", lambda v: set(v.ravel().tolist()) == {0, 1}),
        ("position_ids", lambda v: (v == np.arange(9)).all()),
        ("lengths", lambda v: v.min() >= 1),
        ("counts", lambda v: v.min() >= 1 and v.max() <= 3),
    ],
)
def test_where_structure_says_nothing_the_name_decides(parse, name, check):
    model = parse(f"g (int64[B, T] {name}) => (int64[B, T] y) {{ y = Neg ({name}) }}")
    assert check(sample_inputs(model, {name: (20, 9)})[name])
