"""The fact "zero": it passes exactly the ops that map zero to zero."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_case import Array, Case, grow, more, reasons, rnd

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.verify.report import TierStatus

A = more(4, 2)


def test_a_sum_over_entries_proved_zero_passes() -> None:
    def make(fill: float) -> Case:
        return grow(
            "(float[3,5] x) => (float[3,1] y) { h = MatMul(x, w1) r = Relu(h) y = ReduceSum(r, a) }",
            {"w1": rnd(5, 4), "a": np.array([1])},
            {"w1": {1: A}},
            {"h": {1: A}, "r": {1: A}},
            fill={"w1": fill},
        )

    assert make(0.0).caught_by() == []
    assert make(1e-30).caught_by() == ["certificate"]


@pytest.mark.parametrize(
    ("op", "keeps"),
    [
        *[(op, True) for op in ("Abs", "Elu", "Erf", "Floor", "HardSwish", "Identity", "LeakyRelu", "Neg", "Selu")],
        *[(op, True) for op in ("Sign", "Sin", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Mish", "Celu")],
        *[(op, False) for op in ("Acos", "Cos", "Exp", "HardSigmoid", "Log", "Sigmoid", "Softplus", "Reciprocal")],
        ("Shrink<lambd=0.5, bias=1.0>", True),
        ("Shrink<lambd=-0.5, bias=1.0>", False),
        ("Cast<to=10>", True),
    ],
)
def test_zeros_pass_only_ops_that_keep_zero(op: str, keeps: bool) -> None:
    zero = AxisMap((Segment(4, 0), Segment(2, fact="zero")))
    text = "(float[3,5] x) => (float[3,2] y) {{ h = MatMul(x, w1) {} y = MatMul(v, w2) }}"
    call = op + "(h)"
    body = f"v0 = {call} v = Cast<to=1>(v0)" if op.startswith("Cast") else f"v = {call}"
    values = {"h": {1: A}, "v": {1: zero}} | ({"v0": {1: A}} if "v0" in body else {})
    case = grow(
        text.format(body),
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: A}, "w2": {0: A}},
        values,
        fill={"w1": 0.0},
        opset=18,
    )
    assert (case.certify().status is TierStatus.PASSED) == keeps, reasons(case.certify())


@pytest.mark.parametrize(
    ("body", "tensors", "keeps"),
    [
        ("v = Add(h, b)", {"b": np.zeros(1, np.float32)}, True),
        ("v = Add(h, b)", {"b": np.full(1, 1e-9, np.float32)}, False),
        ("v = Mul(h, b)", {"b": rnd(1)}, True),
        ("v = Mul(b, h)", {"b": rnd(1)}, True),
        ("v = Div(h, b)", {"b": rnd(1)}, True),
        ("v = Pow(h, b)", {"b": np.float32(2)}, True),
        ("v = Pow(h, b)", {"b": np.float32(0)}, False),
        ("v = Max(h, b)", {"b": np.float32(0)}, True),
        ("v = Max(h, b)", {"b": np.float32(0.1)}, False),
        ("v = Clip(h, lo)", {"lo": np.float32(-1)}, True),
        ("v = Clip(h, lo)", {"lo": np.float32(0.1)}, False),
        ("v = Clip(h, , hi)", {"hi": np.float32(-0.1)}, False),
    ],
)
def test_zeros_pass_elementwise_ops_by_their_operands(body: str, tensors: dict[str, Array], keeps: bool) -> None:
    case = grow(
        f"(float[3,5] x) => (float[3,2] y) {{ h = MatMul(x, w1) {body} y = MatMul(v, w2) }}",
        {"w1": rnd(5, 4), "w2": rnd(4, 2), **tensors},
        {"w1": {1: A}, "w2": {0: A}},
        {"h": {1: A}, "v": {1: AxisMap((Segment(4, 0), Segment(2, fact="zero")))}},
        fill={"w1": 0.0},
    )
    assert (case.certify().status is TierStatus.PASSED) == keeps, reasons(case.certify())
