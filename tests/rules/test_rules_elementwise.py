"""Activations and elementwise arithmetic with broadcasting."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

from onnxgrow.algebra import Forest
from onnxgrow.rules import NodeContext, find_rule

AB = {"wa": (6, 4), "wb": (4, 3)}


def after(op: str, name: str = "", opset: int = 20, growable: tuple[str, ...] = ("wa",), **weights: object) -> Case:
    """MatMul, ``op`` from h to a, MatMul."""
    graph = f"(float[N,6] x) => (float[N,3] y) {{ h = MatMul(x, wa) {op} y = MatMul(a, wb) }}"
    return Case(name or op, graph, {**AB, **weights}, growable, opset=opset)  # type: ignore[arg-type]  # table of arrays and shapes


def image(op: str, name: str, **weights: object) -> Case:
    """Convolution, ``op`` from h to a, convolution."""
    graph = f"(float[N,3,5,5] x) => (float[N,3,5,5] y) {{ h = Conv(x, wa) {op} y = Conv(a, wb) }}"
    return Case(name, graph, {"wa": (4, 3, 1, 1), "wb": (3, 4, 1, 1), **weights})  # type: ignore[arg-type]  # as above


PLAIN = (
    "Abs Atan Ceil Celu Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu "
    "Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tanh ThresholdedRelu"
).split()

CASES = [
    *(after(f"a = {op}(h)", op) for op in PLAIN),
    *(after(f"p = Exp(h) a = {op}(p)", op) for op in ("Log", "Reciprocal", "Sqrt")),
    *(after(f"t = Tanh(h) a = {op}(t)", op) for op in ("Acos", "Asin", "Asinh", "Cosh", "Tan")),
    after("p = Exp(h) q = Add(p, one) a = Acosh(q)", "Acosh", one=np.float32(1).reshape(())),
    after("a = Clip <min = 0.0, max = 6.0> (h)", "Clip of opset 6", opset=6),
    after("a = Clip(h, low, high)", "Clip of opset 13", opset=13, low=np.float32(0), high=np.float32(6)),
    after("a = Clip(h, , high)", "Clip without a lower bound", high=np.float32(6)),
    after("a = Dropout(h)", "Dropout of opset 7", opset=7),
    after("a, m = Dropout <ratio = 0.3> (h)", "Dropout with a mask nobody reads, opset 10", opset=10),
    after(
        "a = Dropout(h, ratio, training)",
        "Dropout of opset 13",
        opset=13,
        ratio=np.float32(0.5),
        training=np.array(False),
    ),
    after("c = Cast <to = 11> (h) a = Cast <to = 1> (c)", "Cast there and back"),
    after("a = CastLike(h, wb)", "CastLike"),
    after("n = IsNaN(h) a = Where(n, zero, h)", "Where", zero=np.float32(0)),
    after("n = IsNaN(h) z = Not(n) a = Cast <to = 1> (z)", "Not"),
    after("g = Greater(h, zero) a = Cast <to = 1> (g)", "Greater", zero=np.float32(0)),
    *(after(f"a = {op}(h, k)", f"{op} with a vector", k=(4,)) for op in ("Add", "Sub", "Mul", "Max", "Min")),
    after("a = Div(h, var)", "Div by a vector", var=(4,)),
    after("p = Abs(h) a = Pow(p, var)", "Pow of a vector", var=(4,)),
    after("a = Sub(k, h)", "a vector minus", k=(4,)),
    after("e = Exp(h) a = Div(k, e)", "a vector over", k=(4,)),
    after("a = PRelu(h, k)", "PRelu", k=(4,)),
    after("a = PRelu(h, k)", "PRelu of one slope", k=(1,)),
    after("a = Add(h, k)", "Add of a row", k=(1, 4)),
    after("a = Mul(h, k)", "Mul by a scalar", k=()),
    after("a = Mul(h, h)", "a square"),
    after("s = Sigmoid(h) a = Mul(h, s)", "swish, decomposed"),
    after(
        "s = Div(h, k) e = Erf(s) p = Add(e, one) m = Mul(h, p) a = Mul(m, half)",
        "gelu, decomposed",
        k=np.float32(1.41),
        one=np.float32(1),
        half=np.float32(0.5),
    ),
    after("c = Sum(h, k, h) d = Mean(c, h) a = Max(d, h, k)", "variadic ops", k=(4,)),
    after("a = Mod <fmod = 1> (h, var)", "Mod", var=(4,)),
    after(
        "g = Less(h, zero) l = Or(g, g) n = Not(g) o = And(l, g) e = Xor(o, n) a = Where(e, h, zero)",
        "boolean ops",
        zero=np.float32(0),
    ),
    after(
        "p = Sigmoid(h) g = GreaterOrEqual(p, k) q = LessOrEqual(p, k) e = Equal(g, q) b = Not(e) a = Cast <to = 1>"
        " (b)",
        "comparisons",
        k=(4,),
    ),
    image("a = PRelu(h, k)", "PRelu per channel of an image", k=(4, 1, 1)),
    image("a = Add(h, k)", "a bias per channel of an image", k=(1, 4, 1, 1)),
    image("a = Mul(h, k)", "a map over positions", k=(5, 5)),
    Case(
        "learned position embedding",
        "(float[N,5,6] x) => (float[N,5,3] y) { h = MatMul(x, wa) a = Add(h, pos) y = MatMul(a, wb) }",
        {**AB, "pos": (5, 4)},
    ),
    Case(
        "tied: two layers that are added",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) g = MatMul(x, wc) a = Add(h, g) y = MatMul(a, wb) }",
        {**AB, "wc": (6, 4)},
    ),
    Case(
        "gated linear unit of two weights",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) g = MatMul(x, wc) s = Sigmoid(g) a = Mul(h, s) y ="
        " MatMul(a, wb) }",
        {**AB, "wc": (6, 4)},
    ),
    Case(
        "an axis of one that broadcasts over channels",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) g = MatMul(x, wc) a = Mul(h, g) y = MatMul(a, wb) }",
        {**AB, "wc": (6, 1)},
    ),
]

FROZEN = [
    Frozen(
        "the input is added",
        "(float[N,4] x) => (float[N,3] y) { h = MatMul(x, wa) a = Add(h, x) y = MatMul(a, wb) }",
        {"wa": (4, 4), "wb": (4, 3)},
        reasons=("it is an input of the network (input x, axis 1)",),
    ),
    Frozen(
        "an op without a rule",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) a = Bernoulli(h) y = MatMul(a, wb) }",
        AB,
        opset=15,
        reasons=("no rule for Bernoulli: random: its values depend on how many it draws (Bernoulli a, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_through_elementwise_ops_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)


@pytest.mark.parametrize(
    ("shape", "attributes", "tied"),
    [
        ((4,), {"broadcast": 1, "axis": 1}, 1),
        ((5,), {"broadcast": 1}, 2),
        ((2, 4, 5), {}, 1),
        ((4, 5), {"broadcast": 1, "axis": -2}, 1),
    ],
)
def test_operands_before_opset_7_are_laid_at_an_axis(
    shape: tuple[int, ...], attributes: dict[str, int], tied: int
) -> None:
    """ONNX Runtime has no kernels for these, so the rule is asked directly."""
    forest = Forest()
    terms = [[forest.atom(n) for n in sizes] for sizes in ((2, 4, 5), shape)]
    node = ir.node("Add", [ir.val("a"), ir.val("b")], attributes)
    op = NodeContext(node, 6, forest, terms, [(2, 4, 5), shape], [(2, 4, 5)], lambda _: None, lambda _: False)
    rule = find_rule("", "Add", 6)
    assert rule is not None
    (out,) = rule(op)
    assert out is not None
    assert [t.size for t in out] == [2, 4, 5]
    assert forest.find(out[tied]) in [forest.find(t) for t in terms[1]]
    assert not any(leaf.frozen for t in (*terms[0], *terms[1]) for leaf in forest.leaves(t))
