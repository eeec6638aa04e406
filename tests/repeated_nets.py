"""Networks whose channels grow by copies although they are a part of what statistics are taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from support import Weight, model_of

__all__ = ["NETS", "Net", "net"]

EPS = "<axis = -1, epsilon = 0.01>"
CONVS: dict[str, Weight] = {
    "wa": (4, 3, 1, 1),
    "wr": (4, 4, 3, 3),
    "wb": (5, 4, 1, 1),
    "g": (4,),
    "b": (4,),
}
IMAGE = "g (float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, wa) h = Relu(c)"
READ = " r = Conv <pads = [1, 1, 1, 1]> (n, wr) t = Tanh(r) s = Add(h, t) y = Conv(s, wb) }"
TOKENS = "g (float[N,4,6] x) => (float[N,4,3] y) {"


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


@dataclass(frozen=True)
class Net:
    """A network.

    Attributes:
        graph: Its text.
        weights: Its constants.
        modes: Size of each set that is the width of a stream → the ways it grows.
        opset: Of the standard operators.
    """

    graph: str
    weights: Mapping[str, Weight]
    modes: tuple[tuple[int, tuple[str, ...]], ...]
    opset: int = 17


COPY = ("copy",)
NETS: dict[str, Net] = {
    "one group": Net(IMAGE + " n = GroupNormalization <num_groups = 1> (h, g, b)" + READ, CONVS, ((4, COPY),), 21),
    "one group with one scale": Net(
        IMAGE + " n = GroupNormalization <num_groups = 1> (h, g1, b1)" + READ,
        {**CONVS, "g1": (1,), "b1": (1,)},
        ((4, COPY),),
        18,
    ),
    "one group by Reshape and InstanceNormalization": Net(
        IMAGE + " f = Reshape(h, flat) i = InstanceNormalization(f, one, zero) z = Shape(h) k = Reshape(i, z)"
        " m = Mul(k, gg) n = Add(m, bb)" + READ,
        {
            **CONVS,
            "flat": ints(0, 1, -1),
            "gg": (4, 1, 1),
            "bb": (4, 1, 1),
            "one": np.ones(1, np.float32),
            "zero": np.zeros(1, np.float32),
        },
        ((4, COPY),),
    ),
    "channels inside of groups": Net(
        IMAGE + " n = GroupNormalization <num_groups = 2> (h, g, b)" + READ, CONVS, ((2, COPY),), 21
    ),
    "channels inside of groups by Reshape and InstanceNormalization": Net(
        IMAGE + " f = Reshape(h, flat) i = InstanceNormalization(f, two, two) z = Shape(h) k = Reshape(i, z)"
        " m = Mul(k, gg) n = Add(m, bb)" + READ,
        {**CONVS, "flat": ints(0, 2, -1), "gg": (4, 1, 1), "bb": (4, 1, 1), "two": np.float32([0.7, 1.3])},
        ((2, COPY),),
    ),
    "mean and variance over channels and positions": Net(
        IMAGE + " n = MeanVarianceNormalization <axes = [1, 2, 3]> (h)" + READ, CONVS, ((4, COPY),)
    ),
    "groups of a convolution on the stream": Net(
        f"{TOKENS} h = MatMul(x, w0) t = Transpose <perm = [0, 2, 1]> (h) c = Conv <group = 2> (t, wg, bg)"
        f" r = Relu(c) k = Transpose <perm = [0, 2, 1]> (r) s = Add(h, k) n = LayerNormalization {EPS} (s, g1, c1)"
        " y = MatMul(n, w3) }",
        {"w0": (6, 8), "wg": (8, 4, 1), "bg": (8,), "g1": (8,), "c1": (8,), "w3": (8, 3)},
        ((2, COPY), (4, COPY)),
    ),
    "parts side by side": Net(
        f"{TOKENS} p = MatMul(x, wp) q0 = MatMul(x, wq) q = Relu(q0) h = Concat <axis = -1> (p, q)"
        f" n = LayerNormalization {EPS} (h, g1, c1) a, z = Split <axis = -1> (n, parts) y0 = MatMul(a, wy)"
        " y1 = MatMul(z, wz) y = Add(y0, y1) }",
        {
            "wp": (6, 4),
            "wq": (6, 6),
            "g1": (10,),
            "c1": (10,),
            "parts": ints(4, 6),
            "wy": (4, 3),
            "wz": (6, 3),
        },
        ((2, COPY),),
    ),
    "patches merged": Net(
        f"g (float[N,4,6] x) => (float[N,2,3] y) {{ h = MatMul(x, w0) a = Slice(h, zero, four, one, two)"
        f" b = Slice(h, one, four, one, two) m = Concat <axis = -1> (a, b) n = LayerNormalization {EPS} (m, g1, c1)"
        " y = MatMul(n, w3) }",
        {
            "w0": (6, 4),
            "zero": ints(0),
            "one": ints(1),
            "two": ints(2),
            "four": ints(4),
            "g1": (8,),
            "c1": (8,),
            "w3": (8, 3),
        },
        ((4, COPY),),
    ),
    "a part that is normalised": Net(
        f"{TOKENS} u = MatMul(x, w0) r = Relu(u) a, z = Split <axis = -1> (r, parts)"
        f" n = LayerNormalization {EPS} (z, g1, c1) m = Mul(a, n) y = MatMul(m, w3) }}",
        {"w0": (6, 8), "parts": ints(4, 4), "g1": (4,), "c1": (4,), "w3": (4, 3)},
        ((4, COPY),),
    ),
    "heads normalised together": Net(
        f"{TOKENS} q = MatMul(x, w0) n = RMSNormalization <axis = -1, epsilon = 0.01> (q, g1) h = Reshape(n, heads)"
        " e = Softmax <axis = 1> (h) f = Reshape(e, back) y = MatMul(f, w3) }",
        {"w0": (6, 8), "g1": (8,), "heads": ints(0, 0, 2, 4), "back": ints(0, 0, 8), "w3": (8, 3)},
        ((2, COPY), (4, COPY)),
        23,
    ),
    "a quantised weight writes": Net(
        f"{TOKENS} w = DequantizeLinear <axis = 1> (w0, s0, z0) h = MatMul(x, w) q = QuantizeLinear(h, sa, za)"
        f" d = DequantizeLinear(q, sa, za) n = LayerNormalization {EPS} (d, g1, c1) y = MatMul(n, w3) }}",
        {
            "w0": np.random.default_rng(0).integers(-90, 90, (6, 4)).astype(np.int8),
            "s0": np.linspace(0.01, 0.03, 4, dtype=np.float32),
            "z0": np.asarray([0, 3, -5, 1], np.int8),
            "sa": np.float32(0.05),
            "za": np.uint8(120),
            "g1": (4,),
            "c1": (4,),
            "w3": (4, 3),
        },
        ((4, COPY),),
    ),
    "experts of Einsum write": Net(
        'g (float[N,6] x) => (float[N,3] y) { u = MatMul(x, w0) h = Relu(u) e = Einsum <equation = "bi,eio->beo">'
        ' (h, up) r = Relu(e) d = Einsum <equation = "bei,eio->bo"> (r, down) s = Add(h, d)'
        f" n = LayerNormalization {EPS} (s, g1, c1) y = MatMul(n, w3) }}",
        {"w0": (6, 4), "up": (2, 4, 5), "down": (2, 5, 4), "g1": (4,), "c1": (4,), "w3": (4, 3)},
        ((4, COPY),),
    ),
    "experts that are looked up": Net(
        "g (float[N,6] x, int64[N,1] which) => (float[N,1,3] y) { h0 = MatMul(x, w0) h = Unsqueeze(h0, one)"
        " n = RMSNormalization <axis = -1, epsilon = 0.01> (h, g1) up = GatherND(wu, which)"
        " u = MatMul(n, up) r = Relu(u) down = GatherND(wd, which) d = MatMul(r, down) s = Add(h, d)"
        " m = RMSNormalization <axis = -1, epsilon = 0.01> (s, g2) y = MatMul(m, w3) }",
        {"w0": (6, 4), "one": ints(1), "g1": (4,), "g2": (4,), "wu": (3, 4, 5), "wd": (3, 5, 4), "w3": (4, 3)},
        ((4, ("zero",)),),
        23,
    ),
    "a transposed convolution writes": Net(
        "g (float[N,3,4,4] x) => (float[N,5,4,4] y) { h = ConvTranspose(x, wt, bt) t = Transpose"
        f" <perm = [0, 2, 3, 1]> (h) n = LayerNormalization {EPS} (t, g, b) k = Transpose <perm = [0, 3, 1, 2]> (n)"
        " y = Conv(k, wb) }",
        {"wt": (3, 4, 1, 1), "bt": (4,), "wb": (5, 4, 1, 1), "g": (4,), "b": (4,)},
        ((4, ("mean", "copy")),),
    ),
    "a length that is kept away from zero": Net(
        "g (float[N,6] x) => (float[N,3] y) { u = MatMul(x, w0) h = Relu(u) l = ReduceL2 <axes = [1]> (h)"
        " c = Clip(l, low) n = Div(h, c) y = MatMul(n, w3) }",
        {"w0": (6, 4), "low": np.float32(2), "w3": (4, 3)},
        ((4, COPY),),
    ),
    "a head that is the table": Net(
        f"g (int32[N,4] x) => (float[N,4,7] y) {{ e = Gather(table, x) n = LayerNormalization {EPS} (e, g1, c1)"
        f" u = MatMul(n, w1) r = Relu(u) d = MatMul(r, w2) s = Add(n, d) m = LayerNormalization {EPS} (s, g2, c2)"
        " k = Transpose(table) y = MatMul(m, k) }",
        {"table": (7, 8), "g1": (8,), "c1": (8,), "w1": (8, 5), "w2": (5, 8), "g2": (8,), "c2": (8,)},
        ((8, COPY),),
    ),
}


def net(name: str) -> ir.Model:
    used = NETS[name]
    return model_of(used.graph, used.weights, opset=used.opset, ir_version=8 if used.opset < 23 else 11)
