"""Values of new entries under each method and scheme."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support import TOLERANCE, Grown, analysis_of, differences, grow_sets, model_of

from onnxgrow.concrete.values import constants
from onnxgrow.errors import UnsupportedError
from onnxgrow.plan import WidenRequest

MLP = (
    "g (float[N,6] x) => (float[N,3] y)"
    " { h = Gemm(x, wa, ba) a = Relu(h) g = MatMul(a, wb) r = Tanh(g) y = MatMul(r, wc) }"
)
WEIGHTS = {"wa": (6, 4), "ba": (4,), "wb": (4, 8), "wc": (8, 3)}


def grow(added: dict[str, int], graph: str = MLP, weights: object = None, **request: object) -> tuple[ir.Model, Grown]:
    model = model_of(graph, weights or WEIGHTS)  # type: ignore[arg-type]  # a table of shapes
    return model, grow_sets(model, analysis_of(model), added, WidenRequest(**request))  # type: ignore[arg-type]  # any field


def values(model: ir.Model, name: str) -> np.ndarray:
    return np.asarray(constants(model)[name].numpy())


def test_zero_fan_out_zeroes_what_old_outputs_read_of_new_channels_and_nothing_else() -> None:
    old, grown = grow({"wa": 2, "wb": 3})
    first, middle, last = (values(grown.model, n) for n in ("wa", "wb", "wc"))
    assert np.array_equal(first[:, :4], values(old, "wa"))
    assert (first[:, 4:] != 0).all()
    assert np.array_equal(middle[:4, :8], values(old, "wb"))
    assert not middle[4:, :8].any()
    assert (middle[:, 8:] != 0).all(), "new outputs may read anything"
    assert not last[8:].any()
    assert np.array_equal(values(grown.model, "ba"), [*values(old, "ba"), 0, 0])


def test_zero_fan_in_zeroes_the_new_outputs_and_lets_readers_be_random() -> None:
    graph = MLP.replace("Relu(h)", "Tanh(h)")
    old, grown = grow({"wa": 2, "wb": 3}, graph, method="zero-fan-in")
    assert not values(grown.model, "wa")[:, 4:].any()
    assert not values(grown.model, "wb")[:, 8:].any()
    assert (values(grown.model, "wb")[4:, :8] != 0).all()
    assert (values(grown.model, "wc")[8:] != 0).all()
    assert max(differences(old, grown.model)) <= TOLERANCE


def test_near_zero_readers_have_the_asked_spread() -> None:
    weights = {"wa": (6, 4), "ba": (4,), "wb": (4, 200), "wc": (200, 3)}
    old, grown = grow({"wa": 200}, weights=weights, method="near-zero", scale=0.01)
    new = values(grown.model, "wb")[4:]
    wanted = 0.01 * values(old, "wb").std()
    assert 0.9 * wanted < new.std() < 1.1 * wanted
    assert 0 < max(differences(old, grown.model)) < 0.5


def test_near_zero_has_no_scale_for_a_weight_without_spread() -> None:
    weights = {**WEIGHTS, "wb": np.ones((4, 8), np.float32)}
    _, grown = grow({"wa": 2}, weights=weights, method="near-zero")
    with pytest.raises(UnsupportedError, match="standard deviation"):
        values(grown.model, "wb")


def test_net2wider_shares_the_old_reader_among_the_copies() -> None:
    old, grown = grow({"wa": 6, "wb": 3}, method="net2wider")
    before, after = values(old, "wa"), values(grown.model, "wa")
    source = np.array([int(np.flatnonzero((before == after[:, [i]]).all(0))[0]) for i in range(10)])
    assert sorted(source[:4]) == [0, 1, 2, 3]
    assert set(np.bincount(source)) <= {2, 3}, "no channel is copied twice before all were copied once"
    readers = values(grown.model, "wb")[:, :8]
    for channel in range(4):
        np.testing.assert_allclose(readers[source == channel].sum(0), values(old, "wb")[channel], rtol=1e-6)
    assert max(differences(old, grown.model)) < 1e-6
    shares = grown.changes.values["h"].axes[1].segments[1:]
    assert {s.fact for s in shares} == {"copy"}
    assert [s.source for s in shares] == source[4:].tolist()
    assert all(s.share == 1 / np.bincount(source)[s.source] for s in shares)


def test_net2wider_through_flatten_and_normalisation_keeps_the_function() -> None:
    graph = (
        "g (float[N,3,4,4] x) => (float[N,5] y) { c = Conv(x, wa, ba) n = BatchNormalization(c, scale, shift, mean,"
        " var)"
        " r = Relu(n) d = Conv <group = 4> (r, wd) f = Flatten(d) y = Gemm(f, wb) }"
    )
    weights = {
        "wa": (4, 3, 1, 1),
        "ba": (4,),
        "scale": (4,),
        "shift": (4,),
        "mean": (4,),
        "var": (4,),
        "wd": (4, 1, 1, 1),
        "wb": (64, 5),
    }
    old, grown = grow({"wa": 3}, graph, weights, method="net2wider")
    assert max(differences(old, grown.model)) < 1e-6


def test_a_table_that_is_read_and_written_cannot_be_shared_out() -> None:
    graph = "g (int64[N,5] x) => (float[N,5,7] y) { h = Gather(wa, x) t = Transpose(wa) y = MatMul(h, t) }"
    _, grown = grow({"wa": 3}, graph, {"wa": (7, 4)}, method="net2wider")
    with pytest.raises(UnsupportedError, match="different shares"):
        values(grown.model, "wa")


@pytest.mark.parametrize("init", ["kaiming", "xavier", "lecun", "orthogonal"])
def test_schemes_draw_by_the_grown_fans(init: str) -> None:
    weights = {"wa": (64, 32), "ba": (32,), "wb": (32, 8), "wc": (8, 3)}
    graph = MLP.replace("float[N,6]", "float[N,64]")
    old, grown = grow({"wa": 96}, graph, weights, init=init)
    new = values(grown.model, "wa")[:, 32:]
    expected = {
        "kaiming": np.sqrt(2 / 64),
        "xavier": np.sqrt(2 * 2 / (64 + 128)),
        "lecun": np.sqrt(1 / 64),
        "orthogonal": np.sqrt(2 / 64),
    }[init]
    assert 0.85 * expected < new.std() < 1.15 * expected
    assert abs(new.mean()) < 0.1 * expected
    assert max(differences(old, grown.model)) <= TOLERANCE


def test_copied_writers_repeat_old_channels_and_their_readers_are_zero() -> None:
    old, grown = grow({"wa": 3}, init="copy")
    before, new = values(old, "wa"), values(grown.model, "wa")[:, 4:]
    assert all((before == new[:, [i]]).all(0).any() for i in range(3))
    assert not values(grown.model, "wb")[4:, :8].any()
    assert max(differences(old, grown.model)) <= TOLERANCE


NEUTRAL = [
    ("a = Add(h, k)", 0.0),
    ("a = Sub(h, k)", 0.0),
    ("a = Mul(h, k)", 1.0),
    ("a = Div(h, k)", 1.0),
    ("a = PRelu(h, k)", 0.25),
    ("a = Max(h, k)", None),
    ("b = Add(h, k) a = Mul(b, k)", None),
]


@pytest.mark.parametrize(("act", "neutral"), NEUTRAL)
def test_parameters_get_the_neutral_value_of_their_op_or_repeat_their_own(act: str, neutral: float | None) -> None:
    graph = f"g (float[N,6] x) => (float[N,3] y) {{ h = MatMul(x, wa) {act} y = MatMul(a, wb) }}"
    old, grown = grow({"wa": 2}, graph, {"wa": (6, 4), "k": (4,), "wb": (4, 3)})
    k = values(old, "k")
    expected = k[0] if neutral is None else neutral
    assert np.array_equal(values(grown.model, "k"), [*k, expected, expected])


def test_batch_normalisation_grows_as_the_identity() -> None:
    graph = (
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) a = BatchNormalization(h, scale, shift, mean, var)"
        " y = MatMul(a, wb) }"
    )
    names = ("scale", "shift", "mean", "var")
    _, grown = grow({"wa": 1}, graph, {"wa": (6, 4), "wb": (4, 3), **dict.fromkeys(names, (4,))})
    assert [values(grown.model, n)[4] for n in names] == [1, 0, 0, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_keep_their_type(dtype: type) -> None:
    rng = np.random.default_rng(0)
    kind = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    graph = f"g ({kind}[N,6] x) => ({kind}[N,3] y) {{ h = MatMul(x, wa) y = MatMul(h, wb) }}"
    weights = {"wa": rng.normal(size=(6, 4)).astype(dtype), "wb": rng.normal(size=(4, 3)).astype(dtype)}
    _, grown = grow({"wa": 2}, graph, weights)
    assert values(grown.model, "wa").dtype == dtype
    assert np.isfinite(values(grown.model, "wa")).all()
    assert not values(grown.model, "wb")[4:].any()


def test_tensors_are_made_when_they_are_read() -> None:
    """Planning and rewriting a large model must not hold its grown weights."""
    _, grown = grow({"wa": 2})
    lazy = grown.model.graph.initializers["wa"].const_value
    assert isinstance(lazy, ir.LazyTensor)
    assert tuple(lazy.shape.numpy()) == (6, 6)
    assert lazy.raw is not None
