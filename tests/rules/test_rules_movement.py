"""Ops that move entries: transposes, reshapes, flattens, padding, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

AB = {"wa": (6, 8), "wb": (8, 3)}
CONV = {"wa": (4, 3, 1, 1), "wb": (5, 4, 1, 1)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def seq(name: str, ops: str, *, growable: tuple[str, ...] = ("wa",), opset: int = 17, **weights: object) -> Case:
    """A sequence [N,5,6] through a weight, then ``ops`` from h to a, then a weight."""
    graph = f"(float[N,5,6] x) => (float[a,b,3] y) {{ h = MatMul(x, wa) {ops} y = MatMul(a, wb) }}"
    return Case(name, graph, {**AB, **weights}, growable, opset=opset)  # type: ignore[arg-type]  # table of arrays and shapes


def image(name: str, ops: str, *, opset: int = 17, growable: tuple[str, ...] = ("wa",), **weights: object) -> Case:
    """An image through a filter, then ``ops`` from h to a, then a filter."""
    graph = f"(float[N,3,4,4] x) => (float[N,5,a,b] y) {{ h = Conv(x, wa) {ops} y = Conv(a, wb) }}"
    return Case(name, graph, {**CONV, **weights}, growable, opset=opset)  # type: ignore[arg-type]  # as above


def head(name: str, ops: str, *, opset: int = 17, **weights: object) -> Case:
    """An image through a filter, then ``ops`` from h to the matrix a, then a dense layer."""
    graph = f"(float[N,3,4,4] x) => (float[N,3] y) {{ h = Conv(x, wa) {ops} y = MatMul(a, wb) }}"
    return Case(name, graph, {"wa": (4, 3, 1, 1), "wb": (64, 3), **weights}, opset=opset)  # type: ignore[arg-type]  # as above


NHWC = "<perm = [0, 2, 3, 1]>"
CASES = [
    head("Flatten of NCHW", "a = Flatten(h)"),
    head("Flatten of NHWC", f"t = Transpose {NHWC} (h) a = Flatten(t)"),
    head("Flatten on a negative axis", "a = Flatten <axis = -3> (h)", opset=13),
    head("Flatten as a Reshape with -1", "a = Reshape(h, to)", to=ints(0, -1)),
    head("Flatten as a Reshape with a size", "a = Reshape(h, to)", to=ints(-1, 64)),
    head("Reshape of opset 1 to 5", "a = Reshape(h, to)", opset=7, to=ints(0, 64)),
    head("Flatten of opset 9", "a = Flatten(h)", opset=9),
    image(
        "there and back between NCHW and NHWC",
        f"t = Transpose {NHWC} (h) r = Relu(t) a = Transpose <perm = [0, 3, 1, 2]> (r)",
    ),
    image(
        "TensorFlow's way to a filter",
        f"t = Transpose {NHWC} (h) b = Add(t, k) a = Transpose <perm = [0, 3, 1, 2]> (b)",
        k=(4,),
    ),
    image(
        "Squeeze and Unsqueeze of opset 11",
        "p = GlobalAveragePool(h) s = Squeeze <axes = [2, 3]> (p) a = Unsqueeze <axes = [2, 3]> (s)",
        opset=11,
    ),
    image(
        "Squeeze and Unsqueeze of opset 13",
        "p = GlobalAveragePool(h) s = Squeeze(p, at) a = Unsqueeze(s, at)",
        at=ints(-1, -2),
    ),
    image("Pad of opset 2", "a = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (h)", opset=10),
    image("Pad of opset 11", "a = Pad(h, p)", opset=13, p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    image("Pad of opset 18 with axes", "a = Pad(h, p, , at)", opset=18, p=ints(1, 1, 1, 1), at=ints(2, -1)),
    image("Pad that reflects", 'a = Pad <mode = "reflect"> (h, p)', p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    image("Resize by scales", "a = Resize(h, , scales)", scales=np.array([1, 1, 2, 2], np.float32)),
    image(
        "GridSample",
        "a = GridSample(h, grid)",
        grid=np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 2)).astype(np.float32),
    ),
    image("Resize by sizes", "a = Resize(h, , , sizes)", sizes=ints(2, 4, 8, 8)),
    image("Resize of opset 10", "a = Resize(h, scales)", opset=10, scales=np.array([1, 1, 2, 2], np.float32)),
    image("Upsample of opset 9", "a = Upsample(h, scales)", opset=9, scales=np.array([1, 1, 2, 2], np.float32)),
    image("Upsample of opset 7", "a = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (h)", opset=7),
    image("Tile of positions", "a = Tile(h, times)", times=ints(1, 1, 2, 2)),
    image(
        "SpaceToDepth and DepthToSpace, DCR",
        "s = SpaceToDepth <blocksize = 2> (h) a = DepthToSpace <blocksize = 2> (s)",
    ),
    Case(
        "pixel shuffle",
        "(float[N,3,4,4] x) => (float[N,5,8,8] y) { h = Conv(x, wa)"
        ' a = DepthToSpace <blocksize = 2, mode = "CRD"> (h) y = Conv(a, wb) }',
        {"wa": (16, 3, 1, 1), "wb": (5, 4, 1, 1)},
        ("wa/outer",),
    ),
    Case(
        "depth to space, DCR",
        "(float[N,3,4,4] x) => (float[N,5,8,8] y) { h = Conv(x, wa) a = DepthToSpace <blocksize = 2> (h) y ="
        " Conv(a, wb) }",
        {"wa": (16, 3, 1, 1), "wb": (5, 4, 1, 1)},
        ("wa/inner",),
    ),
    Case(
        "patches gathered into channels",
        "(float[N,3,4,4] x) => (float[N,5,2,2] y) { h = Conv(x, wa) a = SpaceToDepth <blocksize = 2> (h) y ="
        " Conv(a, wb) }",
        {"wa": (4, 3, 1, 1), "wb": (5, 16, 1, 1)},
    ),
    Case(
        "ViT: patches to tokens",
        "(float[N,3,4,4] x) => (float[N,16,3] y) { h = Conv(x, wa) f = Reshape(h, to) a = Transpose <perm = [0, 2,"
        " 1]> (f) y = MatMul(a, wb) }",
        {"wa": (4, 3, 1, 1), "to": ints(0, 4, -1), "wb": (4, 3)},
    ),
    seq(
        "rows joined and parted",
        "f = Reshape(h, two) r = Relu(f) a = Reshape(r, three)",
        two=ints(-1, 8),
        three=ints(-1, 5, 8),
    ),
    seq(
        "into heads and back",
        "f = Reshape(h, four) t = Transpose <perm = [0, 2, 1, 3]> (f) r = Relu(t)"
        " u = Transpose <perm = [0, 2, 1, 3]> (r) a = Reshape(u, three)",
        growable=("wa/outer", "wa/inner"),
        four=ints(0, 5, 2, 4),
        three=ints(0, 5, 8),
    ),
    seq(
        "into heads with -1 for the width",
        "f = Reshape(h, four) r = Relu(f) a = Reshape(r, three)",
        growable=("wa/outer", "wa/inner"),
        four=ints(0, 0, 2, -1),
        three=ints(0, 0, -1),
    ),
    seq(
        "into heads with -1 for the heads",
        "f = Reshape(h, four) r = Relu(f) a = Reshape(r, three)",
        growable=("wa/outer", "wa/inner"),
        four=ints(0, 0, -1, 4),
        three=ints(0, 0, 8),
    ),
    seq("-1 stands for the batch", "f = Reshape(h, to) a = Reshape(f, to)", to=ints(-1, 5, 8)),
    seq("axes of size one", "f = Unsqueeze(h, one) s = Squeeze(f, one) a = Identity(s)", one=ints(1)),
    seq("Squeeze without axes", "f = Unsqueeze(h, two) r = Relu(f) a = Squeeze(r, two)", two=ints(2)),
    seq(
        "Expand over the batch",
        "f = Unsqueeze(h, zero) e = Expand(f, to) a = ReduceMean <axes = [0], keepdims = 0> (e)",
        zero=ints(0),
        to=ints(3, 1, 5, 8),
    ),
    seq("Expand by ones", "a = Expand(h, to)", to=ints(1, 1, 1)),
    seq(
        "a triangle of positions",
        "t = Transpose <perm = [2, 0, 1]> (h) u = Trilu(t) a = Transpose <perm = [1, 2, 0]> (u)",
    ),
    seq(
        "sequences reversed up to their lengths",
        "t = Transpose <perm = [1, 0, 2]> (h) u = ReverseSequence(t, lengths) v = Transpose <perm = [1, 0, 2]> (u)"
        " a = ReverseSequence <batch_axis = 0, time_axis = 1> (v, lengths)",
        lengths=ints(5, 3),
    ),
    Case(
        "class token",
        "(float[2,5,6] x) => (float[2,6,3] y) { h = MatMul(x, wa) e = Expand(token, to) a = Concat <axis = 1> (e,"
        " h) y = MatMul(a, wb) }",
        {**AB, "token": (1, 1, 8), "to": ints(2, 1, 8)},
    ),
    Case(
        "groups normalised by Reshape and InstanceNormalization",
        "(float[2,3,8,8] x) => (float[2,5,8,8] y) { h = Conv(x, wa) r = Reshape(h, groups)"
        " n = InstanceNormalization(r, ones, zeros) b = Reshape(n, back) s = Mul(b, scale) a = Add(s, shift)"
        " y = Conv(a, wb) }",
        {
            "wa": (8, 3, 1, 1),
            "wb": (5, 8, 1, 1),
            "groups": ints(0, 2, -1),
            "back": ints(2, 8, 8, 8),
            "ones": np.ones(2, np.float32),
            "zeros": np.zeros(2, np.float32),
            "scale": (8, 1, 1),
            "shift": (8, 1, 1),
        },
        ("wa/outer",),
    ),
    Case(
        "a constant first state joined to the input, as in a convolutional recurrent cell",
        "(float[2,3,8,8] x) => (float[2,5,8,8] y) { j = Concat <axis = 1> (x, state) h = Conv(j, wa) u = Tanh(h)"
        " k = Concat <axis = 1> (x, u) g = Conv(k, wc) v = Tanh(g) y = Conv(v, wb) }",
        {
            "wa": (4, 7, 1, 1),
            "wc": (4, 7, 1, 1),
            "wb": (5, 4, 1, 1),
            "state": np.zeros((2, 4, 8, 8), np.float32),
        },
        ("wa", "wc"),
    ),
    Case(
        "an outer product of the channels with themselves",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) u = Unsqueeze(h, two) v = Unsqueeze(h, one)"
        " o = Mul(u, v) f = Flatten(o) y = MatMul(f, wb) }",
        {"wa": (6, 4), "wb": (16, 3), "one": ints(1), "two": ints(2)},
    ),
]

FROZEN = [
    Frozen(
        "misaligned reshape",
        "(float[2,5,6] x) => (float[2,8,3] y) { h = MatMul(x, wa) f = Reshape(h, to) y = MatMul(f, wb) }",
        {"wa": (6, 8), "wb": (5, 3), "to": ints(2, 8, 5)},
        reasons=("a reshape cuts across it (Reshape f)",),
    ),
    Frozen(
        "padded channels",
        "(float[N,3,4,4] x) => (float[N,5,4,4] y) { h = Conv(x, wa) a = Pad(h, p) y = Conv(a, wb) }",
        {"wa": (4, 3, 1, 1), "wb": (5, 6, 1, 1), "p": ints(0, 1, 0, 0, 0, 1, 0, 0)},
        reasons=("it is padded (Pad a, axis 1)",),
    ),
    Frozen(
        "a triangle of channels",
        "(float[5,6] x) => (float[5,3] y) { h = MatMul(x, wa) a = Trilu(h) y = MatMul(a, wb) }",
        {"wa": (6, 8), "wb": (8, 3)},
        reasons=("a triangle is cut from it (Trilu a, axis 1)",),
    ),
    Frozen(
        "sequences of channels that are reversed",
        "(float[5,6] x) => (float[5,3] y) { h = MatMul(x, wa)"
        " a = ReverseSequence <batch_axis = 0, time_axis = 1> (h, lengths) y = MatMul(a, wb) }",
        {"wa": (6, 8), "wb": (8, 3), "lengths": ints(8, 1, 2, 3, 8)},
        reasons=("sequences are reversed along it (ReverseSequence a, axis 1)",),
    ),
    Frozen(
        "channels that are resized",
        "(float[N,4,6] x) => (float[N,4,3] y) { h = MatMul(x, wa) a = Resize(h, , s) y = MatMul(a, wb) }",
        {"wa": (6, 8), "wb": (16, 3), "s": np.array([1, 1, 2], np.float32)},
        reasons=("it is resized (Resize a, axis 2)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_through_moved_entries_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
