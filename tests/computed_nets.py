"""Networks whose second weight is computed from constants, for the tests of how those grow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from support import Weight, model_of

__all__ = ["COMPUTED", "INPUTS", "LAYER", "REFUSED", "STANDARDISED", "computed_net"]

CONV = (
    "g (float[N,3,5,5] x) => (float[N,2,5,5] y) {{ c = Conv(x, wa) a = Relu(c) {0} h = Conv <pads = [1,1,1,1]> (a, w)"
    " t = Tanh(h) y = Conv(t, wb) }}"
)
GROUPED = CONV.replace("pads = [1,1,1,1]", "group = 2, pads = [1,1,1,1]")
TRANSPOSED = CONV.replace("h = Conv <", "h = ConvTranspose <")
LOOP = (
    "g (float[N,3,5,5] x) => (float[N,2,5,5] y) {{ c = Conv(x, wa) a = Relu(c) {0} h = Conv <pads = [1,1,1,1]> (a, w)"
    " t = Tanh(h) again = Add(t, a) u = Conv <pads = [1,1,1,1]> (again, w) y = Conv(u, wb) }}"
)
"""The same channels on both axes of a weight that is used twice."""
DENSE = (
    "g (float[N,3] x) => (float[N,2] y) {{ c = MatMul(x, wa) a = Relu(c) {0} h = MatMul(a, w) t = Tanh(h)"
    " y = MatMul(t, wb) }}"
)

V = {"wa": (4, 3, 1, 1), "v": (5, 4, 3, 3), "wb": (2, 5, 1, 1)}
PAIRS = {"wa": (4, 3, 1, 1), "v": (6, 2, 3, 3), "wb": (2, 6, 1, 1)}
SQUARE = {"wa": (4, 3, 1, 1), "v": (4, 4, 3, 3), "wb": (2, 4, 1, 1)}
ROWS = {"wa": (3, 4), "wb": (5, 2)}
OVER = "<axes = [1, 2, 3], keepdims = 1>"
EPS, GAIN = np.float32(0.01), np.linspace(0.5, 1.5, 5, dtype=np.float32).reshape(5, 1, 1, 1)
MASK = (np.arange(5 * 4 * 9) % 3 > 0).astype(np.float32).reshape(5, 4, 3, 3)

WEIGHT_NORM = f"n = ReduceL2 {OVER} (v) d = Div(v, n) w = Mul(d, g)"
CENTRED = f"m = ReduceMean {OVER} (v) d = Sub(v, m) q = Mul(d, d) s = ReduceMean {OVER} (q) e = Add(s, eps) r = Sqrt(e)"
FLAT = "f = Reshape(v, flat)"
BACK = "w = Reshape(b, kernel)"

Net = tuple[str, Mapping[str, Weight]]

COMPUTED: dict[str, Net] = {
    "weight normalisation": (CONV.format(WEIGHT_NORM), {**V, "g": GAIN}),
    "weight normalisation, the scale first": (
        CONV.format(f"n = ReduceL2 {OVER} (v) k = Div(g, n) w = Mul(k, v)"),
        {**V, "g": GAIN},
    ),
    "weight normalisation of channels that come back": (LOOP.format(WEIGHT_NORM), {**SQUARE, "g": GAIN[:4]}),
    "weight normalisation of groups": (GROUPED.format(WEIGHT_NORM), {**PAIRS, "g": np.full((6, 1, 1, 1), 0.7, "f4")}),
    "unit length, with an epsilon": (
        CONV.format("p = Pow(v, two) s = ReduceSum <keepdims = 1> (p, axes) e = Add(s, eps) r = Sqrt(e) w = Div(v, r)"),
        {**V, "two": np.float32(2), "axes": np.array([1, 2, 3]), "eps": EPS},
    ),
    "spectral normalisation": (
        CONV.format("f = Reshape(v, flat) p = MatMul(f, right) s = MatMul(left, p) w = Div(v, s)"),
        {**V, "flat": np.array([5, 36]), "right": (36,), "left": (5,)},
    ),
    "every kernel for itself, then all of them": (
        CONV.format(
            f"m = ReduceMean <axes = [2, 3], keepdims = 1> (v) d = Sub(v, m) n = ReduceL2 {OVER} (d) w = Div(d, n)"
        ),
        V,
    ),
    "low rank": (DENSE.format("w = MatMul(down, up)"), {**ROWS, "down": (4, 2), "up": (2, 5)}),
    "a weight with an update of low rank": (
        DENSE.format("p = MatMul(down, up) k = Mul(p, half) w = Add(v, k)"),
        {**ROWS, "v": (4, 5), "down": (4, 2), "up": (2, 5), "half": np.float32(0.5)},
    ),
    "an update of low rank that is still zero": (
        DENSE.format("p = MatMul(down, up) w = Add(v, p)"),
        {**ROWS, "v": (4, 5), "down": (4, 2), "up": np.zeros((2, 5), np.float32)},
    ),
    "a transposed product": (
        DENSE.format("p = Gemm <transA = 1, transB = 1> (up, down) q = Neg(p) r = Transpose(q) w = Transpose(r)"),
        {**ROWS, "up": (2, 4), "down": (5, 2)},
    ),
    "a mask": (CONV.format("w = Mul(v, mask)"), {**V, "mask": MASK}),
    "a mask in front": (CONV.format("w = Mul(mask, v)"), {**V, "mask": MASK}),
    "a smaller kernel beside it": (
        CONV.format("p = Pad(small, pads) w = Add(v, p)"),
        {**V, "small": (5, 4, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "halves that are scaled together": (
        CONV.format("p = Concat <axis = 0> (v, more) w = Mul(p, p1)"),
        {**V, "v": (2, 4, 3, 3), "more": (3, 4, 3, 3), "p1": (5, 4, 3, 3)},
    ),
}
"""Weights in which zeros keep what is computed for the old outputs."""

LAYER: Net = (
    "g (float[N,3] x) => (float[N,2] y) { c = MatMul(x, wa) p = Sin(table) k = MatMul(p, wk) t = Transpose(k)"
    " s = MatMul(c, t) e = Softmax(s) y = MatMul(e, wb) }",
    {"wa": (3, 6), "table": (5, 3), "wk": (3, 6), "wb": (5, 2)},
)
"""A layer on a table of constants, as relative positions are projected; the product with it is a weight's."""

