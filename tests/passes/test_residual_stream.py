"""Residual streams: what grows in which way, the proof of it, and faults that the proof has to see."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from stream_faults import Faulty, listed, put, stored, with_other_rows, without_factor
from stream_nets import DENSE, LN1, NETS, WEIGHTS, N, net
from support import analysis_of, model_of

from onnxgrow.analysis.follower import Follower
from onnxgrow.errors import NotEquivalentError, UnsupportedError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.passes import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict


@pytest.mark.parametrize("name", NETS)
def test_streams_grow_in_the_way_that_their_norms_allow(name: str) -> None:
    """All tiers agree; the stream and the hidden layer grow by different numbers."""
    model, used = net(name), NETS[name]
    step = Widen(residual=True, add=used.add)
    plan = step.plan(model)[1]
    modes = {p.channel_set.size: p.way.mode for p in plan.sets if p.way is not None}
    assert modes == {N: used.mode}
    assert {p.added for p in plan.sets} == {used.add}
    result = step(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(a.alive for a in result.report.alive)
    grown = next(s for s in result.growth_map.sets if s.old == N)
    assert grown.method == f"residual-{used.mode}"
    assert GrowthMap.loads(result.growth_map.dumps()) == result.growth_map


def test_streams_stay_unless_they_are_asked_for() -> None:
    """Without --residual they are named among what stays; naming a set is asking."""
    model = net("pre-norm LayerNorm")
    plan = Widen().plan(model)[1]
    assert [p.channel_set.size for p in plan.sets] == [5]
    assert [why for why in plan.skipped.values() if "--residual" in why]
    stream = next(s.name for s in Widen().plan(model)[0].analysis.sets if s.residual)
    named = Widen(stream, add=1).plan(model)[1]
    assert [(p.channel_set.size, p.new) for p in named.sets] == [(N, N + 1)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"add": 3}, f"multiple of {N}"),
        ({"factor": 2, "method": "near-zero"}, "zero-fan-out"),
        ({"factor": 2, "init": "copy"}, "--init copy"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(arguments: Mapping[str, object], reason: str) -> None:
    model = net("post-norm")
    stream = next(s.name for s in Widen().plan(model)[0].analysis.sets if s.residual)
    with pytest.raises(UnsupportedError, match=reason):
        Widen(stream, **arguments).plan(model)  # type: ignore[arg-type]  # a table of keyword arguments


def test_a_constant_of_two_uses_that_need_different_channels_leaves_only_copies() -> None:
    """A shift of a norm that is a bias of the stream, too: its new entries would have to be zero and a mean."""
    graph = NETS["layer scale"].graph.replace("d1 = Add(d0, b1)", "d1 = Add(d0, c1)")
    used = {k: v for k, v in WEIGHTS.items() if k in ("w0", "b0", "g1", "c1", "w1", "w2", "ls", "g2", "c2", "w3")}
    model = model_of(graph, used)
    sets = Widen().plan(model)[0].analysis.sets
    assert [[way.mode for way in s.ways] for s in sets if s.residual] == [["copy"]]
    assert Widen(residual=True, factor=2)(model).report.verdict is Verdict.EQUIVALENT


def test_a_stream_with_an_op_that_needs_all_channels_is_refused() -> None:
    graph = DENSE + LN1 + " m = Softmax <axis = -1> (n1) t = MatMul(m, w1) r = Relu(t) y = MatMul(r, w5) }"
    used = {k: WEIGHTS[k] for k in ("w0", "b0", "g1", "c1", "w1")} | {"w5": (5, 3)}
    sets = Widen().plan(model_of(graph, used))[0].analysis.sets
    stream = next(s for s in sets if s.size == N)
    assert not stream.growable
    assert "normalised over (Softmax m, axis 1)" in str(stream.reasons[0])


@pytest.mark.parametrize(("reader", "modes"), [("Abs(d)", []), ("Relu(d)", []), ("Tanh(d)", ["zero"])])
def test_zeros_behind_a_function_that_is_flat_there_are_no_way_to_grow(reader: str, modes: list[str]) -> None:
    """Lengths allow zeros; but |0| passes no gradient on, so neither their writer nor their reader could learn."""
    graph = (
        "g (float[N,6] x) => (float[N,3] y, float[N,1] length) { d = MatMul(x, w0)"
        f" length = ReduceL2 <axes = [1]> (d) a = {reader} y = MatMul(a, w3) }}"
    )
    sets = analysis_of(model_of(graph, {"w0": (6, N), "w3": (N, 3)})).sets
    stream = next(s for s in sets if s.size == N)
    assert [way.mode for way in stream.ways] == modes
    assert stream.growable == bool(modes)


@pytest.mark.parametrize(
    ("between", "alive"),
    [
        ("z = InstanceNormalization (e, sc, bi)", False),
        ("n = InstanceNormalization (e, sc, bi) i = Max(n, low) j = Min(i, high) z = Tanh(j)", False),
        ("n = MaxPool <kernel_shape = [2]> (e) z = BatchNormalization (n, sc, bi, mean, var)", False),
        ("n = Max(e, low) z = Neg(n)", False),
        ("n = ReduceMax <axes = [2]> (e) z = Neg(n)", True),
        ("n = Abs(e) m = ReduceMax <axes = [2]> (n) z = Neg(m)", False),
        ("n = LpPool <kernel_shape = [2], p = 3> (e) z = Tanh(n)", False),
        ("n = Abs(e) m = Relu(e) z = Sub(n, m)", False),
        ("n = Abs(e) z = Concat <axis = 2> (n, e)", False),
        ("n = Abs(e) z = Add(n, high)", True),
        ("z = Min(e, low)", True),
        ("z = BatchNormalization (e, sc, bi, mean, var)", True),
        ("n = InstanceNormalization (e, sc, bi) z = Exp(n)", True),
    ],
)
def test_zeros_of_which_nothing_says_that_they_are_any_are_no_way_to_grow(
    between: str, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their readers would have to be zero, too; what is refused, and only that, the alive check finds dead."""
    graph = (
        "g (float[N,3,6] x) => (float[N,2,M] y, float[N,1,6] s) { d = Conv(x, k) s = ReduceSumSquare <axes = [1]> (d)"
        f" e = Elu(d) {between} y = Conv(z, r) }}"
    )
    parameters = dict.fromkeys(("sc", "bi", "mean", "var"), (4,))
    bounds = {"low": np.float32(-1), "high": np.float32(1)}
    every = {"k": (4, 3, 1), "r": (2, 4, 1), **parameters, **bounds}
    used = {name: w for name, w in every.items() if name in re.split(r"\W+", graph)}
    model = model_of(graph, used)
    stream = next(s for s in analysis_of(model).sets if s.size == 4)
    assert [way.mode for way in stream.ways] == (["zero"] if alive else [])
    if alive:
        assert Widen(residual=True, add=2)(model).report.verdict is Verdict.EQUIVALENT
        return
    monkeypatch.setattr(Follower, "_is_silent", lambda *_: False)
    with pytest.raises(NotEquivalentError, match="none of its 2 new channels can learn"):
        Widen(residual=True, add=2)(model)


