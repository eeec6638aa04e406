"""Concat, Split, Slice and Gather: axes made of parts."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

MAX = np.iinfo(np.int64).max
MIN = np.iinfo(np.int64).min
ROWS = "(float[N,6] x) => (float[N,3] y)"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def slices(
    name: str, bounds: str, growable: tuple[str, ...], opset: int = 17, width: int = 4, **operands: np.ndarray
) -> Case:
    graph = f"{ROWS} {{ h = MatMul(x, wa) s = Slice {bounds} y = MatMul(s, wb) }}"
    return Case(name, graph, {"wa": (6, 10), "wb": (width, 3), **operands}, growable, opset=opset)


FUSED = "(float[N,5,6] x) => (float[N,5,3] y) { h = MatMul(x, wa)"
SLICED = ("wa[2:6]",)
CASES = [
    Case(
        "Concat: first, middle and last branch",
        f"{ROWS} {{ a = MatMul(x, wa) b = MatMul(x, wb) c = MatMul(x, wc)"
        " j = Concat <axis = 1> (a, b, c) r = Relu(j) y = MatMul(r, wd) }",
        {"wa": (6, 2), "wb": (6, 3), "wc": (6, 4), "wd": (9, 3)},
        ("wa", "wb", "wc"),
    ),
    Case(
        "Concat on a negative axis, and with the input",
        f"{ROWS} {{ a = MatMul(x, wa) b = MatMul(x, wb) j = Concat <axis = -1> (a, x, b) y = MatMul(j, wd) }}",
        {"wa": (6, 2), "wb": (6, 3), "wd": (11, 3)},
        ("wa", "wb"),
    ),
    Case(
        "Concat of one thing with itself",
        f"{ROWS} {{ a = MatMul(x, wa) j = Concat <axis = 1> (a, a) y = MatMul(j, wd) }}",
        {"wa": (6, 2), "wd": (4, 3)},
    ),
    Case(
        "Concat with a constant",
        "(float[2,6] x) => (float[2,3] y) { a = MatMul(x, wa) j = Concat <axis = 1> (a, k) y = MatMul(j, wd) }",
        {"wa": (6, 2), "k": (2, 3), "wd": (5, 3)},
    ),
    Case(
        "Concat on another axis ties the channels",
        "(float[N,6] x) => (float[M,3] y) { a = MatMul(x, wa) b = MatMul(x, wb)"
        " j = Concat <axis = 0> (a, b) y = MatMul(j, wd) }",
        {"wa": (6, 2), "wb": (6, 2), "wd": (2, 3)},
    ),
    Case(
        "dense block",
        f"{ROWS} {{ a = MatMul(x, wa) b = MatMul(a, wb) j = Concat <axis = 1> (a, b) c = MatMul(j, wc)"
        " k = Concat <axis = 1> (j, c) y = MatMul(k, wd) }",
        {"wa": (6, 2), "wb": (2, 3), "wc": (5, 4), "wd": (9, 3)},
        ("wa", "wb", "wc"),
    ),
    Case(
        "Split of equal parts by opset 11 attribute",
        FUSED + " q, k, v = Split <axis = 2, split = [4, 4, 4]> (h) s = Add(q, k) t = Mul(s, v) y = MatMul(t, wb) }",
        {"wa": (6, 12), "wb": (4, 3)},
        ("wa[0:4]",),
        opset=11,
    ),
    Case(
        "Split without sizes, opset 2",
        FUSED + " q, v = Split <axis = 2> (h) t = Mul(q, v) y = MatMul(t, wb) }",
        {"wa": (6, 8), "wb": (4, 3)},
        ("wa[0:4]",),
        opset=7,
    ),
    Case(
        "Split into parts that grow apart",
        FUSED + " q, k, v = Split <axis = -1> (h, sizes)"
        " a = MatMul(q, wq) b = MatMul(k, wk) c = MatMul(v, wv) y = Sum(a, b, c) }",
        {"wa": (6, 9), "sizes": ints(2, 3, 4), "wq": (2, 3), "wk": (3, 3), "wv": (4, 3)},
        ("wa[0:2]", "wa[2:5]", "wa[5:9]"),
    ),
    Case(
        "Split without sizes, opset 13",
        FUSED + " q, v = Split <axis = 2> (h) a = MatMul(q, wq) b = MatMul(v, wv) y = Add(a, b) }",
        {"wa": (6, 8), "wq": (4, 3), "wv": (4, 3)},
        ("wa[0:4]", "wa[4:8]"),
        opset=13,
    ),
    Case(
        "Split by num_outputs, uneven",
        FUSED + " q, k, v = Split <axis = 2, num_outputs = 3> (h)"
        " a = MatMul(q, wq) b = MatMul(k, wk) c = MatMul(v, wv) y = Sum(a, b, c) }",
        {"wa": (6, 10), "wq": (4, 3), "wk": (4, 3), "wv": (2, 3)},
        ("wa[0:4]", "wa[4:8]", "wa[8:10]"),
        opset=18,
    ),
    Case(
        "Split of which a part is not read",
        FUSED + " q, k, v = Split <axis = 2> (h, sizes) y = MatMul(v, wv) }",
        {"wa": (6, 9), "sizes": ints(2, 3, 4), "wv": (4, 3)},
        ("wa[5:9]",),
    ),
    Case(
        "merged Split sizes",
        FUSED + " q, k = Split <axis = 2> (h, sizes) g = MatMul(x, wc) r, s = Split <axis = 2> (g, sizes)"
        " a = Mul(q, r) b = Mul(k, s) c = MatMul(a, wb) d = MatMul(b, wd) y = Add(c, d) }",
        {"wa": (6, 8), "wc": (6, 8), "sizes": ints(4, 4), "wb": (4, 3), "wd": (4, 3)},
        ("wa[0:4]", "wa[4:8]"),
    ),
    slices("Slice by input", "(h, starts, ends, axes)", SLICED, starts=ints(2), ends=ints(6), axes=ints(1)),
    slices(
        "Slice with steps",
        "(h, starts, ends, axes, steps)",
        SLICED,
        starts=ints(2),
        ends=ints(6),
        axes=ints(-1),
        steps=ints(1),
    ),
    slices("Slice of opset 1", "<axes = [1], starts = [2], ends = [6]> (h)", SLICED, opset=9),
    slices("Slice of opset 1 over all axes", "<starts = [0, 2], ends = [1000, 6]> (h)", SLICED, opset=9),
    slices("negative bounds", "(h, starts, ends, axes)", SLICED, starts=ints(-8), ends=ints(-4), axes=ints(1)),
    slices(
        "an end of INT64_MAX", "(h, starts, ends, axes)", ("wa[6:10]",), starts=ints(6), ends=ints(MAX), axes=ints(1)
    ),
    slices(
        "an end of INT32_MAX, opset 1", "<axes = [1], starts = [6], ends = [2147483647]> (h)", ("wa[6:10]",), opset=9
    ),
    slices(
        "a start of INT64_MIN", "(h, starts, ends, axes)", ("wa[0:4]",), starts=ints(MIN), ends=ints(4), axes=ints(1)
    ),
    slices("from the end", "(h, starts, ends, axes)", ("wa[6:10]",), starts=ints(-4), ends=ints(MAX), axes=ints(1)),
    slices(
        "the whole axis", "(h, starts, ends, axes)", ("wa",), width=10, starts=ints(0), ends=ints(MAX), axes=ints(1)
    ),
    slices(
        "the whole axis, spelled out",
        "(h, starts, ends, axes)",
        ("wa",),
        width=10,
        starts=ints(0),
        ends=ints(10),
        axes=ints(1),
    ),
    Case(
        "two halves of one axis",
        f"{ROWS} {{ h = MatMul(x, wa) s = Slice(h, zero, four, one) t = Slice(h, four, ten, one)"
        " a = MatMul(s, wb) b = MatMul(t, wc) y = Add(a, b) }",
        {"wa": (6, 10), "wb": (4, 3), "wc": (6, 3), "zero": ints(0), "four": ints(4), "ten": ints(10), "one": ints(1)},
        ("wa[0:4]", "wa[4:10]"),
    ),
    Case(
        "a gate: halves that are multiplied",
        f"{ROWS} {{ h = MatMul(x, wa) s = Slice(h, zero, five, one) t = Slice(h, five, ten, one)"
        " g = Sigmoid(t) m = Mul(s, g) y = MatMul(m, wb) }",
        {"wa": (6, 10), "wb": (5, 3), "zero": ints(0), "five": ints(5), "ten": ints(10), "one": ints(1)},
        ("wa[0:5]",),
    ),
    *(
        Case(
            f"neighbours by strided slices up to {end}: pairs grow",
            f"{ROWS} {{ h = MatMul(x, wa) s = Slice(h, zero, end, one, two) t = Slice(h, first, end, last, two)"
            " g = Sigmoid(t) m = Mul(s, g) y = MatMul(m, wb) }",
            {
                "wa": (6, 10),
                "wb": (5, 3),
                "end": ints(end),
                "zero": ints(0),
                "one": ints(1),
                "two": ints(2),
                "first": ints(1 - 10),
                "last": ints(-1),
            },
            ("wa/outer",),
        )
        for end in (10, MAX)
    ),
    Case(
        "neighbours that are turned together",
        "(float[N,5,6] x) => (float[N,5,5] y) { q = MatMul(x, wa) k = MatMul(x, wb) a = Slice(q, zero, big, last, two)"
        " b = Slice(q, one, big, last, two) n = Neg(b) u = Unsqueeze(n, last) v = Unsqueeze(a, last)"
        " w = Concat <axis = -1> (u, v) r = Reshape(w, back) c = Mul(q, cos) s = Mul(r, sin) t = Add(c, s)"
        " kt = Transpose <perm = [0, 2, 1]> (k) y = MatMul(t, kt) }",
        {
            "wa": (6, 4),
            "wb": (6, 4),
            "zero": ints(0),
            "one": ints(1),
            "two": ints(2),
            "last": ints(-1),
            "big": ints(MAX),
            "back": ints(0, 0, 4),
            "cos": (5, 4),
            "sin": (5, 4),
        },
        ("wa/outer",),
    ),
    Case(
        "a strided slice of positions",
        "(float[N,8,6] x) => (float[N,4,3] y) { h = MatMul(x, wa) s = Slice(h, zero, big, one, two) y = MatMul(s,"
        " wb) }",
        {"wa": (6, 4), "wb": (4, 3), "zero": ints(0), "big": ints(MAX), "one": ints(1), "two": ints(2)},
    ),
    Case(
        "a reversed slice of positions",
        "(float[N,8,6] x) => (float[N,8,3] y) { h = MatMul(x, wa) s = Slice(h, last, low, one, last) y = MatMul(s,"
        " wb) }",
        {"wa": (6, 4), "wb": (4, 3), "last": ints(-1), "low": ints(-1000), "one": ints(1)},
    ),
    Case(
        "Gather of a position",
        "(float[N,8,6] x) => (float[N,3] y) { h = MatMul(x, wa) s = Gather <axis = 1> (h, i) y = MatMul(s, wb) }",
        {"wa": (6, 4), "wb": (4, 3), "i": np.array(0)},
    ),
    Case(
        "Gather of known channels: the old ones stay chosen",
        f"{ROWS} {{ h = MatMul(x, wa) s = Gather <axis = 1> (h, i) a = MatMul(s, wb) r = Relu(h) b = MatMul(r, wc)"
        f" y = Add(a, b) }}",
        {"wa": (6, 10), "wb": (2, 3), "wc": (10, 3), "i": ints(-1, 4)},
    ),
    Case(
        "Gather of the last channel, in the middle of what grew",
        f"{ROWS} {{ p = MatMul(x, wa) q = MatMul(x, wb) h = Concat <axis = 1> (p, q) s = Gather <axis = 1> (h, last)"
        f" t = Gather <axis = 1> (h, fifth) a = MatMul(h, wc) u = Add(s, t) v = Unsqueeze(u, one) y = Add(a, v) }}",
        {"wa": (6, 4), "wb": (6, 5), "wc": (9, 3), "last": np.array(-1), "fifth": np.array(5), "one": ints(1)},
        ("wa", "wb"),
    ),
    Case(
        "fused qkv by reshape and Gather",
        "(float[N,5,6] x) => (float[N,5,3] y) { h = MatMul(x, wa) r = Reshape(h, four)"
        " q = Gather <axis = 2> (r, zero) k = Gather <axis = 2> (r, one) a = MatMul(q, wb) b = MatMul(k, wc) y ="
        " Add(a, b) }",
        {"wa": (6, 8), "wb": (4, 3), "wc": (4, 3), "four": ints(0, 5, 2, 4), "zero": np.array(0), "one": np.array(1)},
        ("wa/inner",),
    ),
    Case(
        "halves swapped and added: both halves are one set",
        f"{ROWS} {{ h = MatMul(x, wa) p, q = Split <axis = 1> (h) c = Concat <axis = 1> (q, p) s = Add(h, c) y ="
        f" MatMul(s, wb) }}",
        {"wa": (6, 8), "wb": (8, 3)},
        ("wa[0:4]",),
    ),
]

FROZEN = [
    Frozen(
        "strided slice over broken runs",
        f"{ROWS} {{ h = MatMul(x, wa) s = Slice(h, zero, ten, one, three) y = MatMul(s, wb) }}",
        {"wa": (6, 10), "wb": (4, 3), "zero": ints(0), "ten": ints(10), "one": ints(1), "three": ints(3)},
        reasons=("a strided slice reads it (Slice s, axis 1)",),
    ),
    Frozen(
        "reversed slice",
        f"{ROWS} {{ h = MatMul(x, wa) s = Slice(h, last, low, one, last) y = MatMul(s, wb) }}",
        {"wa": (6, 10), "wb": (10, 3), "last": ints(-1), "low": ints(-1000), "one": ints(1)},
        reasons=("a strided slice reads it (Slice s, axis 1)",),
    ),
    Frozen(
        "Gather over channels that nothing else reads",
        f"{ROWS} {{ h = MatMul(x, wa) s = Gather <axis = 1> (h, i) y = MatMul(s, wb) }}",
        {"wa": (6, 10), "wb": (2, 3), "i": ints(1, 4)},
        reasons=("no weight reads it", "it counts entries chosen by index (Gather s, axis 0)"),
    ),
    Frozen(
        "Gather of channels that data choose",
        "(float[N,6] x, int64[2] i) => (float[N,3] y) {"
        " h = MatMul(x, wa) s = Gather <axis = 1> (h, i) a = MatMul(s, wb) b = MatMul(h, wc) y = Add(a, b) }",
        {"wa": (6, 10), "wb": (2, 3), "wc": (10, 3)},
        reasons=("entries are looked up in it (Gather s, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_through_parts_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
