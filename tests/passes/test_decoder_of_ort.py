"""Decoders as ONNX Runtime's model builder writes them: packed or separate operands, a cache or none, fused norms."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import Weight, model_of

from onnxgrow.passes import Proof, Widen
from onnxgrow.verify.report import Verdict

WIDTH, HEADS, SHARED, SIZE, INNER, WORDS, PLACES = 32, 4, 2, 16, 48, 50, 16
ANGLES = np.outer(np.arange(PLACES), 1e4 ** -np.linspace(0, 1, SIZE // 2, endpoint=False)).astype(np.float32)
WEIGHTS: dict[str, Weight] = {
    "table": (WORDS, WIDTH),
    **dict.fromkeys(("n0", "n1", "n2"), (WIDTH,)),
    "q": (WIDTH, HEADS * SIZE),
    "k": (WIDTH, SHARED * SIZE),
    "v": (WIDTH, SHARED * SIZE),
    "qkv": (WIDTH, (HEADS + 2 * SHARED) * SIZE),
    "o": (HEADS * SIZE, WIDTH),
    "gate": (WIDTH, INNER),
    "up": (WIDTH, INNER),
    "down": (INNER, WIDTH),
    "head": (WIDTH, WORDS),
    "cosines": np.cos(ANGLES),
    "sines": np.sin(ANGLES),
    "last": np.array([1]),
    "one": np.array(1, np.int32),
    "second": np.array(1),
}
# The length of the mask is a number without axes.
LENGTHS = """
    seen = ReduceSum <keepdims = 0> (mask, last)  seen32 = Cast <to = 6> (seen)  before = Sub(seen32, one)
    extent = Shape(mask)  total64 = Gather(extent, second)  total = Cast <to = 6> (total64)"""
REST = """
    a = MatMul(attended, o)
    h, , , r = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-6> (x, a, n1)
    g = MatMul(h, gate)  s = Sigmoid(g)  t = Mul(g, s)  w = MatMul(h, up)  m = Mul(t, w)  d = MatMul(m, down)
    z = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-6> (r, d, n2)
    logits = MatMul(z, head)"""


def decoder(packed: bool, cached: bool) -> str:
    past = f", float[2,{SHARED},3,{SIZE}] pk, float[2,{SHARED},3,{SIZE}] pv" if cached else ""
    present = f", float[2,{SHARED},4,{SIZE}] nk, float[2,{SHARED},4,{SIZE}] nv" if cached else ""
    reads = "p = MatMul(y, qkv)" if packed else "p = MatMul(y, q) pkeys = MatMul(y, k) pvalues = MatMul(y, v)"
    operands = ("p, , " if packed else "p, pkeys, pvalues") + (", pk, pv" if cached else ", , ")
    return f"""g (int64[2,s] ids, int64[2,t] mask{past}) => (float[2,s,{WORDS}] logits{present}) {{
        x = Gather(table, ids)
        y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-6> (x, n0) {LENGTHS} {reads}
        attended, nk, nv = com.microsoft.GroupQueryAttention
            <num_heads = {HEADS}, kv_num_heads = {SHARED}, do_rotary = 1>
            ({operands}, before, total, cosines, sines) {REST} }}"""


@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "cache"])
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
def test_it_grows_and_all_tiers_pass(packed: bool, cached: bool) -> None:
    rng = np.random.default_rng(1)
    text = decoder(packed, cached)
    used = {name: weight for name, weight in WEIGHTS.items() if name in re.findall(r"\w+", text)}
    model = model_of(text, used, imports=', "com.microsoft": 1')
    tokens, before = (1, 3) if cached else (4, 0)
    feeds = {"ids": rng.integers(0, WORDS, (2, tokens)), "mask": np.ones((2, tokens + before), np.int64)}
    if cached:
        feeds |= {n: rng.normal(size=(2, SHARED, 3, SIZE)).astype(np.float32) for n in ("pk", "pv")}
    result = Widen(factor=2.0, residual=True, proof=Proof(inputs=feeds))(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert all(a.alive for a in result.report.alive)
    grew = {n for n, t in result.growth_map.tensors.items() if t.axes}
    queries = {"qkv"} if packed else {"q"}
    assert {"table", "gate", "up", "down", "o", "head", *queries} <= grew
    assert not {"cosines", "sines"} & grew
