"""Alive check: sets that can learn, sets that cannot, and what each activation does at exactly zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from by_hand import appended, grow, grown_cnn, grown_mlp, mlp, set_weight, text_model, weight

from onnxgrow.growth_map import GrowthMap, SetGrowth
from onnxgrow.verify.alive import _Probe, check
from onnxgrow.verify.float64.marks import new_marks
from onnxgrow.verify.float64.prepared import Prepared

RNG = np.random.default_rng(5)
X = {"x": RNG.normal(size=(16, 6)).astype(np.float32)}
IMAGES = {"x": RNG.normal(size=(2, 3, 9, 9)).astype(np.float32)}


def with_activation(body: str, method: str = "zero-fan-in", **extra: np.ndarray):
    """An MLP whose hidden activation is ``body`` (h → a), grown by hand."""
    text = f"""<ir_version: 8, opset_import: ["" : 20]> g (float[N,6] x) => (float[N,3] y) {{
        h = Gemm(x, w1, b1)  {body}  y = Gemm(a, w2, b2) }}"""
    base = mlp()
    model = text_model(text, {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")} | extra)
    return grown_mlp(model, method=method)


@pytest.mark.parametrize(("make", "feeds", "count"), [(grown_mlp, X, 3), (grown_cnn, IMAGES, 2)])
def test_zero_fan_out_is_alive_through_its_readers(make, feeds, count: int) -> None:
    _, grown, growth = make()
    (found,) = check(grown, growth, [feeds])
    assert (found.name, found.channels, found.alive) == ("w1", count, count)
    assert "readers" in found.note


DISCRETE = {
    "a class": "int64[N] c) => y = Gemm(a, w2, b2)  c = ArgMax <axis = 1, keepdims = 0> (y)",
    "a word": "string[N] c) => y = Gemm(a, w2, b2)  i = ArgMax <axis = 1, keepdims = 0> (y)"
    ' c = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["a", "b"]> (i)',
    "a truth value": "bool[N,3] c) => y = Gemm(a, w2, b2)  c = Greater(y, far)",
}


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("end", DISCRETE.values(), ids=DISCRETE)
def test_outputs_without_a_gradient_are_judged_by_the_scores_in_front_of_them(end: str, dead: bool) -> None:
    output, last = end.split(" => ")
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[N,6] x) => ('
        f"{output} {{ h = Gemm(x, w1, b1)  a = Relu(h)  {last} }}"
    )
    if dead:
        text = text.replace("y = Gemm(a, w2, b2)", "p = Gemm(a, w2, b2)  y = Mul(p, none)")
    base = mlp()
    constants = {"far": np.float32(1e3), "none": np.float32(0)}
    weights = {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")} | {n: x for n, x in constants.items() if n in text}
    _, grown, growth = grown_mlp(text_model(text, weights))
    (found,) = check(grown, growth, [X])
    assert found.alive == (0 if dead else 3), found.note


def test_the_size_of_a_value_is_no_score() -> None:
    base = mlp()
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y, int64[2] n) {
        h = Gemm(x, w1, b1)  a = Relu(h)  p = Gemm(a, w2, b2)  n = Shape(p)  y = Mul(p, none) }"""
    weights = {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")} | {"none": np.float32(0)}
    _, grown, growth = grown_mlp(text_model(text, weights))
    (found,) = check(grown, growth, [X])
    assert found.alive == 0


@pytest.mark.parametrize(
    ("body", "alive"),
    [
        ("a = Identity(h)", 3),
        ("a = Tanh(h)", 3),
        ("a = LeakyRelu(h)", 3),
        ("a = Gelu(h)", 3),
        ("a = HardSwish(h)", 3),
        ("a = Relu(h)", 0),
        ("a = Abs(h)", 0),
        ("a = Mul(h, h)", 0),
    ],
)
def test_zero_fan_in_is_alive_where_the_activation_has_a_slope_at_zero(body: str, alive: int) -> None:
    _, grown, growth = with_activation(body)
    (found,) = check(grown, growth, [X])
    assert found.alive == alive, found.note
    if alive:
        assert "writers" in found.note


@pytest.mark.parametrize(("method", "evaluated"), [("zero-fan-out", 2), ("zero-fan-in", 4)])
def test_writers_are_probed_only_where_a_gradient_can_come_back(
    method: str, evaluated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, grown, growth = with_activation("a = Tanh(h)", method)
    honest, seen = _Probe._evaluate, []

    def counted(prepared: Prepared, feeds: Mapping[str, Any], names: set[str]) -> tuple[dict[str, Any], list[Any]]:
        seen.append(prepared)
        return honest(prepared, feeds, names)

    monkeypatch.setattr(_Probe, "_evaluate", staticmethod(counted))
    (found,) = check(grown, growth, [X])
    assert found.alive == 3
    assert len(seen) == evaluated


def test_zeros_on_both_sides_are_dead() -> None:
    _, grown, growth = grown_mlp()
    w = weight(grown, "w1")
    w[:, 4:] = 0
    set_weight(grown, "w1", w)
    set_weight(grown, "b1", np.concatenate([weight(grown, "b1")[:4], np.zeros(3, np.float32)]))
    (found,) = check(grown, growth, [X])
    assert found.alive == 0
    assert found.note


def test_channels_that_are_off_on_all_inputs_are_counted_out() -> None:
    _, grown, growth = grown_mlp()
    b = weight(grown, "b1")
    b[5:] = -1000  # two of three units never fire
    set_weight(grown, "b1", b)
    assert check(grown, growth, [X])[0].alive == 1
    b[4:] = -1000
    set_weight(grown, "b1", b)
    assert check(grown, growth, [X])[0].alive == 0


def test_a_second_input_can_bring_a_channel_to_life() -> None:
    _, grown, growth = grown_mlp()
    b = weight(grown, "b1")
    b[4:] = -50
    set_weight(grown, "b1", b)
    assert check(grown, growth, [X])[0].alive == 0
    large = {"x": X["x"] * 1000}
    assert check(grown, growth, [X, large])[0].alive == 3


def test_nothing_is_said_where_the_old_channels_are_dead_too() -> None:
    base = mlp()
    set_weight(base, "b1", np.full(4, -1000, np.float32))
    _, grown, growth = grown_mlp(base)
    set_weight(grown, "b1", np.full(7, -1000, np.float32))
    (found,) = check(grown, growth, [X])
    assert found.alive is None
    assert "old channels" in found.note


def test_an_output_that_does_not_move_makes_a_set_dead() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  z = Gemm(a, w2, b2)  y = Mul(z, o) }"""
    base = mlp()
    weights = {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")}
    for value, alive in ((np.zeros(3, np.float32), 0), (np.ones(3, np.float32), 3)):
        _, grown, growth = grown_mlp(text_model(text, weights | {"o": value}))
        assert check(grown, growth, [X])[0].alive == alive


def test_one_dead_set_does_not_hide_among_live_ones() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,2] y) {
        h = MatMul(x, u)  a = Relu(h)  i = MatMul(a, v)  b = Relu(i)  y = MatMul(b, w) }"""
    shapes = {"u": (6, 4), "v": (4, 5), "w": (5, 2)}
    model = text_model(text, {n: RNG.normal(size=s).astype(np.float32) for n, s in shapes.items()})
    first, second = appended(4, 6), appended(5, 8)
    grown, growth = grow(
        model,
        {"u": {1: first}, "v": {0: first, 1: second}, "w": {0: second}},
        {"h": {1: first}, "a": {1: first}, "i": {1: second}, "b": {1: second}},
        (SetGrowth("u", 4, 6, ("u",), ("v",)), SetGrowth("v", 5, 8, ("v",), ("w",))),
        {"v": 0, "w": 0},
    )
    assert [r.alive for r in check(grown, growth, [X])] == [2, 3]
    v = weight(grown, "v")
    v[:, 5:] = 0  # the second set's writers; its readers are zero as well
    set_weight(grown, "v", v)
    assert [r.alive for r in check(grown, growth, [X])] == [2, 0]


def test_a_weight_behind_a_transpose_is_followed_to_its_reader() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y) {
        h = Gemm(x, w1, b1)  a = Relu(h)  t = Transpose(w2)  y = Gemm<transB = 1>(a, t, b2) }"""
    base = mlp()
    _, grown, growth = grown_mlp(text_model(text, {n: weight(base, n) for n in ("w1", "b1", "w2", "b2")}))
    assert check(grown, growth, [X])[0].alive == 3


def test_what_cannot_be_measured_is_not_called_alive() -> None:
    _, grown, growth = with_activation("r = RandomNormalLike(h)  a = Add(h, r)", "zero-fan-out")
    (found,) = check(grown, growth, [X])
    assert found.alive is None
    assert "RandomNormalLike" in found.note
    _, grown, growth = grown_mlp()
    nobody = GrowthMap(sets=(SetGrowth("w1", 4, 7, ("w1",), ()),), values=growth.values, tensors=growth.tensors)
    assert check(grown, nobody, [X])[0].alive is None


def test_nothing_grew_nothing_is_reported() -> None:
    assert check(mlp(), GrowthMap(), [X]) == ()


def test_entries_can_be_limited_to_what_reads_or_what_writes() -> None:
    axes = {0: appended(2, 3), 1: appended(1, 2)}
    rows = np.arange(3)
    assert np.array_equal(new_marks((3, 2), axes).at(rows), [[False, True], [False, True], [True, True]])
    assert np.array_equal(new_marks((3, 2), {0: axes[0]}).at(rows), [[False, False], [False, False], [True, True]])
    assert np.array_equal(new_marks((3, 2), axes, {0}).at(rows), [[False, True], [False, True], [False, False]])
    assert np.array_equal(new_marks((3, 2), axes).at(rows[2:]), [[True, True]])


ATTENTION = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,N] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  t = Transpose<perm = [1, 0]>(k)  y = MatMul(q, t) }"""