INPUTS: dict[str, Net] = {
    "weight normalisation of what an input is read with": (
        TRANSPOSED.format(WEIGHT_NORM),
        {**V, "v": (4, 5, 3, 3), "g": GAIN[:4]},
    ),
    "the same, the scale first": (
        TRANSPOSED.format(f"n = ReduceL2 {OVER} (v) k = Div(g, n) w = Mul(v, k)"),
        {**V, "v": (4, 5, 3, 3), "g": GAIN[:4]},
    ),
}
"""Weights that are normalised for each input: their outputs cannot grow, and new inputs get a gain of zero."""

STANDARDISED: dict[str, Net] = {
    "without a gain": (CONV.format(f"{CENTRED} w = Div(d, r)"), {**V, "eps": EPS}),
    "with a gain": (CONV.format(f"{CENTRED} k = Mul(g, d) w = Div(k, r)"), {**V, "eps": EPS, "g": GAIN}),
    "with the inverse of the root": (
        CONV.format(f"{CENTRED} i = Div(one, r) k = Mul(d, i) w = Mul(k, g)"),
        {**V, "eps": EPS, "one": np.float32(1), "g": GAIN},
    ),
    "the mean as a sum over a number": (
        CONV.format(
            "z = ReduceSum <keepdims = 0> (v, axes) j = Div(z, count) m = Reshape(j, column) d = Sub(v, m)"
            f" q = Mul(d, d) s = ReduceMean {OVER} (q) e = Add(s, eps) r = Sqrt(e) w = Div(d, r)"
        ),
        {
            **V,
            "eps": EPS,
            "axes": np.array([1, 2, 3]),
            "count": np.float32(36),
            "column": np.array([-1, 1, 1, 1]),
        },
    ),
    "channels that come back": (LOOP.format(f"{CENTRED} w = Div(d, r)"), {**SQUARE, "eps": EPS}),
    "groups": (GROUPED.format(f"{CENTRED} w = Div(d, r)"), {**PAIRS, "eps": EPS}),
    "a batch normalisation in training form": (
        CONV.format(
            f"{FLAT} b, u, o = BatchNormalization <epsilon = 0.01, momentum = 1.0, training_mode = 1>"
            f" (f, g, zero, zero, one) {BACK}"
        ),
        {
            **V,
            "g": GAIN.reshape(5),
            "zero": np.zeros(5, np.float32),
            "one": np.ones(5, np.float32),
            "flat": np.array([1, 5, -1]),
            "kernel": np.array([5, -1, 3, 3]),
        },
    ),
    "a batch normalisation of computed statistics": (
        CONV.format(
            f"{FLAT} k = Mul(g, part) l = Reshape(k, row) m = ReduceMean <axes = [0, 2], keepdims = 0> (f)"
            " n = ReduceMean <axes = [0, 2], keepdims = 1> (f) d = Sub(f, n) q = Mul(d, d)"
            " s = ReduceMean <axes = [0, 2], keepdims = 0> (q)"
            f" b = BatchNormalization <epsilon = 0.01> (f, l, zero, m, s) {BACK}"
        ),
        {
            **V,
            "g": GAIN,
            "part": np.float32(36**-0.5),
            "row": np.array([-1]),
            "zero": np.zeros(5, np.float32),
            "flat": np.array([1, 5, -1]),
            "kernel": np.array([5, -1, 3, 3]),
        },
    ),
}
"""Weights in which means do, with a compensation."""