@pytest.mark.parametrize(("between", "mode", "factor"), [("Relu", "copy", 2.0), ("Identity", "mean", 1.5)])
def test_what_is_made_of_places_and_tiled_over_the_batch_joins_a_stream(between: str, mode: str, factor: float) -> None:
    graph = (
        "g (float[N,4,6] x) => (float[N,4,3] y) { d0 = MatMul(x, w0) s = Shape(x) b = Slice(s, zero, one)"
        " e = Concat <axis = 0> (b, ones) z = Expand(places, e) p0 = MatMul(z, w7) p1 = Tile(p0, once) d1 = Add(d0, p1)"
        f" d = {between}(d1) n = LayerNormalization(d, g1, c1) y = MatMul(n, w3) }}"
    )
    shapes = {"w0": (6, N), "places": (1, 4, 5), "w7": (5, N), "g1": (N,), "c1": (N,), "w3": (N, 3)}
    integers = {"zero": np.array([0]), "one": np.array([1]), "ones": np.array([1, 1]), "once": np.array([1, 1, 1])}
    model = model_of(graph, {**shapes, **integers})
    stream = next(s for s in analysis_of(model).growable if s.residual)
    assert stream.ways[0].mode == mode
    assert Widen(residual=True, factor=factor)(model).report.verdict is Verdict.EQUIVALENT


