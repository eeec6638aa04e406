"""Float64 kernels of ONNX Runtime's own operators, against ONNX Runtime in float32, and in double all the way."""

from __future__ import annotations

import numpy as np
import pytest
from support import Weight, feeds_for, model_of, run

from onnxgrow.verify.float64 import prepare

MS = ', "com.microsoft": 1'
X = "g (float[2,5,6] x) => (float[2,5,8] y)"
QKV = "g (float[2,5,8] q, float[2,5,8] k, float[2,5,12] v) => (float[2,5,12] y)"
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32)
PLACES = np.array([[3, 1, 4, 1, 5], [0, 1, 2, 3, 4]])
W: dict[str, Weight] = {"w": (6, 24), "b": (24,), "m": MASK, "n": np.array([4, 3], np.int32), "e": (2, 2, 5, 5)}
TABLES: dict[str, Weight] = {"c": (16, 2), "s": (16, 2), "p": PLACES, "one": np.array([3])}
NORM: dict[str, Weight] = {"g": (8,), "t": (8,), "o": (8,)}
WORDS: dict[str, Weight] = {
    "i": np.array([[1, 2, 3], [0, 5, 6]], np.int32),
    "j": np.array([[0, 1, 1], [1, 0, 0]], np.int32),
    "u": (7, 8),
    "z": (4, 8),
    "k": (2, 8),
    "h": np.array([[1, 1, 0], [1, 0, 0]], np.int32),
}
CASES: dict[str, tuple[str, dict[str, Weight]]] = {
    "attention": (f"{X} {{ y = com.microsoft.Attention <num_heads = 2> (x, w, b) }}", W),
    "attention with a mask": (f"{X} {{ y = com.microsoft.Attention <num_heads = 2> (x, w, b, m) }}", W),
    "attention with lengths": (f"{X} {{ y = com.microsoft.Attention <num_heads = 2> (x, w, b, n) }}", W),
    "attention with a bias": (f"{X} {{ y = com.microsoft.Attention <num_heads = 2> (x, w, b, m, , e) }}", W),
    "attention of the past": (
        f"{X} {{ y = com.microsoft.Attention <num_heads = 2, unidirectional = 1, scale = 0.3> (x, w, b, m) }}",
        W,
    ),
    "attention with sizes": (
        f"{X} {{ y = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [6, 6, 8]> (x, w, b) }}",
        {"w": (6, 20), "b": (20,)},
    ),
    "multi-head": (f"{QKV} {{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }}", {}),
    "multi-head with a bias and a mask": (
        f"{QKV} {{ y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.3> (q, k, v, b, m, e) }}",
        W | {"b": (28,)},
    ),
    "multi-head, keys by heads": (
        "g (float[2,5,8] q, float[2,2,3,4] k, float[2,2,3,4] v) => (float[2,5,8] y)"
        " { y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }",
        {},
    ),
    "rotary": ("g (float[2,5,8] x) => (float[2,5,8] y) { y = RotaryEmbedding <num_heads = 2> (x, c, s, p) }", TABLES),
    "rotary in part": (
        "g (float[2,5,12] x) => (float[2,5,12] y)"
        " { y = RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4, interleaved = 1> (x, c, s, p) }",
        TABLES,
    ),
    "rotary by heads": ("g (float[2,3,5,4] x) => (float[2,3,5,4] y) { y = RotaryEmbedding(x, c, s, p) }", TABLES),
    "rotary of ONNX Runtime": (
        "g (float[2,5,8] x) => (float[2,5,8] y) { y = com.microsoft.RotaryEmbedding(x, p, c, s) }",
        TABLES,
    ),
    "rotary of ONNX Runtime from a place on": (
        "g (float[2,5,8] x) => (float[2,5,8] y) { y = com.microsoft.RotaryEmbedding <interleaved = 1> (x, one, c, s) }",
        TABLES,
    ),
    "embeddings": (
        "g (float[1] x) => (float[2,3,8] y, int32[2] n, float[2,3,8] a)"
        " { y, n, a = com.microsoft.EmbedLayerNormalization <epsilon = 0.01> (i, j, u, z, k, g, t, h) }",
        WORDS | NORM,
    ),
    "sum and norm": (
        "g (float[2,5,8] x, float[2,5,8] r) => (float[2,5,8] y, float[2,5,8] a)"
        " { y, , , a = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (x, r, g, t, o) }",
        NORM,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_computes_what_onnx_runtime_computes_in_double_precision(name: str) -> None:
    text, weights = CASES[name]
    model = model_of(text, weights, opset=23, ir_version=10, imports=MS)
    feeds = feeds_for(model)
    prepared = prepare(model)
    steps = prepared.interpreter(prepared.inputs(feeds), prepared.graph.outputs)
    for _ in steps.steps():
        pass
    assert not prepared.native.epsilons
    for value, expected in zip(prepared.graph.outputs, run(model, feeds), strict=True):
        found = steps.read(value)
        assert found.dtype == (np.float64 if expected.dtype.kind == "f" else expected.dtype)
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_form_that_no_kernel_covers_runs_in_the_precision_of_the_model() -> None:
    """A cache: said, not guessed."""
    text = (
        "g (float[2,5,8] x, float[2,2,3,4] a, float[2,2,3,4] b) => (float[2,5,8] y, float[2,2,8,4] c, float[2,2,8,4] d)"
        " { y, c, d = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, , , , a, b) }"
    )
    model = model_of(text, {}, opset=17, imports=MS)
    prepared = prepare(model)
    feeds = feeds_for(model)
    steps = prepared.interpreter(prepared.inputs(feeds), prepared.graph.outputs)
    for _ in steps.steps():
        pass
    assert prepared.native.epsilons
