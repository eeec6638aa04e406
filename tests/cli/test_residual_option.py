"""``widen --residual`` and what ``inspect`` says of residual streams."""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx
from command_line import Outcome, parsed

Run = Callable[..., Outcome]

PRE_NORM = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x) => (float[N, 3] y)
<float[4, 8] w0, float[8] scale, float[8] shift, float[8, 5] w1, float[5, 8] w2, float[8, 3] w3>
{
    h = MatMul(x, w0)
    n = LayerNormalization(h, scale, shift)
    u = MatMul(n, w1)
    r = Relu(u)
    d = MatMul(r, w2)
    s = Add(h, d)
    m = LayerNormalization(s, scale, shift)
    y = MatMul(m, w3)
}
"""


def test_the_stream_grows_only_with_the_option(folder, onnxgrow: Run) -> None:
    onnx.save(parsed(PRE_NORM), "net.onnx")
    plain = onnxgrow("widen", "net.onnx", "--dry-run", "--json")
    assert [(s["old"], s["new"]) for s in json.loads(plain.out)["plan"]["sets"]] == [(5, 10)]
    outcome = onnxgrow("widen", "net.onnx", "--residual", "--add", "3", "--json")
    assert outcome.code == 0
    grown = {v.name: tuple(v.dims) for v in onnx.load("net.grown.onnx").graph.initializer}
    assert (grown["w0"], grown["scale"], grown["w1"]) == ((4, 11), (11,), (11, 8))


def test_inspect_names_the_way_of_a_stream(folder, onnxgrow: Run) -> None:
    onnx.save(parsed(PRE_NORM), "net.onnx")
    outcome = onnxgrow("inspect", "net.onnx")
    assert "with --residual" in " ".join((outcome.out + outcome.err).split())
