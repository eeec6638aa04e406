"""Where weights come from: initializers, Constant nodes, behind other ops, shared, merged, graph inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth
from support import TOLERANCE, analysis_of, differences, grow_sets, model_of

from onnxgrow.concrete.values import constants

AB = {"wa": (6, 4), "wb": (4, 3)}
ROWS = "(float[N,6] x) => (float[N,3] y)"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES = [
    Case("behind Identity", f"{ROWS} {{ i = Identity(wa) j = Identity(i) h = MatMul(x, j) y = MatMul(h, wb) }}", AB),
    Case(
        "behind Transpose",
        f"{ROWS} {{ i = Transpose(wa) h = MatMul(x, i) j = Transpose <perm = [1, 0]> (wb) y = MatMul(h, j) }}",
        {"wa": (4, 6), "wb": (3, 4)},
    ),
    Case(
        "behind Cast",
        f"{ROWS} {{ i = Cast <to = 1> (wa) h = MatMul(x, i) y = MatMul(h, wb) }}",
        {"wa": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16), "wb": (4, 3)},
    ),
    Case(
        "behind Reshape",
        f"{ROWS} {{ i = Reshape(wa, to) h = MatMul(x, i) y = MatMul(h, wb) }}",
        {"wa": (2, 3, 4), "wb": (4, 3), "to": ints(6, 4)},
    ),
    Case(
        "behind Unsqueeze",
        "(float[N,3,8] x) => (float[N,5,8] y) { i = Unsqueeze(wa, two) h = Conv(x, i) j = Unsqueeze(wb, two) y ="
        " Conv(h, j) }",
        {"wa": (4, 3), "wb": (5, 4), "two": ints(2)},
    ),
    Case(
        "behind Transpose and Reshape",
        f"{ROWS} {{ i = Transpose(wa) j = Reshape(i, to) h = MatMul(x, j) y = MatMul(h, wb) }}",
        {"wa": (4, 6), "wb": (4, 3), "to": ints(6, 4)},
    ),
    Case(
        "a bias behind Reshape",
        f"{ROWS} {{ h = MatMul(x, wa) b = Reshape(k, to) a = Add(h, b) y = MatMul(a, wb) }}",
        {**AB, "k": (1, 4, 1), "to": ints(4)},
    ),
    Case(
        "siamese: one weight for two inputs",
        "(float[N,6] x, float[N,6] z) => (float[N,3] y) { h = MatMul(x, wa) g = MatMul(z, wa)"
        " a = MatMul(h, wb) b = MatMul(g, wb) y = Add(a, b) }",
        AB,
    ),
    Case(
        "one weight in a row",
        f"{ROWS} {{ h = MatMul(x, wa) g = MatMul(h, ws) r = Relu(g) a = MatMul(r, ws) y = MatMul(a, wb) }}",
        {**AB, "ws": (4, 4)},
    ),
    Case(
        "weights that are inputs, IR 3",
        f"{ROWS} {{ h = Gemm(x, wa, ba) y = Gemm(h, wb) }}",
        {**AB, "ba": (4,)},
        ir_version=3,
        opset=11,
        as_inputs=True,
    ),
    Case(
        "weights that are inputs, IR 8",
        f"{ROWS} {{ h = Gemm(x, wa, ba) y = Gemm(h, wb) }}",
        {**AB, "ba": (4,)},
        as_inputs=True,
    ),
    Case(
        "IR 3: a Split without sizes gets them",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) q, v = Split <axis = 1> (h)"
        " a = MatMul(q, wb) b = MatMul(v, wc) y = Add(a, b) }",
        {"wa": (6, 8), "wb": (4, 3), "wc": (4, 3)},
        ("wa[0:4]", "wa[4:8]"),
        ir_version=3,
        opset=13,
        as_inputs=True,
    ),
    Case(
        "IR 3: merged zero biases",
        f"{ROWS} {{ h = Gemm(x, wa, zeros) g = Gemm(h, wc, zeros) y = Gemm(g, wb) }}",
        {**AB, "wc": (4, 4), "zeros": np.zeros(4, np.float32)},
        ("wa", "wc"),
        ir_version=3,
        opset=11,
        as_inputs=True,
    ),
    Case(
        "Constant nodes: merged zero biases",
        f"{ROWS} {{ h = Gemm(x, wa, zeros) g = Gemm(h, wc, zeros) y = Gemm(g, wb) }}",
        {**AB, "wc": (4, 4), "zeros": np.zeros(4, np.float32)},
        ("wa", "wc"),
        as_nodes=True,
    ),
    Case(
        "Constant of floats",
        f"{ROWS} {{ h = MatMul(x, wa) k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () a = Add(h, k) y ="
        f" MatMul(a, wb) }}",
        AB,
    ),
    Case(
        "Constant of ints as a target shape",
        f"{ROWS} {{ h = MatMul(x, wa) k = Constant <value_ints = [-1, 4]> () a = Reshape(h, k) y = MatMul(a, wb) }}",
        AB,
    ),
    Case(
        "a weight of ones",
        f"{ROWS} {{ h = MatMul(x, wa) y = MatMul(h, wb) }}",
        {"wa": np.ones((6, 4), np.float32), "wb": (4, 3)},
    ),
    Case(
        "float64",
        "(double[N,6] x) => (double[N,3] y) { h = MatMul(x, wa) y = MatMul(h, wb) }",
        {"wa": np.random.default_rng(0).normal(size=(6, 4)), "wb": np.random.default_rng(1).normal(size=(4, 3))},
    ),
    Case(
        "one vector is a bias and a reader",
        f"{ROWS} {{ h = MatMul(x, wa) b = Add(h, k) r = MatMul(b, k) u = Unsqueeze(r, one) y = Mul(u, three) }}",
        {"wa": (6, 4), "k": (4,), "one": ints(1), "three": (3,)},
    ),
    Case(
        "one vector is added and multiplied",
        f"{ROWS} {{ h = MatMul(x, wa) p = Add(h, k) a = Mul(p, k) y = MatMul(a, wb) }}",
        {**AB, "k": (4,)},
    ),
    Case(
        "a weight is multiplied in, too",
        "(float[6,6] x) => (float[6,3] y) { h = MatMul(x, wa) a = Mul(h, wa) y = MatMul(a, wb) }",
        AB,
    ),
    Case(
        "a weight for each head",
        "(float[2,5,6] x) => (float[2,5,3] y) { h = MatMul(x, wa) r = Reshape(h, four)"
        " t = Transpose <perm = [0, 2, 1, 3]> (r) m = MatMul(t, wh) u = Transpose <perm = [0, 2, 1, 3]> (m)"
        " f = Reshape(u, three) y = MatMul(f, wo) }",
        {"wa": (6, 8), "wh": (2, 4, 5), "wo": (10, 3), "four": ints(0, 5, 2, -1), "three": ints(0, 5, -1)},
        ("wa/outer", "wa/inner", "wh"),
    ),
    Case(
        "learned positions looked up",
        "(int64[N,5] x) => (float[N,5,3] y) { e = Gather(wa, x) s = Shape(x) t = Gather(s, last) r = Range(nil, t,"
        " last)"
        " p = Gather(wp, r) h = Add(e, p) y = MatMul(h, wb) }",
        {"wa": (7, 4), "wp": (16, 4), "wb": (4, 3), "nil": np.array(0), "last": np.array(1)},
    ),
]

FROZEN = [
    Frozen(
        "tied: read and written by one table",
        "(int64[N,5] x) => (float[N,5,7] y) { h = Gather(wa, x) t = Transpose(wa) y = MatMul(h, t) }",
        {"wa": (7, 4)},
        reasons=(
            "its writers are read by the same entries: zero, so that nothing changes, they would never learn"
            " (Gather h)",
            "entries are looked up in it (Gather h, axis 0)",
            "it is an output of the network (output y, axis 2)",
        ),
    ),
    Frozen(
        "a weight that is computed",
        f"{ROWS} {{ i = Erf(wa) h = MatMul(x, i) y = MatMul(h, wb) }}",
        AB,
        reasons=("its weight is computed from other constants (MatMul, axis 1)",),
    ),
    Frozen(
        "a custom op",
        f"{ROWS} {{ h = MatMul(x, wa) a = com.microsoft.Trilu(h) y = MatMul(a, wb) }}",
        AB,
        imports=', "com.microsoft": 1',
        reasons=("no rule for com.microsoft::Trilu (Trilu a, axis 1)",),
    ),
    Frozen(
        "a subgraph reads it",
        "(float[N,6] x, bool c) => (float[N,3] y) { h = MatMul(x, wa)"
        " a = If (c) <then_branch = t () => (float[N,4] p) { p = Relu(h) }, else_branch = e () => (float[N,4] q) {"
        " q = Tanh(h) }> y = MatMul(a, wb) }",
        AB,
        reasons=("a subgraph reads it (value h, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_of_weights_wherever_they_are_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)


def test_a_merged_bias_is_unshared_only_where_one_layer_grows_alone() -> None:
    model = model_of(
        f"g {ROWS} {{ h = Gemm(x, wa, zeros) g = Gemm(h, wc, zeros) y = Gemm(g, wb) }}",
        {**AB, "wc": (4, 4), "zeros": np.zeros(4, np.float32)},
    )
    analysis = analysis_of(model)
    alone = grow_sets(model, analysis, {"wa": 3})
    added = {name: t.of for name, t in alone.changes.tensors.items() if t.of}
    assert set(added.values()) == {"zeros"}
    held = constants(alone.model)
    assert tuple(held["zeros"].shape.numpy()) == (4,), "the layer that did not grow keeps the constant"
    (unshared,) = added
    assert tuple(held[unshared].shape.numpy()) == (7,)

    both = grow_sets(model, analysis, {"wa": 3, "wc": 3})
    assert not any(t.of for t in both.changes.tensors.values())
    assert tuple(constants(both.model)["zeros"].shape.numpy()) == (7,)


def test_new_constants_of_an_old_ir_are_nodes_not_inputs() -> None:
    model = model_of(
        f"g {ROWS} {{ h = Gemm(x, wa, zeros) g = Gemm(h, wc, zeros) y = Gemm(g, wb) }}",
        {**AB, "wc": (4, 4), "zeros": np.zeros(4, np.float32)},
        ir_version=3,
        opset=11,
        as_inputs=True,
    )
    inputs = [v.name for v in model.graph.inputs]
    grown = grow_sets(model, analysis_of(model), {"wa": 1})
    assert [v.name for v in grown.model.graph.inputs] == inputs
    assert grown.changes.rewriter.inserted
    assert max(differences(model, grown.model)) <= TOLERANCE


def test_the_comparison_sees_new_readers_that_are_not_zero() -> None:
    """Negative control of all the tables: the fault the zeros exist for."""
    model = model_of(f"g {ROWS} {{ h = MatMul(x, wa) y = MatMul(h, wb) }}", AB)
    grown = grow_sets(model, analysis_of(model), {"wa": 3})
    weight = grown.model.graph.initializers["wb"]
    assert weight.const_value is not None
    values = np.array(weight.const_value.numpy())
    assert not values[4:].any()
    values[4:] = 1e-2
    weight.const_value = ir.tensor(values)
    assert max(differences(model, grown.model)) > TOLERANCE
