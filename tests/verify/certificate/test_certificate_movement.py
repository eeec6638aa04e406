"""Elementwise ops, data movement, reshapes, norms, pools and reductions: what agrees passes, what does not fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from certificate_case import Array, Case, at, grow, more, reasons, rnd

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import ValueGrowth
from onnxgrow.verify.report import TierStatus

Maps = Mapping[int, AxisMap]

A = more(4, 2)
MIDDLE = at([0, 1, -1, 2, 3, -1])
TWICE = at([0, 1, 2, 3, -1, -1, 4, 5, 6, 7, -1, -1])
# Heads × head size (2, 2) → (3, 3): one more feature in each head, and one more head.
HEADS = at([0, 1, -1, 2, 3, -1, -1, -1, -1])


def through(
    body: str,
    maps: Mapping[str, Maps],
    *,
    axis: AxisMap = A,
    out: AxisMap | None = None,
    tensors: Mapping[str, Array] | None = None,
    axes: Mapping[str, Maps] | None = None,
    body2: str = "",
    **rest: Any,
) -> Case:
    """``h`` of shape (3, 2, 4 → 6) passes ``body`` to ``v``, whose last axis a weight reads."""
    read = axis if out is None else out
    text = "(float[3,2,5] x) => (float[A,B,2] y) {{ h = MatMul(x, w1) {} y = MatMul(v, w2) }}"
    reader = {} if read.is_identity else {"w2": {0: read}}
    return grow(
        text.format(body),
        {"w1": rnd(5, axis.old_size), "w2": rnd(read.old_size, 2), **(tensors or {})},
        {"w1": {1: axis}, **reader, **(axes or {})},
        {"h": {2: axis}, **maps},
        zero={"w2": (1, 0)},
        text2=text.format(body2) if body2 else "",
        **rest,
    )


def image(
    body: str,
    maps: Mapping[str, Maps],
    *,
    axis: AxisMap = A,
    out: AxisMap | None = None,
    tensors: Mapping[str, Array] | None = None,
    axes: Mapping[str, Maps] | None = None,
    body2: str = "",
    also_zero: Mapping[str, tuple[int, ...]] | None = None,
    **rest: Any,
) -> Case:
    """``h`` of shape (2, 4 → 6, 6, 6) passes ``body`` to ``v``, whose channels a 1×1 convolution reads."""
    read = axis if out is None else out
    text = "(float[2,3,6,6] x) => (float[A,B,C,D] y) {{ h = Conv(x, w1) {} y = Conv(v, w2) }}"
    return grow(
        text.format(body),
        {"w1": rnd(axis.old_size, 3, 1, 1), "w2": rnd(2, read.old_size, 1, 1), **(tensors or {})},
        {"w1": {0: axis}, "w2": {1: read}, **(axes or {})},
        {"h": {1: axis}, **maps},
        zero={"w2": (0, 1), **(also_zero or {})},
        text2=text.format(body2) if body2 else "",
        **rest,
    )


def i64(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


PART = at([0, 1, -1])
NORM = {"g": rnd(4, seed=1), "b": rnd(4, seed=2)}
VECTORS: dict[str, Maps] = {"g": {0: A}, "b": {0: A}}
MOMENTS = {"m": rnd(4, seed=3), "s": np.abs(rnd(4, seed=4)) + 1}

PASSING: dict[str, Callable[[], Case]] = {
    "add, grown bias": lambda: through("v = Add(h, b)", {"v": {2: A}}, tensors={"b": rnd(4)}, axes={"b": {0: A}}),
    "mul, scalar": lambda: through("v = Mul(h, b)", {"v": {2: A}}, tensors={"b": rnd(1)}),
    "mul, column first": lambda: through("v = Mul(b, h)", {"v": {2: A}}, tensors={"b": rnd(2, 1)}),
    "add, result of more axes": lambda: through("v = Add(h, b)", {"v": {3: A}}, tensors={"b": rnd(2, 1, 1, 1)}),
    "sum of three": lambda: through("v = Sum(h, h, h)", {"v": {2: A}}),
    "pow": lambda: through("v = Pow(h, b)", {"v": {2: A}}, tensors={"b": np.float32(2)}),
    "where": lambda: through("c = Greater(h, b) v = Where(c, h, b)", {"c": {2: A}, "v": {2: A}}, tensors={"b": rnd(1)}),
    "prelu": lambda: through("v = PRelu(h, b)", {"v": {2: A}}, tensors={"b": rnd(4)}, axes={"b": {0: A}}),
    "clip": lambda: through("v = Clip(h, lo, hi)", {"v": {2: A}}, tensors={"lo": np.float32(-1), "hi": np.float32(1)}),
    "cast": lambda: through("c = Cast<to=11>(h) v = Cast<to=1>(c)", {"c": {2: A}, "v": {2: A}}),
    "dropout": lambda: through("v, m = Dropout(h)", {"v": {2: A}, "m": {2: A}}),
    "transpose": lambda: through(
        "t = Transpose<perm=[2,0,1]>(h) v = Transpose<perm=[1,2,0]>(t)", {"t": {0: A}, "v": {2: A}}
    ),
    "concat": lambda: through("v = Concat<axis=-1>(h, h)", {"v": {2: TWICE}}, out=TWICE),
    "concat, another axis": lambda: through("v = Concat<axis=1>(h, h)", {"v": {2: A}}),
    "split, operand": lambda: through(
        "a, b = Split<axis=2>(h, s) v = Concat<axis=2>(a, b)",
        {"a": {2: PART}, "b": {2: PART}, "v": {2: MIDDLE}},
        axis=MIDDLE,
        tensors={"s": i64(2, 2)},
        put={"s": i64(3, 3)},
        operands=["s"],
    ),
    "split, attribute": lambda: through(
        "a, b = Split<axis=2, split=[1,3]>(h) v = Concat<axis=2>(a, b)",
        {"b": {2: more(3, 2)}, "v": {2: A}},
        body2="a, b = Split<axis=2, split=[1,5]>(h) v = Concat<axis=2>(a, b)",
        opset=11,
    ),
    "split, equal parts": lambda: through(
        "a, b = Split<axis=2, num_outputs=2>(h) v = Add(a, b)",
        {name: {2: PART} for name in "abv"},
        axis=MIDDLE,
        out=PART,
        opset=18,
    ),
    "slice": lambda: through(
        "v = Slice(h, s, e, a)",
        {"v": {2: PART}},
        axis=MIDDLE,
        out=PART,
        tensors={"s": i64(2), "e": i64(2**31), "a": i64(-1)},
        put={"s": i64(3)},
        operands=["s"],
    ),
    "slice, attributes": lambda: through(
        "v = Slice<starts=[2], ends=[4], axes=[2]>(h)",
        {"v": {2: PART}},
        axis=MIDDLE,
        out=PART,
        body2="v = Slice<starts=[3], ends=[6], axes=[2]>(h)",
        opset=9,
    ),
    "slice, backwards": lambda: through(
        "v = Slice(h, s, e, a, st)",
        {"v": {2: at([-1, 0, 1, -1, 2, 3])}},
        axis=MIDDLE,
        out=at([-1, 0, 1, -1, 2, 3]),
        tensors={"s": i64(-1), "e": i64(-99), "a": i64(2), "st": i64(-1)},
    ),
    "gather, an ungrown axis": lambda: through("v = Gather<axis=1>(h, i)", {"v": {1: A}}, tensors={"i": np.array(1)}),
    "gather, known indices": lambda: through(
        "v = Gather<axis=2>(h, i)",
        {"v": {2: more(2, 1)}},
        out=more(2, 1),
        tensors={"i": i64(3, -3)},
        put={"i": i64(3, 1, 5)},
        operands=["i"],
    ),
    "heads": lambda: through(
        "r = Reshape(h, s1) t = Transpose<perm=[0,2,1,3]>(r) u = Transpose<perm=[0,2,1,3]>(t) v = Reshape(u, s2)",
        {
            "r": {2: more(2, 1), 3: more(2, 1)},
            "t": {1: more(2, 1), 3: more(2, 1)},
            "u": {2: more(2, 1), 3: more(2, 1)},
            "v": {2: HEADS},
        },
        axis=HEADS,
        tensors={"s1": i64(3, 2, 2, 2), "s2": i64(0, 0, -1)},
        put={"s1": i64(3, 2, 3, 3)},
        operands=["s1"],
    ),
    "flatten": lambda: through("v = Flatten<axis=1>(h)", {"v": {1: TWICE}}, out=TWICE),
    "unsqueeze, squeeze": lambda: through(
        "u = Unsqueeze(h, i) v = Squeeze(u, i)", {"u": {3: A}, "v": {2: A}}, tensors={"i": i64(0)}
    ),
    "expand": lambda: through("v = Expand(h, s)", {"v": {3: A}}, tensors={"s": i64(2, 1, 1, 1)}),
    "tile": lambda: through("v = Tile(h, r)", {"v": {2: TWICE}}, out=TWICE, tensors={"r": i64(1, 1, 2)}),
    "pad": lambda: through(
        "v = Pad(h, p)",
        {"v": {2: at([0, 1, 2, 3, 4, -1, -1])}},
        out=at([0, 1, 2, 3, 4, -1, -1]),
        tensors={"p": i64(0, 0, 1, 0, 0, 0)},
    ),
    "pad, reflect": lambda: through(
        'v = Pad<mode="reflect">(h, p)', {"v": {2: A}}, tensors={"p": i64(1, 0, 0, 1, 0, 0)}
    ),
    "softmax": lambda: through("v = Softmax<axis=1>(h)", {"v": {2: A}}),
    "layer norm": lambda: through(
        "t = Transpose<perm=[0,2,1]>(h) n = LayerNormalization(t, g, b) v = Transpose<perm=[0,2,1]>(n)",
        {"t": {1: A}, "n": {1: A}, "v": {2: A}},
        tensors={"g": rnd(2), "b": rnd(2)},
    ),
    "lp norm": lambda: through("v = LpNormalization<axis=0>(h)", {"v": {2: A}}),
    "reduce": lambda: through("v = ReduceMean<axes=[0], keepdims=1>(h)", {"v": {2: A}}),
    "reduce, operand": lambda: through("v = ReduceSum<keepdims=0>(h, a)", {"v": {1: A}}, tensors={"a": i64(0)}),
    "top k": lambda: through("v, i = TopK<axis=0>(h, k)", {"v": {2: A}, "i": {2: A}}, tensors={"k": i64(2)}),
    "cumulative sum": lambda: through("v = CumSum(h, a)", {"v": {2: A}}, tensors={"a": np.array(1)}),
    "triangle": lambda: through(
        "t = Transpose<perm=[2,0,1]>(h) u = Trilu(t) v = Transpose<perm=[1,2,0]>(u)",
        {"t": {0: A}, "u": {0: A}, "v": {2: A}},
    ),
    "reversed sequences": lambda: through(
        "v = ReverseSequence<batch_axis=0, time_axis=1>(h, n)", {"v": {2: A}}, tensors={"n": i64(1, 2, 2)}
    ),
    "shape of a grown tensor as reshape operand": lambda: through("s = Shape(h) v = Reshape(h, s)", {"v": {2: A}}),
    "batch norm": lambda: image(
        "v = BatchNormalization(h, g, b, m, s)",
        {"v": {1: A}},
        tensors=NORM | MOMENTS,
        axes=VECTORS | {"m": {0: A}, "s": {0: A}},
        fill={"s": 1.0},
    ),
    "instance norm": lambda: image("v = InstanceNormalization(h, g, b)", {"v": {1: A}}, tensors=NORM, axes=VECTORS),
    "group norm": lambda: image(
        "v = GroupNormalization<num_groups=2>(h, g, b)",
        {"v": {1: A}},
        tensors=NORM,
        axes=VECTORS,
        body2="v = GroupNormalization<num_groups=3>(h, g, b)",
        opset=21,
        like={"v": "h"},
    ),
    "group norm, parameters by group": lambda: image(
        "v = GroupNormalization<num_groups=2>(h, g, b)",
        {"v": {1: A}},
        tensors={"g": rnd(2), "b": rnd(2)},
        axes={"g": {0: more(2, 1)}, "b": {0: more(2, 1)}},
        body2="v = GroupNormalization<num_groups=3>(h, g, b)",
        opset=18,
        like={"v": "h"},
    ),
    "max pool": lambda: image("v = MaxPool<kernel_shape=[2,2]>(h)", {"v": {1: A}}),
    "average pool": lambda: image("v = AveragePool<kernel_shape=[2,2], strides=[2,2]>(h)", {"v": {1: A}}),
    "global pool": lambda: image("v = GlobalAveragePool(h)", {"v": {1: A}}),
    "resize": lambda: image(
        'v = Resize<mode="linear">(h, , s)', {"v": {1: A}}, tensors={"s": np.array([1, 1, 2, 2], np.float32)}
    ),
    "resize, sizes": lambda: image(
        "v = Resize(h, , , s)",
        {"v": {1: A}},
        tensors={"s": i64(2, 4, 9, 9)},
        put={"s": i64(2, 6, 9, 9)},
        operands=["s"],
    ),
    "squeeze and excite": lambda: image(
        "p = GlobalAveragePool(h) r = Conv(p, wr) e = Relu(r) z = Conv(e, we) s = Sigmoid(z) v = Mul(h, s)",
        {name: {1: A} for name in ("p", "z", "s", "v")},
        tensors={"wr": rnd(2, 4, 1, 1), "we": rnd(4, 2, 1, 1)},
        axes={"wr": {1: A}, "we": {0: A}},
        also_zero={"wr": (0, 1)},
    ),
    "channel shuffle": lambda: image(
        "r = Reshape(h, s1) t = Transpose<perm=[0,2,1,3,4]>(r) v = Reshape(t, s2)",
        {"r": {2: more(2, 1)}, "t": {1: more(2, 1)}, "v": {1: at([0, 1, 2, 3, -1, -1])}},
        axis=MIDDLE,
        out=at([0, 1, 2, 3, -1, -1]),
        tensors={"s1": i64(2, 2, 2, 6, 6), "s2": i64(2, -1, 6, 6)},
        put={"s1": i64(2, 2, 3, 6, 6)},
        operands=["s1"],
    ),
    "space to depth": lambda: image(
        "v = SpaceToDepth<blocksize=2>(h)",
        {"v": {1: at([*range(4), -1, -1, *range(4, 8), -1, -1, *range(8, 12), -1, -1, *range(12, 16), -1, -1])}},
        out=at([*range(4), -1, -1, *range(4, 8), -1, -1, *range(8, 12), -1, -1, *range(12, 16), -1, -1]),
    ),
    "depth to space": lambda: image(
        "v = DepthToSpace<blocksize=2>(h)",
        {"v": {1: more(1, 1)}},
        axis=at([0, -1, 1, -1, 2, -1, 3, -1]),
        out=more(1, 1),
    ),
    "depth to space, CRD": lambda: image(
        'v = DepthToSpace<blocksize=2, mode="CRD">(h)', {"v": {1: more(1, 1)}}, axis=more(4, 4), out=more(1, 1)
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_correct_growth_is_accounted_for_and_certified(name: str) -> None:
    for tier in PASSING[name]().tiers().values():
        assert tier.status is TierStatus.PASSED, reasons(tier)


def swap_two_old(axis_map: AxisMap) -> AxisMap | None:
    """The map with two old entries exchanged; None where it has only one."""
    source = axis_map.source()
    old = np.flatnonzero(source >= 0)
    if old.size < 2:
        return None
    source[old[[0, -1]]] = source[old[[-1, 0]]]
    return AxisMap.from_source(source)


def swap_old_and_new(axis_map: AxisMap) -> AxisMap:
    """The map with the last old and the first new entry exchanged."""
    source = axis_map.source()
    old, new = np.flatnonzero(source >= 0)[-1], np.flatnonzero(source < 0)[0]
    source[[old, new]] = source[[new, old]]
    return AxisMap.from_source(source)


@pytest.mark.parametrize("fault", [swap_two_old, swap_old_and_new])
@pytest.mark.parametrize("name", PASSING)
def test_a_wrong_map_of_any_value_fails(name: str, fault: Callable[[AxisMap], AxisMap | None]) -> None:
    case = PASSING[name]()
    for value, growth in case.map.values.items():
        for axis, axis_map in growth.axes.items():
            wrong = fault(axis_map)
            if wrong is None:
                continue
            values = {**case.map.values, value: ValueGrowth({**growth.axes, axis: wrong}, growth.of)}
            broken = replace(case, map=replace(case.map, values=values))
            assert "certificate" in broken.caught_by(), (value, axis)


@pytest.mark.parametrize("name", PASSING)
def test_a_claimed_zero_that_does_not_hold_fails(name: str) -> None:
    case = PASSING[name]()
    for value, growth in case.map.values.items():
        for axis, axis_map in growth.axes.items():
            claimed = AxisMap(tuple(replace(s, fact="zero") if s.is_new else s for s in axis_map.segments))
            values = {**case.map.values, value: ValueGrowth({**growth.axes, axis: claimed}, growth.of)}
            broken = replace(case, map=replace(case.map, values=values))
            assert "claimed to be zero" in reasons(broken.certify()), (value, axis)


FAILING: dict[str, tuple[Callable[[], Case], str]] = {
    "softmax over the grown axis": (lambda: through("v = Softmax<axis=2>(h)", {"v": {2: A}}), "grew"),
    "softmax before opset 13 takes the rest as one row": (
        lambda: through("v = Softmax<axis=1>(h)", {"v": {2: A}}, opset=11),
        "grew",
    ),
    "mean over the grown axis": (
        lambda: through(
            "v0 = ReduceMean<axes=[2]>(h) v = Expand(v0, s)", {}, tensors={"s": i64(3, 2, 4)}, out=AxisMap.identity(4)
        ),
        "which it reduces, grew",
    ),
    "sum over new entries": (
        lambda: through(
            "v0 = ReduceSum(h, a) v = Expand(v0, s)",
            {},
            tensors={"a": i64(2), "s": i64(3, 2, 4)},
            out=AxisMap.identity(4),
        ),
        "not proved zero",
    ),
    "arg max over the grown axis": (
        lambda: through(
            "i = ArgMax<axis=2>(h) v0 = Cast<to=1>(i) v = Expand(v0, s)",
            {},
            tensors={"s": i64(3, 2, 4)},
            out=AxisMap.identity(4),
        ),
        "grew",
    ),
    "layer norm over the grown axis": (
        lambda: through("v = LayerNormalization(h, g, b)", {"v": {2: A}}, tensors=NORM, axes=VECTORS),
        "not the mean of the old ones",
    ),
    "local response norm": (lambda: image("v = LRN<size=3>(h)", {"v": {1: A}}), "grew"),
    "group norm with a group of old and new": (
        lambda: image(
            "v = GroupNormalization<num_groups=2>(h, g, b)",
            {"v": {1: A}},
            tensors=NORM,
            axes=VECTORS,
            opset=21,
            like={"v": "h"},
        ),
        "mixes old and new",
    ),
    "group norm over mixed groups": (
        lambda: image(
            "v = GroupNormalization<num_groups=2>(h, g, b)",
            {"v": {1: MIDDLE}},
            axis=MIDDLE,
            tensors=NORM,
            axes={"g": {0: MIDDLE}, "b": {0: MIDDLE}},
            body2="v = GroupNormalization<num_groups=3>(h, g, b)",
            opset=21,
            like={"v": "h"},
        ),
        "mixes old and new",
    ),
    "a new variance that is negative": (
        lambda: image(
            "v = BatchNormalization(h, g, b, m, s)",
            {"v": {1: A}},
            tensors=NORM | MOMENTS,
            axes=VECTORS | {"m": {0: A}, "s": {0: A}},
            fill={"s": -1.0},
        ),
        "variance is negative",
    ),
    "a bound of clip that nothing proves": (
        lambda: through(
            "s = Shape<start=2>(h) m = Cast<to=1>(s) u = Squeeze(m) v = Clip(h, lo, u)",
            {"v": {2: A}},
            tensors={"lo": np.float32(0.5)},
        ),
        "known value differs",
    ),
    "resize that moves every axis": (
        lambda: image(
            'v = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil">(h, , s)',
            {"v": {1: A}},
            tensors={"s": np.array([1, 1, 1, 1], np.float32)},
            opset=11,
            like={"v": "h"},
        ),
        "tf_half_pixel_for_nn",
    ),
    "indices of max pool": (
        lambda: image(
            "v0, i = MaxPool<kernel_shape=[2,2]>(h) f = Cast<to=1>(i) v = Add(v0, f)",
            {name: {1: A} for name in ("v0", "i", "f", "v")},
        ),
        "indices of MaxPool",
    ),
    "resize of the grown axis": (
        lambda: image(
            "v = Resize(h, , s)",
            {"v": {1: at([0, 1, 2, 3, 4, 5, 6, 7, *[-1] * 4])}},
            out=at([0, 1, 2, 3, 4, 5, 6, 7, *[-1] * 4]),
            tensors={"s": np.array([1, 2, 1, 1], np.float32)},
        ),
        "",
    ),
    "pad reflecting new entries": (
        lambda: through(
            'v = Pad<mode="edge">(h, p)',
            {"v": {2: at([0, 1, 2, 3, 4, -1, -1])}},
            out=at([0, 1, 2, 3, 4, -1, -1]),
            tensors={"p": i64(0, 0, 0, 0, 0, 1)},
        ),
        "read from elsewhere",
    ),
    "an op without a rule": (
        lambda: through("v = Bernoulli(h)", {"v": {2: A}}),
        "no rule for Bernoulli",
    ),
    "a scale computed from the grown shape": (
        lambda: through("s = Shape<start=2>(h) f = Cast<to=1>(s) r = Sqrt(f) v = Div(h, r)", {"v": {2: A}}),
        "known value differs",
    ),
    "zeros as long as the grown tensor": (
        lambda: through(
            "s = Shape<start=2>(h) z = ConstantOfShape<value=float[1]{1.0}>(s) t = ReduceSum(z) v = Mul(h, t)",
            {"z": {0: A}, "v": {2: A}},
        ),
        "axis 0, which it reduces, grew by entries that are not proved zero",
    ),
    "dropout while training": (
        lambda: through("v = Dropout(h, r, t)", {"v": {2: A}}, tensors={"r": np.float32(0.5), "t": np.array(True)}),
        "at random",
    ),
    "a bias of other values": (
        lambda: through(
            "v = Add(h, b)", {"v": {2: A}}, tensors={"b": rnd(4)}, put={"b": rnd(6, seed=9)}, operands=["b"]
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_mixes_old_and_new_fails(name: str) -> None:
    make, reason = FAILING[name]
    case = make()
    result = case.certify()
    assert result.status is TierStatus.FAILED
    assert reason in reasons(result)
    assert case.account().status is TierStatus.PASSED, reasons(case.account())
