"""Values computed from shapes: what must not follow a growth stays, what must follow does."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

SEQ = "(float[N,T,6] x) => (float[N,T,3] y)"
AB = {"wa": (6, 8), "wb": (8, 3)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


INTS = {
    "zero": ints(0),
    "one": ints(1),
    "two": ints(2),
    "three": ints(3),
    "four": ints(4),
    "eight": ints(8),
    "minus": ints(-1),
}


def seq(name: str, ops: str, *, growable: tuple[str, ...] = ("wa",), opset: int = 17, **weights: object) -> Case:
    used = {k: v for k, v in INTS.items() if k in ops.replace("(", " ").replace(")", " ").replace(",", " ").split()}
    graph = f"{SEQ} {{ h = MatMul(x, wa) {ops} y = MatMul(a, wb) }}"
    return Case(name, graph, {**AB, **used, **weights}, growable, opset=opset)  # type: ignore[arg-type]  # table of arrays and shapes


HEADS = ("wa/outer", "wa/inner")
CASES = [
    seq(
        "Flatten written with Shape, Gather and Concat",
        "s = Shape(h) n = Gather(s, zero) to = Concat <axis = 0> (n, minus, eight)"
        " f = Reshape(h, to) r = Relu(f) a = Reshape(r, s)",
    ),
    seq(
        "heads with a dynamic batch and length",
        "s = Shape(h) n = Gather(s, zero) t = Gather(s, one) to = Concat <axis = 0> (n, t, two, four)"
        " f = Reshape(h, to) r = Relu(f) back = Concat <axis = 0> (n, t, eight) a = Reshape(r, back)",
        growable=HEADS,
    ),
    seq(
        "head width computed from the channels",
        "s = Shape(h) n = Gather(s, zero) t = Gather(s, one) c = Gather(s, two) w = Div(c, two)"
        " to = Concat <axis = 0> (n, t, two, w) f = Reshape(h, to) r = Relu(f) a = Reshape(r, s)",
        growable=HEADS,
    ),
    seq(
        "a scale computed from the channels",
        "s = Shape(h) c = Gather(s, two) f = Cast <to = 1> (c) q = Sqrt(f) a = Div(h, q)",
    ),
    seq("zeros like another tensor", "s = Shape(h) z = ConstantOfShape(s) a = Add(h, z)"),
    seq("zeros like another tensor, by Expand", "s = Shape(h) z = Expand(nil, s) a = Add(h, z)", nil=np.float32(0)),
    seq(
        "ones like a tensor of another width",
        "g = MatMul(x, wc) s = Shape(g) z = ConstantOfShape <value = float[1] {1}> (s) p = MatMul(g, wd) q ="
        " MatMul(z, we)"
        " a = Sum(h, p, q)",
        wc=(6, 5),
        wd=(5, 8),
        we=(5, 8),
        growable=("wa", "wc"),
    ),
    seq("broadcast to another tensor's shape", "s = Shape(h) e = Expand(k, s) a = Mul(h, e)", k=(8,)),
    seq(
        "the last axis of the shape sliced off",
        "s = Shape(h) n = Slice(s, zero, two) to = Concat <axis = 0> (n, eight) a = Reshape(h, to)",
    ),
    seq(
        "Shape with a window", "s = Shape <start = 0, end = 2> (h) to = Concat <axis = 0> (s, eight) a = Reshape(h, to)"
    ),
    seq(
        "the shape split",
        "s = Shape(h) n, t, c = Split <axis = 0> (s, parts) to = Concat <axis = 0> (n, t, c) a = Reshape(h, to)",
        parts=ints(1, 1, 1),
    ),
    seq(
        "a slice to the middle of the channels",
        "s = Shape(h) c = Gather(s, two) m = Div(c, two) u = Slice(h, zero, m, two)"
        " v = Slice(h, m, c, two) g = Sigmoid(v) p = Mul(u, g) a = Concat <axis = 2> (p, p)",
        growable=("wa[0:4]",),
    ),
    seq(
        "positions counted up",
        "s = Shape(h) t = Gather(s, nr) r = Range(nil, t, step) f = Cast <to = 1> (r) u = Unsqueeze(f, one) a ="
        " Add(h, u)",
        nr=np.array(1),
        nil=np.array(0),
        step=np.array(1),
    ),
    Case(
        "resized to another feature map",
        "(float[N,3,H,W] x) => (float[N,5,H,W] y) { c = Conv(x, wa) p = MaxPool <kernel_shape = [2, 2], strides ="
        " [2, 2]> (c)"
        " e = Conv(p, wc) s = Shape(c) hw = Slice(s, two, four) t = Shape(e) nc = Slice(t, zero, two) to = Concat"
        " <axis = 0> (nc, hw)"
        " r = Resize(e, , , to) j = Concat <axis = 1> (c, r) y = Conv(j, wb) }",
        {"wa": (4, 3, 1, 1), "wc": (6, 4, 1, 1), "wb": (5, 10, 1, 1), "zero": ints(0), "two": ints(2), "four": ints(4)},
        ("wa", "wc"),
        dynamic=4,
    ),
    Case(
        "SE gate by shape arithmetic",
        "(float[N,3,H,W] x) => (float[N,5,H,W] y) { c = Conv(x, wa) p = GlobalAveragePool(c) s = Shape(p)"
        " nc = Slice(s, zero, two) f = Reshape(p, nc) g = Sigmoid(f) u = Reshape(g, s) d = Mul(c, u) y = Conv(d, wb) }",
        {"wa": (4, 3, 1, 1), "wb": (5, 4, 1, 1), "zero": ints(0), "two": ints(2)},
        dynamic=4,
    ),
    Case(
        "flatten of dynamic positions, opset 8",
        "(float[N,3,H,W] x) => (float[N,P,3] y) { c = Conv(x, wa) s = Shape(c) n = Slice <starts = [0], ends = [2]> (s)"
        " to = Concat <axis = 0> (n, minus) f = Reshape(c, to) t = Transpose <perm = [0, 2, 1]> (f) y = MatMul(t,"
        " wb) }",
        {"wa": (4, 3, 1, 1), "wb": (4, 3), "minus": ints(-1)},
        opset=8,
        dynamic=4,
    ),
]

FROZEN = [
    Frozen(
        "a real number computed from a count that varies",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) s = Size(h) f = Cast <to = 1> (s) a = Div(h, f)"
        " y = MatMul(a, wb) }",
        AB,
        reasons=("its value depends on sizes that vary (Cast f)",),
    ),
    Frozen(
        "the shape leaves the network",
        "(float[N,6] x) => (float[N,3] y, int64[2] s) { h = MatMul(x, wa) s = Shape(h) y = MatMul(h, wb) }",
        AB,
        reasons=("it holds a shape that would change, and leaves the graph (value s)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_around_shape_values_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