@pytest.mark.parametrize(("zero", "alive"), [({"wk"}, 2), ({"wq"}, 2), ({"wq", "wk"}, 0)])
def test_channels_that_two_computed_values_sum_over_need_one_side_alive(zero: set[str], alive: int) -> None:
    model = text_model(ATTENTION, {n: RNG.normal(size=(6, 4)).astype(np.float32) for n in ("wq", "wk")})
    axis = appended(4, 6)
    grown, growth = grow(
        model,
        {"wq": {1: axis}, "wk": {1: axis}},
        {"q": {1: axis}, "k": {1: axis}, "t": {0: axis}},
        (SetGrowth("wq", 4, 6, ("wq", "wk"), ()),),
        dict.fromkeys(zero, 1),
    )
    (found,) = check(grown, growth, [X])
    assert found.alive == alive, found.note


@pytest.mark.parametrize(("zero", "alive"), [({"wk"}, 2), ({"wq", "wk"}, 0)])
def test_queries_made_of_constants_are_no_weight(zero: set[str], alive: int) -> None:
    """Learned queries that only weights and constants make: what reads the keys is computed."""
    text = ATTENTION.replace("q = MatMul(x, wq)", "q = MatMul(c, wq)").replace("float[N,N] y", "float[3,N] y")
    tensors = {"wq": RNG.normal(size=(6, 4)), "wk": RNG.normal(size=(6, 4)), "c": RNG.normal(size=(3, 6))}
    axis = appended(4, 6)
    grown, growth = grow(
        text_model(text, {n: t.astype(np.float32) for n, t in tensors.items()}),
        {"wq": {1: axis}, "wk": {1: axis}},
        {"q": {1: axis}, "k": {1: axis}, "t": {0: axis}},
        (SetGrowth("wq", 4, 6, ("wq", "wk"), ()),),
        dict.fromkeys(zero, 1),
    )
    (found,) = check(grown, growth, [X], shapes={"t": (6, 16)})
    assert found.alive == alive, found.note


