"""Networks with a residual stream of eight channels under norms of every form, one way to grow each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from support import model_of

__all__ = ["DENSE", "LN1", "NETS", "WEIGHTS", "N", "Net", "net"]

N = 8
SMALL = np.float32(0.01)
TWO = np.float32(2)
WEIGHTS: dict[str, np.ndarray | tuple[int, ...]] = {
    "w0": (6, N),
    "b0": (N,),
    "g1": (N,),
    "c1": (N,),
    "w1": (N, 5),
    "w2": (5, N),
    "g2": (N,),
    "c2": (N,),
    "w3": (N, 3),
    "table": (7, N),
    "places": (4, N),
    "sorts": (3, N),
    "b2": (5,),
    "b3": (3,),
    "k1": (N, 3, 1, 1),
    "grid": (1, N, 2, 2),
    "whole": np.asarray([1, N, 4, 4], np.int64),
    "w7": (7, 3),
    "sc": np.asarray([1, 1, 2, 2], np.float32),
    "k0": (N, 3, 2, 2),
    "class": (1, 1, N),
    "ls": (N,),
    "b1": (N,),
    "eps": np.asarray(SMALL),
    "two": np.asarray(TWO),
    "one": np.asarray(np.float32(1)),
    "eps2": np.asarray(SMALL),
    "last": np.asarray([-1], np.int64),
    "flat": np.asarray([0, N, 4], np.int64),
}
FFN = " u = MatMul(n1, w1) r = Relu(u) d = MatMul(r, w2) s = Add(h, d)"
LN1 = " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1)"
LN2 = " n2 = LayerNormalization <axis = -1, epsilon = 0.01> (s, g2, c2)"
RMS = (
    " {q} = Pow({x}, two) {m} = ReduceMean <axes = [-1]> ({q}) {e} = Add({m}, {eps}) {r} = Sqrt({e})"
    " {i} = Div(one, {r}) {n} = Mul({x}, {i})"
)


def rms(x: str, n: str, eps: str) -> str:
    names = {k: f"{n}_{k}" for k in "qmeri"}
    return RMS.format(x=x, n=n, eps=eps, **names)


def decomposed(x: str, out: str, eps: str, scale: str, shift: str) -> str:
    return (
        f" {out}_m = ReduceMean <axes = [-1]> ({x}) {out}_d = Sub({x}, {out}_m) {out}_q = Pow({out}_d, two)"
        f" {out}_v = ReduceMean <axes = [-1]> ({out}_q) {out}_e = Add({out}_v, {eps}) {out}_s = Sqrt({out}_e)"
        f" {out}_x = Div({out}_d, {out}_s) {out}_y = Mul({out}_x, {scale}) {out} = Add({out}_y, {shift})"
    )


def standardised(x: str, out: str, eps: str) -> str:
    """As decomposed, without parameters."""
    return decomposed(x, out, eps, "", "").partition(f" {out}_y =")[0].replace(f"{out}_x =", f"{out} =")


@dataclass(frozen=True)
class Net:
    """A net, how its stream grows by three channels (or by as many again), and the name of the stream's set."""

    graph: str
    mode: str
    opset: int = 17
    add: int = 3


