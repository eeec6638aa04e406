"""Weights behind chains of ops on constants: quantised, scaled, cut apart, reordered, joined."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

ROWS = "(float[N,6] x) => (float[N,3] y)"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def quantised(*shape: int, dtype: object = np.int8, low: int = -100, high: int = 100) -> np.ndarray:
    return np.random.default_rng(len(shape) + shape[0]).integers(low, high, shape).astype(dtype)


def scales(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(0.005, 0.02, shape).astype(np.float32)


SCALAR = np.float32(0.01)
QDQ = (
    f"{ROWS} {{ a = DequantizeLinear(wa, sa, za) h = MatMul(x, a) b = DequantizeLinear(wb, sb, zb) y = MatMul(h, b) }}"
)
QDQ_AXIS = QDQ.replace("DequantizeLinear(", "DequantizeLinear <axis = 1> (")
DIRECT = "h = MatMul(x, a) y = MatMul(h, b) }"

CASES = [
    Case(
        "int8 for a whole tensor",
        QDQ,
        {
            "wa": quantised(6, 4),
            "sa": SCALAR,
            "za": np.int8(0),
            "wb": quantised(4, 3),
            "sb": np.float32(0.02),
            "zb": np.int8(0),
        },
    ),
    Case(
        "uint8 with zero points",
        QDQ,
        {
            "wa": quantised(6, 4, dtype=np.uint8, low=0, high=255),
            "sa": SCALAR,
            "za": np.uint8(117),
            "wb": quantised(4, 3, dtype=np.uint8, low=0, high=255),
            "sb": np.float32(0.02),
            "zb": np.uint8(3),
        },
    ),
    Case(
        "uint8 for each output, zero points differ",
        QDQ_AXIS,
        {
            "wa": quantised(6, 4, dtype=np.uint8, low=0, high=255),
            "sa": scales(4),
            "za": np.array([7, 100, 128, 250], np.uint8),
            "wb": quantised(4, 3, dtype=np.uint8, low=0, high=255),
            "sb": scales(3),
            "zb": np.array([9, 90, 200], np.uint8),
        },
    ),
    Case(
        "zero points of the summed axis grow",
        QDQ.replace("DequantizeLinear(wb", "DequantizeLinear <axis = 0> (wb"),
        {
            "wa": quantised(6, 4),
            "sa": SCALAR,
            "za": np.int8(5),
            "wb": quantised(4, 3),
            "sb": scales(4),
            "zb": np.array([1, -2, 3, -4], np.int8),
        },
    ),
    Case(
        "without a zero point",
        f"{ROWS} {{ a = DequantizeLinear(wa, sa) b = DequantizeLinear(wb, sb) {DIRECT}",
        {"wa": quantised(6, 4), "sa": SCALAR, "wb": quantised(4, 3), "sb": SCALAR},
    ),
    Case(
        "int8 in blocks",
        "(float[N,6] x) => (float[N,3] y) { a = DequantizeLinear <axis = 1, block_size = 2> (wa, sa, za)"
        f" b = DequantizeLinear <axis = 0, block_size = 2> (wb, sb, zb) {DIRECT}",
        {
            "wa": quantised(6, 8),
            "sa": scales(6, 4),
            "za": quantised(6, 4, low=-5, high=5),
            "wb": quantised(8, 3),
            "sb": scales(4, 3),
            "zb": quantised(4, 3, low=-5, high=5),
        },
        ("wa/outer",),
        opset=21,
        ir_version=10,
    ),
    Case(
        "int4",
        QDQ_AXIS,
        {
            "wa": quantised(6, 4, dtype=ml_dtypes.int4, low=-8, high=7),
            "sa": scales(4),
            "za": np.zeros(4, ml_dtypes.int4),
            "wb": quantised(4, 3, dtype=ml_dtypes.uint4, low=0, high=15),
            "sb": scales(3),
            "zb": np.array([8, 7, 5]).astype(ml_dtypes.uint4),
        },
        opset=21,
        ir_version=10,
    ),
    Case(
        "float8",
        f"{ROWS} {{ a = DequantizeLinear(wa, sa) b = DequantizeLinear(wb, sb) {DIRECT}",
        {
            "wa": np.random.default_rng(0).normal(size=(6, 4)).astype(ml_dtypes.float8_e4m3fn),
            "sa": np.float32(0.5),
            "wb": np.random.default_rng(1).normal(size=(4, 3)).astype(ml_dtypes.float8_e4m3fn),
            "sb": np.float32(0.25),
        },
        opset=19,
        ir_version=9,
    ),
    Case(
        "a convolution with a quantised bias",
        "(float[N,3,8] x) => (float[N,5,8] y) { a = DequantizeLinear <axis = 0> (wa, sa, za)"
        " k = DequantizeLinear <axis = 0> (ka, sk) h = Conv <pads = [1, 1]> (x, a, k) r = Relu(h)"
        " b = DequantizeLinear <axis = 0> (wb, sb, zb) y = Conv(r, b) }",
        {
            "wa": quantised(4, 3, 3),
            "sa": scales(4),
            "za": np.zeros(4, np.int8),
            "ka": np.array([100, -200, 300, -400], np.int32),
            "sk": scales(4) / 50,
            "wb": quantised(5, 4, 1),
            "sb": scales(5),
            "zb": np.zeros(5, np.int8),
        },
    ),
    Case(
        "quantised activations, trained with fake quantisation",
        f"{ROWS} {{ qa = QuantizeLinear <axis = 1> (wa, sa, za) a = DequantizeLinear <axis = 1> (qa, sa, za)"
        " m = MatMul(x, a) q = QuantizeLinear(m, sh, zh) h = DequantizeLinear(q, sh, zh)"
        " qb = QuantizeLinear <axis = 1> (wb, sb, zb) b = DequantizeLinear <axis = 1> (qb, sb, zb) y = MatMul(h, b) }",
        {
            "wa": (6, 4),
            "sa": scales(4),
            "za": np.zeros(4, np.int8),
            "sh": np.float32(0.05),
            "zh": np.uint8(120),
            "wb": (4, 3),
            "sb": scales(3),
            "zb": np.zeros(3, np.int8),
        },
    ),
    Case(
        "int8 behind Cast and Mul",
        f"{ROWS} {{ ca = Cast <to = 1> (wa) a = Mul(ca, sa) cb = Cast <to = 1> (wb) b = Mul(sb, cb) {DIRECT}",
        {"wa": quantised(6, 4), "sa": scales(4), "wb": quantised(4, 3), "sb": scales(4, 1)},
    ),
    Case(
        "int8 behind Cast, the result is scaled",
        f"{ROWS} {{ a = Cast <to = 1> (wa) p = MatMul(x, a) h = Mul(p, sa) b = Cast <to = 1> (wb) q = MatMul(h, b)"
        " y = Mul(q, sb) }",
        {"wa": quantised(6, 4), "sa": scales(4), "wb": quantised(4, 3), "sb": scales(3)},
    ),
    Case(
        "divided by a scale, behind Transpose",
        f"{ROWS} {{ a = Transpose(wa) d = Div(wb, sb) b = Transpose(d) {DIRECT}",
        {"wa": (4, 6), "wb": (3, 4), "sb": np.float32(3)},
    ),
    Case(
        "queries, keys and values joined from three weights",
        "(float[2,5,6] x) => (float[2,5,3] y) { w = Concat <axis = 1> (wq, wk, wv) c = Concat <axis = 0> (bq, bk, bv)"
        " m = MatMul(x, w) h = Add(m, c) q, k, v = Split <axis = 2> (h) t = Transpose <perm = [0, 2, 1]> (k)"
        " s = MatMul(q, t) p = Softmax(s) o = MatMul(p, v) y = MatMul(o, wo) }",
        {"wq": (6, 4), "wk": (6, 4), "wv": (6, 4), "bq": (4,), "bk": (4,), "bv": (4,), "wo": (4, 3)},
        ("wq", "wv"),
    ),
    Case(
        "cut from one weight by Split and by Slice",
        f"{ROWS} {{ a, b = Split <axis = 0> (wa, two) c = Slice(wc, zero, four, zero) h = MatMul(x, a) r = Relu(h)"
        " g = MatMul(x, b) s = Relu(g) j = Concat <axis = 1> (r, s) u = MatMul(j, c) y = Relu(u) }",
        {"wa": (12, 4), "two": ints(6, 6), "wc": (8, 3), "zero": ints(0), "four": ints(8)},
        ("wa",),
    ),
    Case(
        "an LSTM whose gates are reordered by Slice and Concat",
        "(float[5,2,6] x) => (float[5,2,3] y) {"
        + "".join(
            f" {w}i = Slice({w}, n0, n4, n0) {w}f = Slice({w}, n4, n8, n0) {w}g = Slice({w}, n8, n12, n0)"
            f" {w}o = Slice({w}, n12, n16, n0) {w}c = Concat <axis = 0> ({w}i, {w}o, {w}f, {w}g)"
            for w in ("wx", "wh", "bx", "bh")
        )
        + " w = Unsqueeze(wxc, n0) r = Unsqueeze(whc, n0) bc = Concat <axis = 0> (bxc, bhc) b = Unsqueeze(bc, n0)"
        " s = LSTM <hidden_size = 4> (x, w, r, b) h = Squeeze(s, one) y = MatMul(h, wo) }",
        {
            "wx": (16, 6),
            "wh": (16, 4),
            "bx": (16,),
            "bh": (16,),
            "wo": (4, 3),
            **{f"n{n}": ints(n) for n in (0, 4, 8, 12, 16)},
            "one": ints(1),
        },
        ("wx[0:4]",),
    ),
]

FROZEN = [
    Frozen(
        "normalised by the largest entry",
        f"{ROWS} {{ n = ReduceMax <axes = [0], keepdims = 1> (v) w = Div(v, n) h = MatMul(x, w) y = MatMul(h, wb) }}",
        {"v": (6, 4), "wb": (4, 3)},
        reasons=("its weight is computed from other constants (MatMul, axis 1)",),
    ),
    Frozen(
        "integers are no weights",
        "(int32[N,6] x) => (float[N,3] y) { m = MatMul(x, wa) h = Cast <to = 1> (m) y = MatMul(h, wb) }",
        {"wa": quantised(6, 4, dtype=np.int32), "wb": (4, 3)},
        reasons=("its weight is of type INT32 (MatMul, axis 1)",),
    ),
    Frozen(
        "a scale that is computed",
        f"{ROWS} {{ h = MatMul(x, wa) s = ReduceMax <keepdims = 0> (h) q = QuantizeLinear(h, s, z)"
        " d = DequantizeLinear(q, s, z) y = MatMul(d, wb) }",
        {"wa": (6, 4), "wb": (4, 3), "z": np.uint8(0)},
        reasons=("QuantizeLinear: a scale or zero point that is computed from data (QuantizeLinear q, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_of_weights_behind_ops_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_weights_that_cannot_be_stored_freeze_their_axes(case: Frozen) -> None:
    check_frozen(case)