REFUSED: dict[str, tuple[str, Mapping[str, Weight], str, str]] = {
    "a norm of all outputs together": (
        CONV.format("n = ReduceL2 <axes = [0, 1, 2, 3], keepdims = 1> (v) w = Div(v, n)"),
        V,
        "v",
        "its writers would have to stay zero for what is summed up over it",
    ),
    "a maximum over the fan-in": (
        CONV.format("n = ReduceMax <axes = [1, 2, 3], keepdims = 1> (v) w = Div(v, n)"),
        V,
        "wa",
        "its weight is computed from other constants",
    ),
    "a mean that is not taken away": (
        CONV.format(f"n = ReduceMean {OVER} (v) w = Mul(v, n)"),
        V,
        "wa",
        "its weight is computed from other constants",
    ),
    "the mean of another weight": (
        CONV.format(f"m = ReduceMean {OVER} (u) d = Sub(v, m) q = Mul(d, d) s = ReduceMean {OVER} (q) w = Div(d, s)"),
        {**V, "u": (5, 4, 3, 3)},
        "wa",
        "its weight is computed from other constants",
    ),
    "a shift behind the norm": (
        CONV.format(
            f"{FLAT} b, u, o = BatchNormalization <epsilon = 0.01, momentum = 1.0, training_mode = 1>"
            f" (f, one, one, one, one) {BACK}"
        ),
        {
            **V,
            "one": np.linspace(1, 2, 5, dtype=np.float32),
            "flat": np.array([1, 5, -1]),
            "kernel": np.array([5, -1, 3, 3]),
        },
        "wa",
        "its weight is computed from other constants",
    ),
    "integers behind a scale that is computed": (
        DENSE.format("i = Cast <to = 1> (v) n = ReduceL2 <axes = [0], keepdims = 1> (i) w = Div(i, n)"),
        {**ROWS, "v": np.arange(1, 21, dtype=np.int8).reshape(4, 5)},
        "wa",
        "its weight is computed from other constants",
    ),
}
"""Graph, weights, the weight that writes a set that stays, and its reason."""


def computed_net(name: str) -> ir.Model:
    graph, weights = {**COMPUTED, **INPUTS, **STANDARDISED, "a layer on a table": LAYER}[name]
    return model_of(graph, weights)
