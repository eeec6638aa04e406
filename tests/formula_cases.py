"""The growth formulas, each with a network that it grows and a way to drop its compensation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from formula_faults import Fault, Faulty, appended, attribute, filled, replaced, rewired, rolled
from support import Weight, model_of

from onnxgrow.passes import AddActiSwitch, AddBlocks, EnlargeKernel, InsertIdentity, Widen
from onnxgrow.passes.base import GrowthPass

__all__ = ["DENSE", "FORMULAS", "MLP", "Formula"]


@dataclass(frozen=True)
class Formula:
    """A growth and what is left out of it.

    Attributes:
        graph, weights: The network.
        fault: What is put wrong in the result.
        step: What grows it.
        opset: Of the network.
    """

    graph: str
    weights: Mapping[str, Weight]
    fault: Fault
    step: Callable[[], GrowthPass] = field(default=lambda: Widen(add=2))
    opset: int = 17

    def model(self) -> ir.Model:
        return model_of(self.graph, self.weights, opset=self.opset, ir_version=8 if self.opset < 23 else 11)


def wide(*names: str, **options: Any) -> Callable[[], GrowthPass]:
    return lambda: Widen(list(names), **{"add": 2, **options})


MLP = (
    "g (float[N,6] x) => (float[N,3] y)"
    " {{ h = Gemm (x, wa, ba) a = {} y = Gemm <transB = 1, alpha = 0.5> (a, wb, bb) }}"
)
DENSE: dict[str, Weight] = {"wa": (6, 4), "ba": (4,), "wb": (3, 4), "bb": (3,)}
IMAGE = "g (float[2,3,4,4] x) => (float[2,5,{0},{0}] y) {{ {1} }}"
CONV: dict[str, Weight] = {"wa": (4, 3, 1, 1), "wb": (5, 4, 1, 1)}
PIXELS: dict[str, Weight] = {"wa": (4, 3, 1, 1), "wb": (64, 5)}
SEQUENCE = "g (float[5,2,3] x) => (float[5,2,3] y) {{ {} y = MatMul(s, wb) }}"
LSTM = "h = LSTM <hidden_size = 4> (x, w, r, b) sq = Squeeze(h, one) s = Identity(sq)"
GRU = "h = GRU <hidden_size = 4, linear_before_reset = {}> (x, w, r, b) s = Squeeze(h, one)"
ONE = {"one": np.array([1])}
BOTH = (
    'h = LSTM <hidden_size = 4, direction = "bidirectional"> (x, w, r, b) t = Transpose <perm = [0, 2, 1, 3]> (h)'
    " s = Reshape(t, flat)"
)
HEADS: dict[str, Weight] = {
    "wq": (6, 8),
    "wk": (6, 8),
    "wv": (6, 8),
    "wo": (8, 3),
    "bq": (8,),
    "scale": np.float32(0.5),
    "sh": np.array([0, 0, 2, 4]),
    "fl": np.array([0, 0, 8]),
    "three": np.array(3),
    "half": np.float32(0.5),
}
"""Two heads of four."""
SPLIT = (
    "g (float[2,5,6] x) => (float[2,5,3] y) {{ q0 = MatMul(x, wq) q = Add(q0, bq) k = MatMul(x, wk) v = MatMul(x, wv)"
    " q4 = Reshape(q, sh) k4 = Reshape(k, sh) v4 = Reshape(v, sh) qt = Transpose <perm = [0, 2, 1, 3]> (q4)"
    " kh = Transpose <perm = [0, 2, 1, 3]> (k4) vt = Transpose <perm = [0, 2, 1, 3]> (v4) {}"
    " p = Softmax <axis = -1> (sc) o = MatMul(p, vt) ot = Transpose <perm = [0, 2, 1, 3]> (o) a = Reshape(ot, fl)"
    " y = MatMul(a, wo) }}"
)
SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (kh) s0 = MatMul(qt, kt) {}"
FIXED = SCORES.format("sc = Mul(s0, scale)")
SHAPED = SCORES.format("si = Shape(q4) d = Gather(si, three) df = Cast <to = 1> (d) rt = Sqrt(df) sc = Div(s0, rt)")
SLOPED = SCORES.format("s1 = Mul(s0, scale) al = Mul(slopes, far) sc = Add(s1, al)")
SLOPES: dict[str, Weight] = {
    "slopes": np.array([0.25, 0.0625], np.float32).reshape(2, 1, 1),
    "far": -np.abs(np.subtract.outer(np.arange(5), np.arange(5))).astype(np.float32),
}


def turned(x: str, out: str) -> str:
    return (
        f" {out}_1 = Slice({x}, zero, two, last) {out}_2 = Slice({x}, two, end, last) {out}_n = Neg({out}_2)"
        f" {out}_r = Concat <axis = -1> ({out}_n, {out}_1) {out}_c = Mul({x}, cos) {out}_s = Mul({out}_r, sin)"
        f" {out} = Add({out}_c, {out}_s)"
    )


ROTARY = (
    "ang = MatMul(pos, freq) both = Concat <axis = -1> (ang, ang) cos = Cos(both) sin = Sin(both)"
    + turned("qt", "qr")
    + turned("kh", "kr")
    + " kt = Transpose <perm = [0, 1, 3, 2]> (kr) s0 = MatMul(qr, kt) sc = Mul(s0, scale)"
)
ANGLES: dict[str, Weight] = {
    "pos": np.arange(5, dtype=np.float32)[:, None],
    "freq": np.array([[1.0, 0.01]], np.float32),
    **{n: np.array([v]) for n, v in (("zero", 0), ("two", 2), ("end", 2**31), ("last", -1))},
}


def frequencies(old: np.ndarray) -> np.ndarray:
    """What a model of the new head size would have: 10000^(−2i/d)."""
    return np.array([[1.0, 10000.0 ** (-2 / 6), 10000.0 ** (-4 / 6)]], np.float32)


STREAM = (
    "g (int64[2,4] x) => (float[2,4,3] y) {{ e = Gather(table, x) {} n1 = RMSNormalization <axis = -1, epsilon = 0.01>"
    " (h, g1) u = MatMul(n1, w1) r = Relu(u) d = MatMul(r, w2) s = Add(h, d)"
    " n2 = RMSNormalization <axis = -1, epsilon = 0.01> (s, g2) y = MatMul(n2, w3) }}"
)
LAYERS: dict[str, Weight] = {
    "table": (7, 8),
    "g1": (8,),
    "w1": (8, 5),
    "w2": (5, 8),
    "g2": (8,),
    "w3": (8, 3),
    "two": np.array(2),
}
ROOTED = "si = Shape(e) w = Gather(si, two) wf = Cast <to = 1> (w) rt = Sqrt(wf) h = Mul(e, rt)"
SWITCHED = "g (float[N,6] x) => (float[N,3] y) { h = Gemm (x, wa, ba) a = Tanh(h) y = Gemm <transB = 1> (a, wb, bb) }"


def inserted(made: Callable[[np.ndarray], np.ndarray], kind: str, which: int = 0) -> Fault:
    """Other numbers in one of the new tensors of a formula."""

    def fault(f: Faulty) -> None:
        name = [k for k, t in f.map.tensors.items() if t.formula == kind][which]
        f.put(name, made(f.get(name)).astype(f.get(name).dtype))

    return fault


FORMULAS: dict[str, Formula] = {
    "zero fan-out: readers of new channels are zero": Formula(MLP.format("Tanh(h)"), DENSE, filled("wb")),
    "zero fan-in: writers are zero": Formula(
        MLP.format("Tanh(h)"), DENSE, filled("wa"), wide("wa", method="zero-fan-in")
    ),
    "zero fan-in: biases are zero": Formula(
        MLP.format("Tanh(h)"), DENSE, filled("ba"), wide("wa", method="zero-fan-in")
    ),
    "Gemm with transB: readers are columns": Formula(MLP.format("Relu(h)"), DENSE, rolled("wb", 1)),
    "weights on the left-hand side": Formula(
        "g (float[6,5] x) => (float[3,5] y) { h = MatMul(wl, x) a = Tanh(h) y = MatMul(wr, a) }",
        {"wl": (4, 6), "wr": (3, 4)},
        filled("wr"),
    ),
    "Conv: readers along the second axis": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = Relu(h) y = Conv(a, wb)"), CONV, filled("wb", 1)
    ),
    "grouped Conv: channels inside every group interleave": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = Conv <group = 2> (h, wg) y = Conv(a, wb)"),
        CONV | {"wg": (4, 2, 1, 1)},
        appended("wa", 0),
        wide("wa/inner", add=1),
    ),
    "depthwise Conv: a kernel for each channel": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = Conv <group = 4> (h, wg) y = Conv(a, wb)"),
        CONV | {"wg": (4, 1, 1, 1)},
        rolled("wg", 0),
    ),
    "ConvTranspose: the axes of the weight swap": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = Relu(h) y = ConvTranspose(a, wt)"),
        CONV | {"wt": (4, 5, 1, 1)},
        filled("wt", 0),
    ),
    "Flatten, channels first: a channel owns a block of columns": Formula(
        "g (float[2,3,4,4] x) => (float[2,5] y) { h = Conv(x, wa) f = Flatten(h) y = MatMul(f, wb) }",
        PIXELS,
        filled("wb", 0),
    ),
    "Flatten, channels last: columns interleave": Formula(
        "g (float[2,3,4,4] x) => (float[2,5] y) { h = Conv(x, wa) t = Transpose <perm = [0, 2, 3, 1]> (h)"
        " f = Flatten(t) y = MatMul(f, wb) }",
        PIXELS,
        appended("wb", 0),
    ),
    "Concat: a branch that is not last inserts in the middle": Formula(
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) k = MatMul(x, wc) c = Concat <axis = 1> (h, k)"
        " y = MatMul(c, wb) }",
        {"wa": (6, 4), "wc": (6, 4), "wb": (8, 3)},
        appended("wb", 0),
        wide("wa"),
    ),
    "squeeze and excitation: zero columns of the reduction": Formula(
        IMAGE.format(
            4,
            "h = Conv(x, wa) m = GlobalAveragePool(h) d = Conv(m, wr) r = Relu(d) u = Conv(r, we) g = Sigmoid(u)"
            " a = Mul(h, g) y = Conv(a, wb)",
        ),
        CONV | {"wr": (2, 4, 1, 1), "we": (4, 2, 1, 1)},
        filled("wr", 1),
        wide("wa"),
    ),
    "residual sum: all writers grow at the same places": Formula(
        IMAGE.format(4, "h = Conv(x, wa) k = Conv(x, wc) s = Add(h, k) a = Relu(s) y = Conv(a, wb)"),
        CONV | {"wc": (4, 3, 1, 1)},
        rolled("wc", 0),
    ),
    "LSTM: old gates do not read new states": Formula(
        SEQUENCE.format(LSTM),
        {"w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32), "wb": (4, 3)} | ONE,
        filled("r", 2),
    ),
    "LSTM: rows of each gate interleave": Formula(
        SEQUENCE.format(LSTM),
        {"w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32), "wb": (4, 3)} | ONE,
        appended("w", 1),
    ),
    "GRU before the reset": Formula(
        SEQUENCE.format(GRU.format(0)),
        {"w": (1, 12, 3), "r": (1, 12, 4), "b": (1, 24), "wb": (4, 3)} | ONE,
        filled("r", 2),
    ),
    "GRU behind the reset": Formula(
        SEQUENCE.format(GRU.format(1)),
        {"w": (1, 12, 3), "r": (1, 12, 4), "b": (1, 24), "wb": (4, 3)} | ONE,
        filled("r", 2),
    ),
    "RNN: old states do not read new ones": Formula(
        SEQUENCE.format("h = RNN <hidden_size = 4> (x, w, r, b) s = Squeeze(h, one)"),
        {"w": (1, 4, 3), "r": (1, 4, 4), "b": (1, 8), "wb": (4, 3)} | ONE,
        filled("r", 2),
    ),
    "readers of both directions interleave": Formula(
        SEQUENCE.format(BOTH),
        {"w": (2, 16, 3), "r": (2, 16, 4), "b": (2, 32), "wb": (8, 3), "flat": np.array([0, 0, 8])},
        appended("wb", 0),
    ),
    "peepholes and initial states follow": Formula(
        SEQUENCE.format("h = LSTM <hidden_size = 4> (x, w, r, b, , h0, c0, p) s = Squeeze(h, one)"),
        {"w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32), "wb": (4, 3), "h0": (1, 2, 4), "c0": (1, 2, 4), "p": (1, 12)}
        | ONE,
        appended("p", 1),
    ),
    "SwiGLU: zero rows of the way down": Formula(
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) u = MatMul(x, wc) g = Sigmoid(h) s = Mul(h, g)"
        " a = Mul(s, u) y = MatMul(a, wb) }",
        {"wa": (6, 4), "wc": (6, 4), "wb": (4, 3)},
        filled("wb", 0),
    ),
    "more heads: zero rows of the output projection": Formula(
        SPLIT.format(FIXED), HEADS, filled("wo", 0), wide("wq/outer", add=1)
    ),
    "wider values: rows of the output projection interleave": Formula(
        SPLIT.format(FIXED), HEADS, appended("wo", 0), wide("wv/inner", add=1)
    ),
    "wider queries and keys: one of the two is zero": Formula(
        SPLIT.format(FIXED), HEADS, filled("wq", 1), wide("wq/inner", add=2)
    ),
    "wider queries and keys: so is its bias": Formula(
        SPLIT.format(FIXED), HEADS, filled("bq", 0), wide("wq/inner", add=2)
    ),
    "a constant softmax scale is kept": Formula(
        SPLIT.format(FIXED),
        HEADS,
        replaced("scale", lambda _: np.float32(6**-0.5)),
        wide("wq/inner", add=2),
    ),
    "a softmax scale computed from a shape is pinned": Formula(
        SPLIT.format(SHAPED), HEADS, rewired(("d", "df", "rt", "sc")), wide("wq/inner", add=2)
    ),
    "rotary halves: pairs go in at half the size and at the end": Formula(
        SPLIT.format(ROTARY), HEADS | ANGLES, appended("wk", 1), wide("wq/inner[0:2]", add=1)
    ),
    "rotary halves: old frequencies are kept": Formula(
        SPLIT.format(ROTARY), HEADS | ANGLES, replaced("freq", frequencies), wide("wq/inner[0:2]", add=1)
    ),
    "ALiBi: old slopes are kept": Formula(
        SPLIT.format(SLOPED),
        HEADS | SLOPES,
        replaced("slopes", lambda old: np.array([2**-2.5, 2**-5, 2**-7.5], np.float32).reshape(3, 1, 1)),
        wide("wq/outer", add=1),
    ),
    "a factor that follows from the width is pinned": Formula(
        STREAM.format(ROOTED), LAYERS, rewired(("w", "wf", "rt", "h")), wide("e", add=3), 23
    ),
    "GroupNormalization: whole groups of the old size": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = GroupNormalization <num_groups = 2> (h, g, b) y = Conv(a, wb)"),
        CONV | {"g": (4,), "b": (4,)},
        attribute("a", "num_groups", 2),
        opset=21,
    ),
    "larger kernels: pads take what the taps need": Formula(
        "g (float[2,3,6,6] x) => (float[2,4,6,6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
        {"w": (4, 3, 3, 3)},
        attribute("y", "pads", [3, 2, 1, 2]),
        lambda: EnlargeKernel("w", to=5),
    ),
    "larger kernels: new taps are zero": Formula(
        "g (float[2,3,6,6] x) => (float[2,4,6,6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
        {"w": (4, 3, 3, 3)},
        filled("w"),
        lambda: EnlargeKernel("w", to=5),
    ),
    "larger kernels: SAME padding that does not fit becomes explicit": Formula(
        'g (float[2,3,8,8] x) => (float[2,4,4,4] y) { y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w) }',
        {"w": (4, 3, 1, 1)},
        attribute("y", "pads", [0, 0, 2, 2]),
        lambda: EnlargeKernel("w", to=3),
    ),
    "larger transposed kernels": Formula(
        "g (float[2,3,6,6] x) => (float[2,4,12,12] y) { y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1],"
        " output_padding = [1, 1]> (x, w) }",
        {"w": (3, 4, 3, 3)},
        attribute("y", "pads", [3, 3, 1, 1]),
        lambda: EnlargeKernel("w", to=5),
    ),
    "identity layers: the 1 stands at half the kernel": Formula(
        IMAGE.format(4, "h = Conv(x, wa) a = Relu(h) y = Conv(a, wb)"),
        CONV,
        inserted(lambda w: np.roll(w, 1, -1), "identity"),
        lambda: InsertIdentity(kernel=3, actiswitch=False),
    ),
    "identity layers: biases of zeros": Formula(
        SWITCHED,
        DENSE,
        inserted(lambda w: w + 0.1, "zeros"),
        lambda: InsertIdentity(actiswitch=False),
    ),
    "ActiSwitch: b = 0 behind a new layer": Formula(
        SWITCHED, DENSE, inserted(lambda w: w + 0.1, "zeros"), lambda: AddActiSwitch()
    ),
    "ActiSwitch: a and b are what the activation is": Formula(
        SWITCHED, DENSE, inserted(lambda w: w * 1.1, "ones"), lambda: AddActiSwitch()
    ),
    "residual blocks: the last layer and its bias are zero": Formula(
        SWITCHED, DENSE, inserted(lambda w: w + 0.1, "zeros", -1), lambda: AddBlocks()
    ),
}