DENSE = "g (float[N,6] x) => (float[N,3] y) { h0 = MatMul(x, w0) h = Add(h0, b0)"
TOKENS = "g (float[N,4,6] x) => (float[N,4,3] y) { h0 = MatMul(x, w0) h = Add(h0, b0)"
NETS = {
    "pre-norm LayerNorm": Net(DENSE + LN1 + FFN + LN2 + " y = MatMul(n2, w3) }", "mean"),
    "pre-norm LayerNorm, decomposed": Net(
        DENSE
        + decomposed("h", "n1", "eps", "g1", "c1")
        + FFN
        + decomposed("s", "n2", "eps", "g2", "c2")
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "embedding and position table": Net(
        "g (int64[N,4] x) => (float[N,4,3] y) { h0 = Gather(table, x) h = Add(h0, places)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "patches with a class token": Net(
        "g (float[N,3,4,4] x) => (float[N,5,3] y) { p = Conv <strides = [2, 2]> (x, k0, b0) f = Reshape(p, flat)"
        " t = Transpose <perm = [0, 2, 1]> (f) z = Identity(class) sh = Shape(x) e0 = Gather(sh, zero)"
        " e = Concat <axis = 0> (e0, ones) cl = Expand(z, e) h = Concat <axis = 1> (cl, t)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "layer scale": Net(
        DENSE
        + LN1
        + " u = MatMul(n1, w1) r = Relu(u) d0 = MatMul(r, w2) d1 = Add(d0, b1) d = Mul(d1, ls) s = Add(h, d)"
        + LN2
        + " y = MatMul(n2, w3) }",
        "mean",
    ),
    "a reader without a norm": Net(
        DENSE + LN1 + FFN + LN2 + " y0 = MatMul(n2, w3) y1 = MatMul(s, w4) y = Add(y0, y1) }", "mean"
    ),
    "RMSNorm, decomposed": Net(
        DENSE
        + rms("h", "n0", "eps")
        + " n1 = Mul(n0, g1)"
        + FFN
        + rms("s", "n3", "eps2")
        + " n2 = Mul(g2, n3) y = MatMul(n2, w3) }",
        "zero",
    ),
    "RMSNorm with 1 + w": Net(
        DENSE
        + rms("h", "n0", "eps")
        + " w_1 = Add(g1, one) n1 = Mul(n0, w_1)"
        + FFN
        + rms("s", "n3", "eps")
        + " w_2 = Add(g2, one) n2 = Mul(n3, w_2) y = MatMul(n2, w3) }",
        "zero",
    ),
    "RMSNormalization": Net(
        DENSE
        + " n1 = RMSNormalization <axis = -1, epsilon = 0.01> (h, g1)"
        + FFN
        + " n2 = RMSNormalization <axis = -1, epsilon = 0.01> (s, g2) y = MatMul(n2, w3) }",
        "zero",
        opset=23,
    ),
    "unit length with a learned scale": Net(
        DENSE + " n0 = LpNormalization <axis = -1, p = 2> (h) n1 = Mul(n0, g1)" + FFN + " y = MatMul(s, w3) }", "zero"
    ),
    "post-norm": Net(
        DENSE + " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1) u = MatMul(n1, w1) r = Relu(u)"
        " d = MatMul(r, w2) s = Add(n1, d)" + LN2 + " y = MatMul(n2, w3) }",
        "copy",
        add=2 * N,
    ),
    "sums normalised by one operator": Net(
        TOKENS + " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1) u = MatMul(n1, w1) r = Relu(u)"
        " d = MatMul(r, w2) n2, , , s = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (h, d, g2, c2, b1)"
        " y0 = MatMul(n2, w3) y1 = MatMul(s, w4) y = Add(y0, y1) }",
        "mean",
    ),
    "sums normalised by their lengths": Net(
        TOKENS + rms("h", "n0", "eps") + " n1 = Mul(n0, g1) u = MatMul(n1, w1) r = Relu(u) d = MatMul(r, w2)"
        " n2, , , s = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.01> (h, d, g2)"
        " y = MatMul(n2, w3) }",
        "zero",
    ),
    "embeddings and sums normalised by one operator": Net(
        "g (int32[N,4] x, int32[N,4] kinds) => (float[N,4,3] y) { n1, , e = com.microsoft.EmbedLayerNormalization"
        " <epsilon = 0.01> (x, kinds, table, places, sorts, g1, c1) u = MatMul(n1, w1) r = Relu(u) d = MatMul(r, w2)"
        " n2 = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (d, n1, g2, c2, b1) y = MatMul(n2, w3) }",
        "copy",
        add=N,
    ),
    "embeddings normalised by one operator": Net(
        "g (int32[N,4] x) => (float[N,4,3] y) { n1, mi = com.microsoft.EmbedLayerNormalization"
        " <epsilon = 0.01> (x, , table, places, , g1, c1) y = MatMul(n1, w3) }",
        "mean",
    ),
    "pre-norm LayerNorm without parameters": Net(
        DENSE
        + standardised("h", "n1", "eps")
        + " u0 = MatMul(n1, w1) u = Add(u0, b2) r = Relu(u) d = MatMul(r, w2) s = Add(h, d)"
        + standardised("s", "n2", "eps")
        + " y = Gemm(n2, w3, b3) }",
        "mean",
    ),
    "RMSNorm without a scale": Net(
        DENSE + rms("h", "n1", "eps") + FFN + rms("s", "n2", "eps2") + " y = MatMul(n2, w3) }", "zero"
    ),
    "positions resized to the image": Net(
        'g (float[N,3,4,4] x) => (float[N,3,4,4] y) { p = Conv(x, k1, b0) pl = Resize <mode = "cubic">'
        " (grid, , , whole) h4 = Add(p, pl) t = Transpose <perm = [0, 2, 3, 1]> (h4)"
        " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (t, g1, c1) o = MatMul(n1, w3)"
        " y = Transpose <perm = [0, 3, 1, 2]> (o) }",
        "mean",
    ),
    "features scaled before opset 10": Net(
        'g (float[N,3,4,4] x) => (float[N,3,8,8] y) { p = Conv(x, k1, b0) pl = Upsample <mode = "linear"> (p, sc)'
        " t = Transpose <perm = [0, 2, 3, 1]> (pl)"
        + decomposed("t", "n1", "eps", "g1", "c1")
        + " o = MatMul(n1, w3) y = Transpose <perm = [0, 3, 1, 2]> (o) }",
        "copy",
        opset=9,
        add=N,
    ),
    "a table that is normalised by itself": Net(
        DENSE + " n1 = LayerNormalization <axis = -1, epsilon = 0.01> (h, g1, c1)"
        " tn = LayerNormalization <axis = -1, epsilon = 0.01> (table, g1, c1) k = MatMul(tn, w1) q = MatMul(n1, w1)"
        " kt = Transpose(k) s = MatMul(q, kt) y = MatMul(s, w7) }",
        "mean",
    ),
    "a nonlinearity before the stream": Net(
        "g (float[N,6] x) => (float[N,3] y) { h0 = MatMul(x, w0) h1 = Add(h0, b0) h = Sigmoid(h1)"
        + LN1
        + FFN
        + LN2
        + " y = MatMul(n2, w3) }",
        "copy",
        add=N,
    ),
}


def net(name: str) -> ir.Model:
    used = NETS[name]
    extra = {"zero": np.asarray([0], np.int64), "ones": np.asarray([1, 1], np.int64), "w4": (N, 3)}
    words = set(used.graph.replace("(", " ").replace(")", " ").replace(",", " ").split())
    weights = {k: v for k, v in {**WEIGHTS, **extra}.items() if k in words}
    version = 8 if used.opset < 23 else 11
    return model_of(used.graph, weights, opset=used.opset, ir_version=version, imports=', "com.microsoft": 1')