EXPERTS = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x, float[N,5] share) => (float[N,3] y) {
    h = Einsum <equation = "bi,eih->beh"> (x, up)  a = Tanh(h)
    y = Einsum <equation = "beh,eho,be->bo"> (a, down, share) }"""
SCORES = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,N] y) {
    q = MatMul(x, up)  k = MatMul(x, down)  y = Einsum <equation = "qd,kd->qk"> (q, k) }"""


@pytest.mark.parametrize(("zero", "alive"), [({"down"}, 2), ({"up"}, 2), ({"up", "down"}, 0)])
def test_an_einsum_reads_along_the_letters_that_it_sums_over(zero: set[str], alive: int) -> None:
    """The axis of the experts stays, so that what moves is what reads the new channels, and what writes them."""
    tensors = {"up": RNG.normal(size=(5, 6, 4)), "down": RNG.normal(size=(5, 4, 3))}
    model = text_model(EXPERTS, {n: t.astype(np.float32) for n, t in tensors.items()})
    axis = appended(4, 6)
    sets = (SetGrowth("up", 4, 6, ("up",), ("down",)),)
    maps = {"up": {2: axis}, "down": {1: axis}}
    zeros = {name: {"up": 2, "down": 1}[name] for name in zero}
    grown, growth = grow(model, maps, {"h": {2: axis}, "a": {2: axis}}, sets, zeros)
    feeds = {**X, "share": RNG.random(size=(16, 5)).astype(np.float32)}
    (found,) = check(grown, growth, [feeds])
    assert found.alive == alive, found.note


