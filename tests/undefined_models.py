"""Networks in front of whose last layer an operator is undefined somewhere, kept away from there or not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from support import model_of

__all__ = ["SAFE", "UNSAFE", "network"]

POSITIVE = {"u": np.ones((4, 6), np.float32), "v": (6, 3)}
"""Weights that have learned to give positive sums for positive inputs; new ones have not."""


def network(body: str, **weights: np.ndarray | np.generic) -> ir.Model:
    text = f"g (float[n,4] x) => (float[n,3] y) {{ s = Abs(x)  h = MatMul(s, u)  {body}  y = MatMul(z, v) }}"
    return model_of(text, {**POSITIVE, **weights}, opset=18)


ONE, EPSILON, HALF = np.float32(1), np.float32(1e-6), np.float32(0.5)
SAFE: dict[str, tuple[str, dict[str, np.ndarray | np.generic]]] = {
    "logarithm of a square plus epsilon": ("q = Mul(h, h)  e = Add(q, one)  z = Log(e)", {"one": EPSILON}),
    "quotient by what is clipped": ("e = Clip(h, one)  z = Div(h, e)", {"one": EPSILON}),
    "quotient by 1 + exp": ("n = Neg(h)  e = Exp(n)  d = Add(e, one)  z = Div(h, d)", {"one": ONE}),
    "root of a magnitude": ("e = Abs(h)  z = Sqrt(e)", {}),
    "square": ("z = Pow(h, two)", {"two": np.float32(2)}),
    "cube": ("z = Pow(h, three)", {"three": np.float32(3)}),
    "quotient by a constant for each channel": ("z = Div(h, c)", {"c": np.full(6, 2, np.float32)}),
    "reciprocal of a maximum": ("e = Max(h, one)  z = Reciprocal(e)", {"one": ONE}),
    "power of each channel": ("e = Abs(h)  d = Add(e, one)  z = Pow(d, c)", {"one": ONE, "c": np.full(6, 0.3, "f")}),
    "inverse cosine of what lies between": ("t = Tanh(h)  z = Acos(t)", {}),
    "quotient by an exponential": ("e = Exp(h)  z = Div(h, e)", {}),
    "root of a cast": ("e = Abs(h)  c = Cast<to = 11>(e)  r = Sqrt(c)  z = Cast<to = 1>(r)", {}),
    "quotient by a sum of what is positive": (
        "e = Abs(h)  p = Add(e, one)  d = CumSum(p, first)  z = Div(h, d)",
        {"one": ONE, "first": np.int64(0)},
    ),
    "logarithm of a sum of what is positive": (
        "e = Abs(h)  p = Add(e, one)  t = Unsqueeze(p, last)  z = ReduceLogSum<keepdims = 0>(t, last)",
        {"one": ONE, "last": np.array([2])},
    ),
    "computed power of a positive constant": ("t = Tanh(h)  z = Pow(one, t)", {"one": ONE}),
    "logarithm behind a border of its own entries": (
        'e = Exp(h)  p = Add(e, one)  b = Pad<mode = "edge">(p, pads)  l = Log(b)  z = Slice(l, from, to, first)',
        {
            "one": ONE,
            "pads": np.array([1, 0, 0, 0]),
            "from": np.array([1]),
            "to": np.array([99]),
            "first": np.array([0]),
        },
    ),
    "lookup by what is clipped": (
        "c = Clip(h, low, high)  i = Cast<to = 7>(c)  z = Gather(table, i)",
        {"low": np.float32(-5), "high": np.float32(4.5), "table": np.ones(5, np.float32)},
    ),
    "lookup by what is bounded by a sigmoid": (
        "p = Sigmoid(h)  m = Mul(p, four)  i = Cast<to = 7>(m)  z = GatherElements(table, i)",
        {"four": np.float32(4), "table": np.ones((5, 6), np.float32)},
    ),
    "lookup by remainders": (
        "i = Cast<to = 7>(h)  m = Mod(i, five)  z = Gather(table, m)",
        {"five": np.int64(5), "table": np.ones(5, np.float32)},
    ),
    "lookup by what is largest": (
        "t = Unsqueeze(h, last)  p = Mul(t, shifts)  i = ArgMax<axis = 2, keepdims = 0>(p)  z = Gather(table, i)",
        {"last": np.array([2]), "shifts": np.ones((1, 1, 5), np.float32), "table": np.ones(5, np.float32)},
    ),
    "lookup by a comparison": (
        "b = Greater(h, half)  i = Cast<to = 7>(b)  z = Gather(table, i)",
        {"half": HALF, "table": np.ones(2, np.float32)},
    ),
    "quotient by a norm over all channels": ("e = ReduceL2(h, one)  z = Div(h, e)", {"one": np.array([1])}),
}
UNSAFE: dict[str, tuple[str, dict[str, np.ndarray | np.generic], str]] = {
    "logarithm": ("z = Log(h)", {}, "takes its logarithm"),
    "root": ("z = Sqrt(h)", {}, "takes its root"),
    "quotient": ("z = Div(one, h)", {"one": ONE}, "divides by it"),
    "quotient by a constant in front": (
        "d = Sigmoid(h)  e = Add(d, c)  z = Div(h, e)",
        {"c": np.ones(6, "f")},
        "divides",
    ),
    "reciprocal": ("r = Relu(h)  z = Reciprocal(r)", {}, "divides by it"),
    "half power": ("z = Pow(h, half)", {"half": HALF}, "takes a power of it"),
    "computed power": ("z = Pow(h, h)", {}, "takes a power of it"),
    "computed power of a negative constant": ("z = Pow(minus, h)", {"minus": -ONE}, "is a power of"),
    "quotient by what is cut to whole numbers": (
        "e = Abs(h)  p = Add(e, half)  i = Cast<to = 7>(p)  d = Cast<to = 1>(i)  z = Div(h, d)",
        {"half": HALF},
        "divides",
    ),
    "quotient by sums that begin with nothing": (
        "e = Abs(h)  p = Add(e, one)  d = CumSum<exclusive = 1>(p, first)  z = Div(h, d)",
        {"one": ONE, "first": np.int64(0)},
        "divides",
    ),
    "quotient by what a mask keeps": (
        "e = Exp(h)  p = Add(e, one)  k, m = Dropout(p)  d = Cast<to = 1>(m)  z = Div(h, d)",
        {"one": ONE},
        "divides",
    ),
    "logarithm of a sum": (
        "t = Unsqueeze(h, last)  z = ReduceLogSum<keepdims = 0>(t, last)",
        {"last": np.array([2])},
        "takes its logarithm",
    ),
    "inverse hyperbolic tangent": ("t = Tanh(h)  z = Atanh(t)", {}, "may lie outside -1 to 1"),
    "lookup": (
        "i = Cast<to = 7>(h)  z = Gather(table, i)",
        {"table": np.ones(1000, np.float32)},
        "looks up entries by it",
    ),
    "lookup by what is clipped too late": (
        "c = Clip(h, low, high)  i = Cast<to = 7>(c)  z = Gather(table, i)",
        {"low": np.float32(0), "high": np.float32(999.5), "table": np.ones(999, np.float32)},
        "looks up entries by it",
    ),
    "lookup element by element": (
        "a = Abs(h)  i = Cast<to = 7>(a)  z = GatherElements(table, i)",
        {"table": np.ones((1000, 6), np.float32)},
        "looks up entries by it",
    ),
    "entries written by computed places": (
        "a = Abs(h)  i = Cast<to = 7>(a)  w = ScatterElements(table, i, h)  z = Slice(w, from, to)",
        {"table": np.ones((1000, 6), np.float32), "from": np.array([0]), "to": np.array([7])},
        "looks up entries by it",
    ),
    "inverse cosine": ("z = Acos(h)", {}, "may lie outside -1 to 1, where Acos has no value"),
}
