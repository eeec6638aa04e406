"""What a channel costs, against a recount of the model after it has grown by one."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest
from support import analysis_of, grow_sets, model_of

from onnxgrow.analysis import Analysis
from onnxgrow.concrete.values import constants

NETWORKS = {
    "mlp": (
        "g (float[7,6] x) => (float[7,3] y) { h = Gemm(x, wa, ba) a = Relu(h) g = Gemm(a, wb, bb) y = MatMul(g, wc) }",
        {"wa": (6, 4), "ba": (4,), "wb": (4, 5), "bb": (5,), "wc": (5, 3)},
    ),
    "cnn": (
        "g (float[2,3,8,8] x) => (float[2,5] y) { c = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)"
        " n = BatchNormalization(c, scale, shift, mean, var) d = Conv <group = 4> (n, wd) r = Relu(d)"
        " e = Conv <strides = [2, 2]> (r, we) p = GlobalAveragePool(e) f = Flatten(p) y = Gemm <transB = 1> (f, wf) }",
        {
            "wa": (4, 3, 3, 3),
            "ba": (4,),
            "scale": (4,),
            "shift": (4,),
            "mean": (4,),
            "var": (4,),
            "wd": (4, 1, 3, 3),
            "we": (6, 4, 2, 2),
            "wf": (5, 6),
        },
    ),
    "grouped": (
        "g (float[2,3,8,8] x) => (float[2,5,8,8] y) { c = Conv(x, wa) g = Conv <group = 2> (c, wg) y = Conv(g, wb) }",
        {"wa": (4, 3, 1, 1), "wg": (6, 2, 1, 1), "wb": (5, 6, 1, 1)},
    ),
    "transposed": (
        "g (float[2,3,4,4] x) => (float[2,5,8,8] y) { c = ConvTranspose <strides = [2, 2]> (x, wa)"
        " r = Relu(c) y = Conv(r, wb) }",
        {"wa": (3, 4, 2, 2), "wb": (5, 4, 1, 1)},
    ),
    "left": (
        "g (float[6,7] x) => (float[3,7] y) { h = MatMul(wa, x) g = Gemm(wb, h) y = MatMul(wc, g) }",
        {"wa": (4, 6), "wb": (5, 4), "wc": (3, 5)},
    ),
    "shared": (
        "g (float[7,6] x, float[7,6] z) => (float[7,3] y) { h = MatMul(x, wa) g = MatMul(z, wa) s = Add(h, g) y ="
        " MatMul(s, wb) }",
        {"wa": (6, 4), "wb": (4, 3)},
    ),
    "residual": (
        "g (float[7,6] x) => (float[7,3] y) { h = MatMul(x, wa) u = MatMul(h, wu) d = MatMul(u, wd) s = Add(h, d) y"
        " = MatMul(s, wb) }",
        {"wa": (6, 4), "wu": (4, 9), "wd": (9, 4), "wb": (4, 3)},
    ),
    "flattened": (
        "g (float[2,3,4,4] x) => (float[2,5] y) { c = Conv(x, wa) f = Flatten(c) y = Gemm(f, wb) }",
        {"wa": (4, 3, 1, 1), "wb": (64, 5)},
    ),
}


def parameters(model: ir.Model) -> int:
    return sum(math.prod(t.shape.numpy()) for t in constants(model).values() if t.dtype.is_floating_point())


def flops(analysis: Analysis) -> int:
    """2 × multiply-adds, from concrete shapes and the definition of each op."""
    shapes = analysis.network.concrete.shapes
    total = 0
    for node in analysis.network.nodes:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            continue
        a, b = (shapes[v.name or ""] for v in node.inputs[:2] if v is not None)
        out = math.prod(shapes[node.outputs[0].name or ""])
        if node.op_type == "Conv":
            total += out * math.prod(b[1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(a) * math.prod(b[1:])
        else:
            inner = a[0] if node.attributes.get_int("transA", 0) else a[-1]
            total += out * inner
    return 2 * total


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_of_a_channel_is_what_a_recount_after_growing_by_one_finds(name: str) -> None:
    graph, weights = NETWORKS[name]
    model = model_of(graph, weights)
    analysis = analysis_of(model)
    assert analysis.growable
    assert analysis.cost.total_parameters({}) == parameters(model)
    assert analysis.cost.total_flops({}) == flops(analysis)
    for one in analysis.growable:
        grown = grow_sets(model, analysis, {one.name: 1})
        after = analysis_of(grown.model)
        assert one.parameters == parameters(grown.model) - parameters(model)
        assert one.flops == flops(after) - flops(analysis)
        assert one.parameters > 0
        assert one.flops > 0


def test_totals_of_several_sets_include_what_they_share() -> None:
    graph, weights = NETWORKS["mlp"]
    model = model_of(graph, weights)
    analysis = analysis_of(model)
    added = {"wa": 3, "wb": 2}
    growth = {s.atom: added[s.name] for s in analysis.growable}
    grown = grow_sets(model, analysis, added)
    assert analysis.cost.total_parameters(growth) == parameters(grown.model)
    assert analysis.cost.total_flops(growth) == flops(analysis_of(grown.model))
