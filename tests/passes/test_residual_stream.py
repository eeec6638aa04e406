"""Residual streams: what grows in which way, the proof of it, and faults that the proof has to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.axis_map import AxisMap
from onnxgrow.concrete.values import constants
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.passes import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

N = 8
SMALL = np.float32(0.01)
TWO = np.float32(2)
WEIGHTS: dict[str, np.ndarray | tuple[int, ...]] = {
    "w0": (6, N),
    "b0": (N,),
    "g1": (N,),
    "c1": (N,),
    "w1": (N, 5),
    "w2": (5, N),
    "g2": (N,),
    "c2": (N,),
    "w3": (N, 3),
    "table": (7, N),
    "places": (4, N),
    "k0": (N, 3, 2, 2),
    "class": (1, 1, N),
    "ls": (N,),
    "b1": (N,),
    "eps": np.asarray(SMALL),
    "two": np.asarray(TWO),
    "one": np.asarray(np.float32(1)),
    "eps2": np.asarray(SMALL),
    "last": np.asarray([-1], np.int64),
    "flat": np.asarray([0, N, 4], np.int64),
}
FFN = " u = MatMul(n1, w1) r = Relu(u) d = MatMul(r, w2) s = Add(h, d)"
LN1 = " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1)"
LN2 = " n2 = LayerNormalization <axis = -1, epsilon = 0.01> (s, g2, c2)"
RMS = (
    " {q} = Pow({x}, two) {m} = ReduceMean <axes = [-1]> ({q}) {e} = Add({m}, {eps}) {r} = Sqrt({e})"
    " {i} = Div(one, {r}) {n} = Mul({x}, {i})"
)


def rms(x: str, n: str, eps: str) -> str:
    names = {k: f"{n}_{k}" for k in "qmeri"}
    return RMS.format(x=x, n=n, eps=eps, **names)


def decomposed(x: str, out: str, eps: str, scale: str, shift: str) -> str:
    return (
        f" {out}_m = ReduceMean <axes = [-1]> ({x}) {out}_d = Sub({x}, {out}_m) {out}_q = Pow({out}_d, two)"
        f" {out}_v = ReduceMean <axes = [-1]> ({out}_q) {out}_e = Add({out}_v, {eps}) {out}_s = Sqrt({out}_e)"
        f" {out}_x = Div({out}_d, {out}_s) {out}_y = Mul({out}_x, {scale}) {out} = Add({out}_y, {shift})"
    )


@dataclass(frozen=True)
class Net:
    """A net, how its stream grows by three channels (or by as many again), and the name of the stream's set."""

    graph: str
    mode: str
    opset: int = 17
    add: int = 3


