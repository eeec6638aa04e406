"""Gemm and MatMul in all their forms."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


GEMM = (
    "(float[N,6] x) => (float[N,3] y) {{ h = Gemm <{first}> (x, wa, ba)  a = Relu(h)  y = Gemm <{last}> (a, wb, bb) }}"
)


def gemm(
    name: str, first: str, last: str, wa: tuple[int, ...], wb: tuple[int, ...], ba: tuple[int, ...] = (4,)
) -> Case:
    graph = GEMM.format(first=first, last=last).replace("<>", "")
    return Case(name, graph, {"wa": wa, "wb": wb, "ba": ba, "bb": (3,)})


CASES = [
    gemm("plain", "", "", (6, 4), (4, 3)),
    gemm("transB", "transB = 1", "transB = 1", (4, 6), (3, 4)),
    gemm("alpha and beta", "alpha = 0.5, beta = 2.0", "alpha = 3.0, beta = 0.0", (6, 4), (4, 3)),
    gemm("bias as a row", "", "", (6, 4), (4, 3), (1, 4)),
    gemm("bias of one entry", "", "", (6, 4), (4, 3), (1,)),
    gemm("bias as a scalar", "", "", (6, 4), (4, 3), ()),
    Case(
        "bias as a matrix",
        "(float[2,6] x) => (float[2,3] y) { h = Gemm(x, wa, ba)  y = Gemm(h, wb) }",
        {"wa": (6, 4), "ba": (2, 4), "wb": (4, 3)},
    ),
    Case(
        "bias as a column",
        "(float[2,6] x) => (float[2,3] y) { h = Gemm(x, wa, ba)  y = Gemm(h, wb) }",
        {"wa": (6, 4), "ba": (2, 1), "wb": (4, 3)},
    ),
    Case(
        "no bias", "(float[N,6] x) => (float[N,3] y) { h = Gemm(x, wa)  y = Gemm(h, wb) }", {"wa": (6, 4), "wb": (4, 3)}
    ),
    Case(
        "Einsum: every expert has weights of its own",
        '(float[N,6] x) => (float[N,5,3] y) { h = Einsum <equation = "bi,eih->beh"> (x, wa) a = Relu(h)'
        ' y = Einsum <equation = "beh,eho->beo"> (a, wb) }',
        {"wa": (5, 6, 4), "wb": (5, 4, 3)},
        ("wa#2",),
    ),
    Case(
        "Einsum: experts that are mixed, three operands",
        '(float[N,6] x, float[N,5] share) => (float[N,3] y) { h = Einsum <equation = "bi,eih->beh"> (x, wa)'
        ' a = Relu(h) y = Einsum <equation = "beh,eho,be->bo"> (a, wb, share) }',
        {"wa": (5, 6, 4), "wb": (5, 4, 3)},
        ("wa#2",),
    ),
    Case(
        "Einsum: a bilinear weight, and a sum over a letter that it has not",
        "(float[N,6] x) => (float[N,3] y) { p = MatMul(x, wa) q = MatMul(x, wb) g = Sigmoid(q)"
        ' y = Einsum <equation = "bi,oij,bj->bo"> (p, wc, g) }',
        {"wa": (6, 4), "wb": (6, 5), "wc": (3, 4, 5)},
        ("wa", "wb"),
    ),
    Case(
        "transA",
        "(float[6,N] x) => (float[3,N] y) {"
        " h = Gemm <transA = 1, transB = 1> (x, wa, ba)  t = Transpose(h)  y = Gemm <transA = 0> (wb, t) }",
        {"wa": (4, 6), "ba": (4,), "wb": (3, 4)},
    ),
    Case(
        "weight on the left",
        "(float[6,N] x) => (float[3,N] y) { h = Gemm(wa, x)  a = Tanh(h)  y = Gemm(wb, a) }",
        {"wa": (4, 6), "wb": (3, 4)},
    ),
    Case(
        "weight on the left, transposed",
        "(float[6,N] x) => (float[3,N] y) {"
        " h = Gemm <transA = 1> (wa, x)  a = Tanh(h)  y = Gemm <transA = 1> (wb, a) }",
        {"wa": (6, 4), "wb": (4, 3)},
    ),
    Case(
        "computed C is the residual",
        "(float[N,6] x) => (float[N,3] y) { s = Gemm(x, wc)  h = Gemm(x, wa, s)  y = Gemm(h, wb) }",
        {"wa": (6, 4), "wb": (4, 3), "wc": (6, 4)},
        ("wc",),
    ),
    Case(
        "Gemm of opset 7",
        "(float[N,6] x) => (float[N,3] y) { h = Gemm(x, wa, ba)  y = Gemm(h, wb, bb) }",
        {"wa": (6, 4), "wb": (4, 3), "ba": (4,), "bb": (3,)},
        opset=7,
    ),
    Case(
        "MatMul",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa)  y = MatMul(h, wb) }",
        {"wa": (6, 4), "wb": (4, 3)},
    ),
    Case(
        "MatMul of sequences",
        "(float[N,5,6] x) => (float[N,5,3] y) { h = MatMul(x, wa)  b = Add(h, ba)  y = MatMul(b, wb) }",
        {"wa": (6, 4), "ba": (4,), "wb": (4, 3)},
    ),
    Case(
        "MatMul, weight on the left",
        "(float[N,6,5] x) => (float[N,3,5] y) { h = MatMul(wa, x)  r = Relu(h)  y = MatMul(wb, r) }",
        {"wa": (4, 6), "wb": (3, 4)},
    ),
    Case(
        "a vector reads",
        "(float[N,6] x) => (float[N] y) { h = MatMul(x, wa)  y = MatMul(h, wb) }",
        {"wa": (6, 4), "wb": (4,)},
    ),
    Case(
        "a vector is multiplied",
        "(float[6] x) => (float[3] y) { h = MatMul(x, wa)  y = MatMul(h, wb) }",
        {"wa": (6, 4), "wb": (4, 3)},
    ),
    Case(
        "a vector on the left reads",
        "(float[6,N] x) => (float[N] y) { h = MatMul(wa, x)  y = MatMul(wb, h) }",
        {"wa": (4, 6), "wb": (4,)},
    ),
    Case(
        "a weight per batch",
        "(float[2,5,6] x) => (float[2,5,3] y) { h = MatMul(x, wa)  y = MatMul(h, wb) }",
        {"wa": (2, 6, 4), "wb": (2, 4, 3)},
    ),
    Case(
        "a weight that broadcasts over the batch",
        "(float[2,5,6] x) => (float[2,5,3] y) { h = MatMul(x, wa)  y = MatMul(h, wb) }",
        {"wa": (1, 6, 4), "wb": (1, 4, 3)},
    ),
    Case(
        "three layers grow together",
        "(float[N,6] x) => (float[N,2] y) { h = MatMul(x, wa) g = MatMul(h, wb) y = MatMul(g, wc) }",
        {"wa": (6, 4), "wb": (4, 5), "wc": (5, 2)},
        ("wa", "wb"),
    ),
    Case(
        "residual connection",
        "(float[N,6] x) => (float[N,2] y) {"
        " h = MatMul(x, wa) g = MatMul(h, wb) r = Relu(g) f = MatMul(r, wc) s = Add(h, f) y = MatMul(s, wd) }",
        {"wa": (6, 4), "wb": (4, 5), "wc": (5, 4), "wd": (4, 2)},
        ("wa", "wb"),
    ),
    Case(
        "Constant-node weights",
        "(float[N,6] x) => (float[N,3] y) { h = Gemm(x, wa, ba) y = Gemm(h, wb) }",
        {"wa": (6, 4), "ba": (4,), "wb": (4, 3)},
        as_nodes=True,
    ),
    Case(
        "embedding table",
        "(int64[N,5] x) => (float[N,5,3] y) { h = Gather(wa, x)  y = MatMul(h, wb) }",
        {"wa": (7, 4), "wb": (4, 3)},
    ),
    Case(
        "two computed values are multiplied",
        "(float[N,4] x, float[4,5] z) => (float[N,5] y) { h = MatMul(x, wa) g = MatMul(wb, z) y = MatMul(h, g) }",
        {"wa": (4, 3), "wb": (3, 4)},
    ),
    Case(
        "attention of two heads",
        "(float[N,5,6] x) => (float[N,5,3] y) { q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
        " qh = Reshape(q, four) kh = Reshape(k, four) vh = Reshape(v, four)"
        " qt = Transpose <perm = [0, 2, 1, 3]> (qh) kt = Transpose <perm = [0, 2, 3, 1]> (kh)"
        " vt = Transpose <perm = [0, 2, 1, 3]> (vh) s = MatMul(qt, kt) p = Softmax(s) c = MatMul(p, vt)"
        " t = Transpose <perm = [0, 2, 1, 3]> (c) a = Reshape(t, three) y = MatMul(a, wo) }",
        {"wq": (6, 8), "wk": (6, 8), "wv": (6, 10), "wo": (10, 3), "four": ints(0, 5, 2, -1), "three": ints(0, 5, 10)},
        ("wq/outer", "wq/inner", "wv/inner"),
    ),
]

FROZEN = [
    Frozen(
        "network inputs and outputs",
        "(float[N,4] x) => (float[N,3] y) { y = MatMul(x, wa) }",
        {"wa": (4, 3)},
        reasons=(
            "it is an input of the network (input x, axis 1)",
            "it is an output of the network (output y, axis 1)",
        ),
    ),
    Frozen(
        "a hidden value is an output too",
        "(float[N,4] x) => (float[N,3] y, float[N,5] h) { h = MatMul(x, wa) y = MatMul(h, wb) }",
        {"wa": (4, 5), "wb": (5, 3)},
        reasons=("it is an output of the network (output h, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_through_linear_ops_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