def test_nodes_in_any_order_are_proved_in_float64() -> None:
    """Converters append nodes at the end; a norm that grew has its exact epsilon put in before it is compared."""
    model = net("pre-norm LayerNorm")
    first = next(iter(model.graph))
    model.graph.remove(first)
    model.graph.append(first)
    report = Widen(residual=True, factor=2)(model).report
    assert report.verdict is Verdict.EQUIVALENT
    assert {t.name: t.status for t in report.tiers}["float64"] is TierStatus.PASSED


def without_epsilon(old: ir.Model, new: ir.Model, growth_map: GrowthMap, norm: str = "n1") -> Faulty:
    node = next(n for n in new.graph if n.outputs[0].name == norm)
    node.attributes["epsilon"] = next(n for n in old.graph if n.outputs[0].name == norm).attributes["epsilon"]
    return new, replace(growth_map, nodes={k: c for k, c in growth_map.nodes.items() if k != norm})


def with_plain_means(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    """What writes through a scale of the layer holds the mean of its columns, not of the scaled ones."""
    values = stored(new, "w2")
    values[:, N:] = values[:, :N].mean(axis=1, keepdims=True)
    put(new, "w2", values)
    return new, listed(growth_map, "w2", replace(growth_map.tensors["w2"], weights=""))


def with_a_shift(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    """A new channel of a norm that is not zero where weights read it at random."""
    values = stored(new, "c1")
    values[N:] = 1
    put(new, "c1", values)
    return new, growth_map


def with_read_channels(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    """A reader without a norm in front that reads new channels."""
    values = stored(new, "w4")
    values[N:] = 1
    put(new, "w4", values)
    return new, growth_map


FAULTS: dict[str, tuple[str, Callable[[ir.Model, ir.Model, GrowthMap], Faulty]]] = {
    "scale not multiplied (LayerNorm)": ("pre-norm LayerNorm", lambda a, b, m: without_factor(a, b, m, "g1")),
    "ε not scaled (LayerNorm)": ("pre-norm LayerNorm", without_epsilon),
    "scale not multiplied (decomposed)": (
        "pre-norm LayerNorm, decomposed",
        lambda a, b, m: without_factor(a, b, m, "g1"),
    ),
    "ε not scaled (decomposed)": ("pre-norm LayerNorm, decomposed", lambda a, b, m: without_factor(a, b, m, "eps")),
    "scale not multiplied (RMSNorm)": ("RMSNorm, decomposed", lambda a, b, m: without_factor(a, b, m, "g1")),
    "ε not scaled (RMSNormalization)": ("RMSNormalization", without_epsilon),
    "w not scaled (1 + w)": ("RMSNorm with 1 + w", lambda a, b, m: without_factor(a, b, m, "g1")),
    "new channels that are no mean": ("pre-norm LayerNorm", with_other_rows),
    "new channels that are not zero": ("RMSNorm, decomposed", with_other_rows),
    "new channels that are no copies": ("post-norm", with_other_rows),
    "β of a new channel": ("pre-norm LayerNorm", with_a_shift),
    "a reader that reads means": ("a reader without a norm", with_read_channels),
    "scale not multiplied (sums)": ("sums normalised by one operator", lambda a, b, m: without_factor(a, b, m, "g2")),
    "ε not scaled (sums)": ("sums normalised by one operator", lambda a, b, m: without_epsilon(a, b, m, "n2")),
    "a reader that reads sums of means": ("sums normalised by one operator", with_read_channels),
    "scale not multiplied (lengths of sums)": (
        "sums normalised by their lengths",
        lambda a, b, m: without_factor(a, b, m, "g2"),
    ),
    "ε not scaled (lengths of sums)": (
        "sums normalised by their lengths",
        lambda a, b, m: without_epsilon(a, b, m, "n2"),
    ),
    "tables of embeddings that are no copies": (
        "embeddings and sums normalised by one operator",
        lambda a, b, m: with_other_rows(a, b, m, "sorts"),
    ),
    "a reader that does not take the factor of a norm back": (
        "pre-norm LayerNorm without parameters",
        lambda a, b, m: without_factor(a, b, m, "w1"),
    ),
    "ε not scaled (no parameters)": (
        "pre-norm LayerNorm without parameters",
        lambda a, b, m: without_factor(a, b, m, "eps"),
    ),
    "a reader that does not take the factor of a length back": (
        "RMSNorm without a scale",
        lambda a, b, m: without_factor(a, b, m, "w3"),
    ),
    "a table that holds no means": (
        "embedding and position table",
        lambda a, b, m: with_other_rows(a, b, m, "table"),
    ),
    "positions of a table that holds no means": (
        "embedding and position table",
        lambda a, b, m: with_other_rows(a, b, m, "places"),
    ),
    "means that forget the scale of the layer": ("layer scale", with_plain_means),
    "a bias that is no mean": ("layer scale", lambda a, b, m: with_other_rows(a, b, m, "b1", axis=0)),
    "positions that are no means": (
        "positions resized to the image",
        lambda a, b, m: with_other_rows(a, b, m, "grid", axis=1),
    ),
    "a normalised table that holds no means": (
        "a table that is normalised by itself",
        lambda a, b, m: with_other_rows(a, b, m, "table"),
    ),
    "ε not scaled (embeddings)": ("embeddings normalised by one operator", without_epsilon),
    "scale not multiplied (embeddings)": (
        "embeddings normalised by one operator",
        lambda a, b, m: without_factor(a, b, m, "g1"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dropped_compensation_is_seen_by_the_certificate_and_in_float64(fault: str) -> None:
    name, break_it = FAULTS[fault]
    model = net(name)
    grown = Widen(residual=True, add=NETS[name].add).grow(model)
    tiers = ("certificate", "float64")
    sound = verify(model, grown.model, grown.growth_map, tiers=tiers)
    assert {t.status for t in sound.tiers if t.name in tiers} == {TierStatus.PASSED}
    broken, growth_map = break_it(model, grown.model, grown.growth_map)
    report = verify(model, broken, growth_map, tiers=tiers)
    assert {t.name: t.status for t in report.tiers if t.name in tiers} == dict.fromkeys(tiers, TierStatus.FAILED)


@pytest.mark.parametrize(
    ("name", "tensor", "step"),
    [("pre-norm LayerNorm", "w0", (0, N)), ("pre-norm LayerNorm", "g1", (0,)), ("post-norm", "w0", (0, N))],
)
def test_a_formula_rounded_otherwise_is_seen_by_the_certificate(name: str, tensor: str, step: tuple[int, ...]) -> None:
    """Two units in the last place are enough."""
    model = net(name)
    grown = Widen(residual=True, add=NETS[name].add).grow(model)
    values = stored(grown.model, tensor)
    values[step] = np.nextafter(np.nextafter(values[step], np.float32(np.inf)), np.float32(np.inf))
    put(grown.model, tensor, values)
    report = verify(model, grown.model, grown.growth_map, tiers=("certificate",))
    assert next(t for t in report.tiers if t.name == "certificate").status is TierStatus.FAILED
