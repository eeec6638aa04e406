"""Reductions, selections and normalisations: the reduced axis is frozen, the others pass."""

from __future__ import annotations

import numpy as np
import pytest
from rule_case import Case, Frozen, check_frozen, check_growth

AB = {"wa": (6, 4), "wb": (4, 3)}
SEQ = "(float[N,5,6] x) => (float[N,a,3] y)"
REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare".split()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def seq(name: str, ops: str, *, opset: int = 17, **weights: object) -> Case:
    graph = f"{SEQ} {{ h = MatMul(x, wa) {ops} y = MatMul(a, wb) }}"
    return Case(name, graph, {**AB, **weights}, opset=opset)  # type: ignore[arg-type]  # table of arrays and shapes


def frozen(name: str, ops: str, reason: str, *, opset: int = 17, width: int = 4, **weights: object) -> Frozen:
    graph = f"{SEQ} {{ h = MatMul(x, wa) {ops} y = MatMul(a, wb) }}"
    return Frozen(name, graph, {"wa": (6, 4), "wb": (width, 3), **weights}, opset=opset, reasons=(reason,))  # type: ignore[arg-type]  # as above


CASES = [
    *(seq(f"{op} over positions", f"a = {op} <axes = [1]> (h)") for op in REDUCTIONS),
    seq("ReduceLogSum over positions", "p = Exp(h) a = ReduceLogSum <axes = [-2]> (p)"),
    seq("ReduceSum of opset 11", "a = ReduceSum <axes = [1]> (h)", opset=11),
    seq("ReduceSum of opset 13", "a = ReduceSum(h, at)", at=ints(-2)),
    seq("ReduceMean of opset 18", "a = ReduceMean(h, at)", opset=18, at=ints(1)),
    seq("ReduceSum over nothing", "a = ReduceSum <noop_with_empty_axes = 1> (h)"),
    seq(
        "ReduceMean without its axis",
        "m = ReduceMean <axes = [1], keepdims = 0> (h) u = Unsqueeze(m, at) a = Add(h, u)",
        at=ints(1),
    ),
    seq("ArgMax over positions", "m = ArgMax <axis = 1> (h) c = Cast <to = 1> (m) a = Add(h, c)"),
    seq(
        "ArgMin over positions",
        "m = ArgMin <axis = 1, keepdims = 0> (h) c = Cast <to = 1> (m) u = Unsqueeze(c, at) a = Add(h, u)",
        at=ints(1),
    ),
    seq("CumSum over positions", "a = CumSum(h, at)", at=np.array(1, np.int64)),
    seq("TopK over positions", "a, i = TopK <axis = 1> (h, k)", k=ints(2)),
    seq("TopK of opset 1", "a, i = TopK <axis = 1, k = 2> (h)", opset=9),
    seq("Softmax over positions of opset 13", "a = Softmax <axis = 1> (h)"),
    seq(
        "Hardmax and LogSoftmax over positions",
        "s = LogSoftmax <axis = 1> (h) t = Hardmax <axis = 1> (h) a = Add(s, t)",
    ),
    Case(
        "GroupNormalization: whole groups",
        "(float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, wa)"
        " g = GroupNormalization <num_groups = 2> (c, scale, shift) y = Conv(g, wb) }",
        {"wa": (8, 3, 1, 1), "wb": (5, 8, 1, 1), "scale": (8,), "shift": (8,)},
        ("wa/outer",),
        opset=21,
    ),
    Case(
        "GroupNormalization with a group per channel",
        "(float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, wa)"
        " g = GroupNormalization <num_groups = 8> (c, scale, shift) y = Conv(g, wb) }",
        {"wa": (8, 3, 1, 1), "wb": (5, 8, 1, 1), "scale": (8,), "shift": (8,)},
        opset=21,
    ),
    Case(
        "what only one row reads",
        "(float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) s = ReduceMean <axes = [1]> (x) g = Mul(h, s) y ="
        " MatMul(g, wb) }",
        AB,
    ),
]

FROZEN = [
    *(
        frozen(
            f"{op} over channels", f"m = {op} <axes = [2]> (h) a = Add(h, m)", f"it is reduced over ({op} m, axis 2)"
        )
        for op in REDUCTIONS
    ),
    frozen(
        "ReduceMean over everything", "m = ReduceMean(h) a = Add(h, m)", "it is reduced over (ReduceMean m, axis 2)"
    ),
    frozen(
        "ReduceSum of opset 13 over channels",
        "m = ReduceSum(h, at) a = Add(h, m)",
        "it is reduced over (ReduceSum m, axis 2)",
        at=ints(-1),
    ),
    frozen(
        "ArgMax over channels",
        "m = ArgMax <axis = 2> (h) c = Cast <to = 1> (m) a = Add(h, c)",
        "it is reduced over (ArgMax m, axis 2)",
    ),
    frozen(
        "CumSum over channels",
        "a = CumSum(h, at)",
        "it is accumulated over (CumSum a, axis 2)",
        at=np.array(2, np.int64),
    ),
    frozen(
        "TopK over channels", "a, i = TopK(h, k)", "entries are selected from it (TopK a, axis 2)", width=2, k=ints(2)
    ),
    frozen(
        "LayerNormalization over channels",
        "a = LayerNormalization(h, scale, shift)",
        "it is normalised over (LayerNormalization a, axis 2)",
        scale=(4,),
        shift=(4,),
    ),
    frozen(
        "RMSNormalization over channels",
        "a = RMSNormalization(h, scale)",
        "it is normalised over (RMSNormalization a, axis 2)",
        opset=23,
        scale=(4,),
    ),
    frozen("Softmax over channels", "a = Softmax(h)", "it is normalised over (Softmax a, axis 2)"),
    frozen(
        "LpNormalization over channels", "a = LpNormalization(h)", "it is normalised over (LpNormalization a, axis 2)"
    ),
    Frozen(
        "GroupNormalization of one group",
        "(float[N,3,4,4] x) => (float[N,5,4,4] y) { c = Conv(x, wa)"
        " g = GroupNormalization <num_groups = 1> (c, scale, shift) y = Conv(g, wb) }",
        {"wa": (8, 3, 1, 1), "wb": (5, 8, 1, 1), "scale": (8,), "shift": (8,)},
        opset=21,
        reasons=("it is normalised over (GroupNormalization g, axis 1)",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_growth_beside_a_reduced_axis_keeps_the_function(case: Case) -> None:
    check_growth(case)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: c.name)
def test_what_cannot_grow_says_why(case: Frozen) -> None:
    check_frozen(case)