@pytest.mark.parametrize(("zero", "alive"), [({"down"}, 2), ({"up", "down"}, 0)])
def test_an_einsum_of_two_computed_values_needs_one_side_alive(zero: set[str], alive: int) -> None:
    model = text_model(SCORES, {n: RNG.normal(size=(6, 4)).astype(np.float32) for n in ("up", "down")})
    axis = appended(4, 6)
    sets = (SetGrowth("up", 4, 6, ("up", "down"), ()),)
    values = {"q": {1: axis}, "k": {1: axis}}
    grown, growth = grow(model, {"up": {1: axis}, "down": {1: axis}}, values, sets, dict.fromkeys(zero, 1))
    (found,) = check(grown, growth, [X])
    assert found.alive == alive, found.note


@pytest.mark.parametrize("size", [4, 6])
def test_square_weights_are_moved_on_the_writing_axis_only(size: int) -> None:
    # v reads and writes sets of the same sizes: moving its zeros would make the dead second set look alive
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,2] y) {
        a = MatMul(x, u)  b = MatMul(a, v)  y = MatMul(b, w) }"""
    shapes = {"u": (6, size), "v": (size, size), "w": (size, 2)}
    model = text_model(text, {n: RNG.normal(size=s).astype(np.float32) for n, s in shapes.items()})
    axis = appended(size, size + 2)
    grown, growth = grow(
        model,
        {"u": {1: axis}, "v": {0: axis, 1: axis}, "w": {0: axis}},
        {"a": {1: axis}, "b": {1: axis}},
        (SetGrowth("u", size, size + 2, ("u",), ("v",)), SetGrowth("v", size, size + 2, ("v",), ("w",))),
        {"v": 0, "w": 0},
    )
    assert [r.alive for r in check(grown, growth, [X])] == [2, 2]
    v = weight(grown, "v")
    v[:, size:] = 0
    set_weight(grown, "v", v)
    assert [r.alive for r in check(grown, growth, [X])] == [2, 0]


def moved_to(grown, growth, name: str, new: str, nodes: tuple[int, ...]):
    """Let the given nodes read a new initializer that holds what ``name`` holds; the map leads back with ``of``."""
    tensor = weight(grown, name)
    value = ir.Value(name=new, shape=ir.Shape(tensor.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(tensor, name=new)
    grown.graph.register_initializer(value)
    for index in nodes:
        node = grown.graph[index]
        node.replace_input_with([v.name for v in node.inputs].index(name), value)
    return replace(growth, tensors={**growth.tensors, new: replace(growth.tensors[name], of=name)})


def test_a_weight_that_got_a_new_name_is_followed() -> None:
    _, grown, growth = grown_mlp()
    for name, new, node in (("w1", "w1_new", 0), ("w2", "w2_new", 2)):
        growth = moved_to(grown, growth, name, new, (node,))
        growth = replace(growth, tensors={k: t for k, t in growth.tensors.items() if k != name})
    (found,) = check(grown, growth, [X])
    assert found.alive == 3
    assert "w2_new" in found.note
    for name in ("w1_new", "b1"):
        w = weight(grown, name)
        w[..., 4:] = 0
        set_weight(grown, name, w)
    (found,) = check(grown, growth, [X])
    assert (found.alive, found.hopeless) == (0, True)


def test_a_shared_weight_that_fell_into_pieces_is_judged_by_the_piece_of_each_set() -> None:
    # u and v are read with the same weight w; each set has its own piece of it, and one set is dead
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,2] y, float[N,2] z) {
        a = MatMul(x, u)  b = MatMul(x, v)  y = MatMul(a, w)  z = MatMul(b, w) }"""
    shapes = {"u": (6, 4), "v": (6, 4), "w": (4, 2)}
    model = text_model(text, {n: RNG.normal(size=s).astype(np.float32) for n, s in shapes.items()})
    axis = appended(4, 6)
    grown, growth = grow(
        model,
        {"u": {1: axis}, "v": {1: axis}, "w": {0: axis}},
        {"a": {1: axis}, "b": {1: axis}},
        (SetGrowth("u", 4, 6, ("u",), ("w",)), SetGrowth("v", 4, 6, ("v",), ("w",))),
        {"w": 0},
    )
    growth = moved_to(grown, growth, "w", "w_2", (3,))
    assert [r.alive for r in check(grown, growth, [X])] == [2, 2]
    v = weight(grown, "v")
    v[:, 4:] = 0
    set_weight(grown, "v", v)
    assert [r.alive for r in check(grown, growth, [X])] == [2, 0]
