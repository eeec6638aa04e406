"""Convolutions, pooling and the normalisations between them."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

IMAGE = "(float[N,3,8,8] x) => (float[N,5,h,w] y)"
K3 = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
BN = {"scale": (4,), "shift": (4,), "mean": (4,), "var": (4,)}
AB = {"wa": (4, 3, 3, 3), "wb": (5, 4, 1, 1)}


def between(op: str) -> str:
    """A network with ``op`` from c to d between two convolutions."""
    return f"{IMAGE} {{ c = Conv <{K3}> (x, wa)  {op}  y = Conv(d, wb) }}"


CASES = [
    Case(
        "Conv with bias and stride",
        f"{IMAGE} {{ c = Conv <{K3}, strides = [2, 2]> (x, wa, ba) y = Conv(c, wb, bb) }}",
        {**AB, "ba": (4,), "bb": (5,)},
    ),
    Case(
        "Conv over one axis",
        "(float[N,3,8] x) => (float[N,5,8] y) { c = Conv(x, wa) y = Conv(c, wb) }",
        {"wa": (4, 3, 1), "wb": (5, 4, 1)},
    ),
    Case(
        "Conv over three axes",
        "(float[N,3,4,4,4] x) => (float[N,5,4,4,4] y) { c = Conv(x, wa) y = Conv(c, wb) }",
        {"wa": (4, 3, 1, 1, 1), "wb": (5, 4, 1, 1, 1)},
    ),
    Case("SAME padding", f'{IMAGE} {{ c = Conv <auto_pad = "SAME_UPPER"> (x, wa) y = Conv(c, wb) }}', AB),
    Case(
        "ConvTranspose",
        f"{IMAGE} {{ c = ConvTranspose <strides = [2, 2]> (x, wa, ba) y = ConvTranspose(c, wb) }}",
        {"wa": (3, 4, 2, 2), "ba": (4,), "wb": (4, 5, 1, 1)},
    ),
    Case(
        "grouped: channels of a group and whole groups",
        f"{IMAGE} {{ c = Conv(x, wa) g = Conv <group = 2> (c, wg, bg) y = Conv(g, wb) }}",
        {"wa": (4, 3, 1, 1), "wg": (6, 2, 1, 1), "bg": (6,), "wb": (5, 6, 1, 1)},
        ("wa/outer", "wa/inner", "wg/inner"),
    ),
    Case(
        "depthwise",
        f"{IMAGE} {{ c = Conv(x, wa) g = Conv <group = 4, {K3}> (c, wg, bg) y = Conv(g, wb) }}",
        {"wa": (4, 3, 1, 1), "wg": (4, 1, 3, 3), "bg": (4,), "wb": (5, 4, 1, 1)},
    ),
    Case(
        "depthwise with a multiplier",
        f"{IMAGE} {{ c = Conv(x, wa) g = Conv <group = 4, {K3}> (c, wg, bg) y = Conv(g, wb) }}",
        {"wa": (4, 3, 1, 1), "wg": (8, 1, 3, 3), "bg": (8,), "wb": (5, 8, 1, 1)},
        ("wa", "wg/inner"),
    ),
    Case(
        "grouped ConvTranspose",
        f"{IMAGE} {{ c = Conv(x, wa) g = ConvTranspose <group = 2> (c, wg, bg) y = Conv(g, wb) }}",
        {"wa": (4, 3, 1, 1), "wg": (4, 3, 1, 1), "bg": (6,), "wb": (5, 6, 1, 1)},
        ("wa/inner", "wg"),
    ),
    Case(
        "depthwise ConvTranspose",
        f"{IMAGE} {{ c = Conv(x, wa) g = ConvTranspose <group = 4> (c, wg, bg) y = Conv(g, wb) }}",
        {"wa": (4, 3, 1, 1), "wg": (4, 1, 1, 1), "bg": (4,), "wb": (5, 4, 1, 1)},
    ),
    Case(
        "residual block",
        f"{IMAGE} {{ c = Conv(x, wa) r = Conv <{K3}> (c, wr) a = Relu(r) t = Conv <{K3}> (a, wt)"
        " s = Add(c, t) d = Relu(s) y = Conv(d, wb) }",
        {"wa": (4, 3, 1, 1), "wr": (6, 4, 3, 3), "wt": (4, 6, 3, 3), "wb": (5, 4, 1, 1)},
        ("wa", "wr"),
    ),
    Case(
        "squeeze and excitation",
        f"{IMAGE} {{ c = Conv <{K3}> (x, wa) p = GlobalAveragePool(c) s = Conv(p, ws) a = Relu(s)"
        " e = Conv(a, we) g = Sigmoid(e) d = Mul(c, g) y = Conv(d, wb) }",
        {**AB, "ws": (2, 4, 1, 1), "we": (4, 2, 1, 1)},
        ("wa", "ws"),
    ),
    Case(
        "channel shuffle",
        f"{IMAGE} {{ c = Conv(x, wa) r = Reshape(c, five) t = Transpose <perm = [0, 2, 1, 3, 4]> (r)"
        " d = Reshape(t, four) g = Conv <group = 2> (d, wg) y = Conv(g, wb) }",
        {
            "wa": (8, 3, 1, 1),
            "wg": (8, 4, 1, 1),
            "wb": (5, 8, 1, 1),
            "five": np.array([0, 2, 4, 8, 8]),
            "four": np.array([0, 8, 8, 8]),
        },
        ("wa/outer", "wa/factor1", "wa/inner", "wg/inner"),
    ),
    Case(
        "groups that straddle the parts of a Concat, in pairs",
        f"{IMAGE} {{ c = Conv(x, wa) e = Conv(x, we) d = Concat <axis = 1> (c, e)"
        " g = Conv <group = 2> (d, wg) s = Add(d, g) y = Conv(s, wb) }",
        {"wa": (8, 3, 1, 1), "we": (4, 3, 1, 1), "wg": (12, 6, 1, 1), "wb": (5, 12, 1, 1)},
        ("wa/inner",),
    ),
    Case(
        "shuffled channels read in groups that straddle the rows, in pairs",
        f"{IMAGE} {{ c = Conv(x, wa) r = Reshape(c, five) t = Transpose <perm = [0, 2, 1, 3, 4]> (r)"
        " d = Reshape(t, four) g = Conv <group = 4> (d, wg) y = Conv(g, wb) }",
        {
            "wa": (24, 3, 1, 1),
            "wg": (8, 6, 1, 1),
            "wb": (5, 8, 1, 1),
            "five": np.array([0, 4, 6, 8, 8]),
            "four": np.array([0, 24, 8, 8]),
        },
        ("wa/factor1", "wg/inner"),
    ),
    Case(
        "one filter shared by two branches",
        "(float[N,3,8,8] x, float[N,3,8,8] z) => (float[N,5,8,8] y) {"
        " c = Conv(x, wa, ba) e = Conv(z, wa, ba) d = Sub(c, e) y = Conv(d, wb) }",
        {"wa": (4, 3, 1, 1), "ba": (4,), "wb": (5, 4, 1, 1)},
    ),
    Case(
        "one filter used twice in a row",
        f"{IMAGE} {{ c = Conv(x, wa) e = Conv(c, ws) f = Relu(e) d = Conv(f, ws) y = Conv(d, wb) }}",
        {"wa": (4, 3, 1, 1), "ws": (4, 4, 1, 1), "wb": (5, 4, 1, 1)},
    ),
    *(
        Case(
            f"BatchNormalization of opset {v}",
            between("d = BatchNormalization <epsilon = 0.001> (c, scale, shift, mean, var)"),
            {**AB, **BN},
            opset=v,
        )
        for v in (7, 9, 14, 15)
    ),
    Case(
        "BatchNormalization of merged parameters",
        between("d = BatchNormalization (c, var, shift, shift, var)"),
        {**AB, "var": (4,), "shift": (4,)},
    ),
    Case(
        "InstanceNormalization",
        between("d = InstanceNormalization(c, scale, shift)"),
        {**AB, "scale": (4,), "shift": (4,)},
    ),
    Case(
        "pooling",
        between(
            "e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) f = AveragePool <kernel_shape = [2, 2]> (e)"
            " d = LpPool <kernel_shape = [1, 1]> (f)"
        ),
        AB,
    ),
    *(
        Case(
            op,
            f"(float[N,3,8,8] x) => (float[N,5,1,1] y) {{ c = Conv <{K3}> (x, wa) d = {op}(c) y = Conv(d, wb) }}",
            AB,
        )
        for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    ),
    Case("MaxPool whose indices nobody reads", between("d, i = MaxPool <kernel_shape = [2, 2]> (c)"), AB),
    Case("Softmax over positions", between("d = Softmax <axis = -1> (c)"), AB),
    Case("LpNormalization over positions", between("d = LpNormalization <axis = 3> (c)"), AB),
    Case("MeanVarianceNormalization per channel", between("d = MeanVarianceNormalization(c)"), AB),
    Case(
        "LayerNormalization over positions",
        between("d = LayerNormalization <axis = 2> (c, scale)"),
        {**AB, "scale": (8, 8)},
    ),
    Case(
        "merged zero biases",
        f"{IMAGE} {{ c = Conv(x, wa, zeros) e = Conv(c, wc, zeros) y = Conv(e, wb) }}",
        {"wa": (4, 3, 1, 1), "wc": (4, 4, 1, 1), "wb": (5, 4, 1, 1), "zeros": np.zeros(4, np.float32)},
        ("wa", "wc"),
    ),
]

FROZEN = [
    Frozen("LRN", between("d = LRN <size = 3> (c)"), AB, reasons=("it is normalised over (LRN d, axis 1)",)),
    Frozen(
        "Softmax over channels",
        between("d = Softmax <axis = 1> (c)"),
        AB,
        reasons=("it is normalised over (Softmax d, axis 1)",),
    ),
    Frozen(
        "Softmax before opset 13 flattens",
        between("d = Softmax <axis = 1> (c)"),
        AB,
        opset=11,
        reasons=("it is normalised over (Softmax d, axis 1)",),
    ),
    Frozen(
        "LayerNormalization over channels",
        between("d = LayerNormalization <axis = 1> (c, scale)"),
        {**AB, "scale": (4, 8, 8)},
        reasons=("it is normalised over (LayerNormalization d, axis 1)",),
    ),
    Frozen(
        "MeanVarianceNormalization over channels",
        between("d = MeanVarianceNormalization <axes = [0, 1]> (c)"),
        AB,
        reasons=("it is normalised over (MeanVarianceNormalization d, axis 1)",),
    ),
    Frozen(
        "LpNormalization over channels",
        between("d = LpNormalization <axis = 1> (c)"),
        AB,
        reasons=("it is normalised over (LpNormalization d, axis 1)",),
    ),
    Frozen(
        "flat indices of MaxPool",
        "(float[N,3,8,8] x) => (float[N,5,7,7] y, float[N,4,7,7] f) {"
        f" c = Conv <{K3}> (x, wa) d, i = MaxPool <kernel_shape = [2, 2]> (c) f = Cast <to = 1> (i) y = Conv(d, wb) }}",
        AB,
        reasons=("flat indices count over it (MaxPool d, axis 1)",),
    ),
    Frozen(
        "groups that straddle the parts of a Concat and have no common divisor with them",
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) { c = Conv(x, wa) e = Conv(x, we) d = Concat <axis = 1> (c, e)"
        " y = Conv <group = 2> (d, wg) }",
        {"wa": (5, 3, 1, 1), "we": (3, 3, 1, 1), "wg": (4, 4, 1, 1)},
        reasons=("its channels do not divide into groups (Conv y)",),
    ),
    Frozen(
        "a filter that is computed",
        "(float[2,3,8,8] x, float[4,3,1,1] z) => (float[2,5,8,8] y) { c = Conv(x, z) y = Conv(c, wb) }",
        {"wb": (5, 4, 1, 1)},
        reasons=("Conv: a weight that is computed (Conv c, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_through_image_ops_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