DENSE = "g (float[N,6] x) => (float[N,3] y) { h0 = MatMul(x, w0) h = Add(h0, b0)"
NETS = {
    "pre-norm LayerNorm": Net(DENSE + LN1 + FFN + LN2 + " y = MatMul(n2, w3) }", "mean"),
    "pre-norm LayerNorm, decomposed": Net(
        DENSE
        + decomposed("h", "n1", "eps", "g1", "c1")
        + FFN
        + decomposed("s", "n2", "eps", "g2", "c2")
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "embedding and position table": Net(
        "g (int64[N,4] x) => (float[N,4,3] y) { h0 = Gather(table, x) h = Add(h0, places)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "patches with a class token": Net(
        "g (float[N,3,4,4] x) => (float[N,5,3] y) { p = Conv <strides = [2, 2]> (x, k0, b0) f = Reshape(p, flat)"
        " t = Transpose <perm = [0, 2, 1]> (f) z = Identity(class) sh = Shape(x) e0 = Gather(sh, zero)"
        " e = Concat <axis = 0> (e0, ones) cl = Expand(z, e) h = Concat <axis = 1> (cl, t)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "layer scale": Net(
        DENSE
        + LN1
        + " u = MatMul(n1, w1) r = Relu(u) d0 = MatMul(r, w2) d1 = Add(d0, b1) d = Mul(d1, ls) s = Add(h, d)"
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "a reader without a norm": Net(
        DENSE + LN1 + FFN + LN2 + " y0 = MatMul(n2, w3) y1 = MatMul(s, w4) y = Add(y0, y1) }", "mean"
    ),
    "RMSNorm, decomposed": Net(
        DENSE
        + rms("h", "n0", "eps")
        + " n1 = Mul(n0, g1)"
        + FFN
        + rms("s", "n3", "eps2")
        + " n2 = Mul(g2, n3) y = MatMul(n2, w3) }",
        "zero",
    ),
    "RMSNorm with 1 + w": Net(
        DENSE
        + rms("h", "n0", "eps")
        + " w_1 = Add(g1, one) n1 = Mul(n0, w_1)"
        + FFN
        + rms("s", "n3", "eps")
        + " w_2 = Add(g2, one) n2 = Mul(n3, w_2) y = MatMul(n2, w3) }",
        "zero",
    ),
    "RMSNormalization": Net(
        DENSE
        + " n1 = RMSNormalization <axis = -1, epsilon = 0.01> (h, g1)"
        + FFN
        + " n2 = RMSNormalization <axis = -1, epsilon = 0.01> (s, g2) y = MatMul(n2, w3) }",
        "zero",
        opset=23,
    ),
    "unit length with a learned scale": Net(
        DENSE + " n0 = LpNormalization <axis = -1, p = 2> (h) n1 = Mul(n0, g1)" + FFN + " y = MatMul(s, w3) }", "zero"
    ),
    "post-norm": Net(
        DENSE + " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1) u = MatMul(n1, w1) r = Relu(u)"
        " d = MatMul(r, w2) s = Add(n1, d)" + LN2 + " y = MatMul(n2, w3) }",
        "copy",
        add=2 * N,
    ),
    "a nonlinearity before the stream": Net(
        "g (float[N,6] x) => (float[N,3] y) { h0 = MatMul(x, w0) h1 = Add(h0, b0) h = Sigmoid(h1)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "copy",
        add=N,
    ),
}


def net(name: str) -> ir.Model:
    used = NETS[name]
    extra = {"zero": np.asarray([0], np.int64), "ones": np.asarray([1, 1], np.int64), "w4": (N, 3)}
    words = set(used.graph.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights = {k: v for k, v in {**WEIGHTS, **extra}.items() if k in words}
    return model_of(used.graph, weights, opset=used.opset, ir_version=8 if used.opset < 23 else 11)


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


Faulty = tuple[ir.Model, GrowthMap]


def stored(model: ir.Model, name: str) -> np.ndarray:
    return np.array(constants(model)[name].numpy())


def put(model: ir.Model, name: str, values: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(values, name=name)


def listed(growth_map: GrowthMap, name: str, growth: TensorGrowth) -> GrowthMap:
    return replace(growth_map, tensors={**growth_map.tensors, name: growth})


def without_factor(old: ir.Model, new: ir.Model, growth_map: GrowthMap, name: str) -> Faulty:
    """The scale (or ε) of a norm is left as it was."""
    growth = growth_map.tensors[name]
    values = stored(new, name)
    index = tuple(m.positions() for _, m in sorted(growth.axes.items()))
    values[np.ix_(*index) if index else ()] = stored(old, name)
    put(new, name, values)
    if not growth.axes:
        rest = {k: t for k, t in growth_map.tensors.items() if k != name}
        return new, replace(growth_map, tensors=rest)
    return new, listed(growth_map, name, replace(growth, formula="", factor=1.0))


def without_epsilon(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    node = next(n for n in new.graph if n.outputs[0].name == "n1")
    node.attributes["epsilon"] = next(n for n in old.graph if n.outputs[0].name == "n1").attributes["epsilon"]
    return new, replace(growth_map, nodes={k: c for k, c in growth_map.nodes.items() if k != "n1"})


def with_other_rows(old: ir.Model, new: ir.Model, growth_map: GrowthMap) -> Faulty:
    """New channels that are no combination of the old ones, and nothing is claimed of them."""
    values = stored(new, "w0")
    values[:, N:] = np.random.default_rng(0).normal(size=values[:, N:].shape)
    put(new, "w0", values)

    def free(axes: Mapping[int, AxisMap]) -> dict[int, AxisMap]:
        return {a: AxisMap.from_source(m.source()) for a, m in axes.items()}

    tensors = {k: replace(t, axes=free(t.axes)) for k, t in growth_map.tensors.items()}
    values_ = {k: ValueGrowth(free(v.axes), v.of, v.factor) for k, v in growth_map.values.items()}
    return new, replace(growth_map, tensors=tensors, values=values_)


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
