"""Gains: established values, and derived ones against a numerical integration."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from onnxgrow.errors import UsageError
from onnxgrow.init.gain import gain


def second_moment(f: Callable[[float], float]) -> float:
    """E[f(z)²], z ~ N(0, 1), by Simpson's rule between whole numbers, where all kinks of f lie."""
    steps, terms = 200, []
    for left in range(-12, 12):
        for i in range(steps + 1):
            # A jump at a kink belongs to the piece it bounds: stay inside by a hair.
            z = left + min(max(i / steps, 1e-12), 1 - 1e-12)
            weight = 1 if i in (0, steps) else 4 if i % 2 else 2
            terms.append(weight * f(z) ** 2 * math.exp(-z * z / 2))
    return math.fsum(terms) / (3 * steps * math.sqrt(2 * math.pi))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


DERIVED: list[tuple[str, dict[str, object], Callable[[float], float]]] = [
    ("Relu", {}, lambda z: max(z, 0.0)),
    ("LeakyRelu", {}, lambda z: max(z, 0.01 * z)),
    ("LeakyRelu", {"alpha": 0.3}, lambda z: max(z, 0.3 * z)),
    ("PRelu", {}, lambda z: max(z, 0.25 * z)),
    ("Elu", {}, lambda z: z if z > 0 else math.expm1(z)),
    ("Elu", {"alpha": 0.5}, lambda z: z if z > 0 else 0.5 * math.expm1(z)),
    ("Celu", {}, lambda z: z if z > 0 else math.expm1(z)),
    ("ThresholdedRelu", {}, lambda z: z if z > 1 else 0.0),
    ("Gelu", {}, lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2))),
    (
        "FastGelu",
        {},
        lambda z: 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    ),
    ("QuickGelu", {}, lambda z: z * sigmoid(1.702 * z)),
    ("Swish", {}, lambda z: z * sigmoid(z)),
    ("Silu", {}, lambda z: z * sigmoid(z)),
    ("HardSwish", {}, lambda z: z * min(1.0, max(0.0, z / 6 + 0.5))),
    ("Mish", {}, lambda z: z * math.tanh(softplus(z))),
    ("Softplus", {}, softplus),
    ("Softsign", {}, lambda z: z / (1 + abs(z))),
    ("Erf", {}, math.erf),
    ("Identity", {}, lambda z: z),
]


@pytest.mark.parametrize(("op", "attributes", "f"), DERIVED, ids=[f"{op}{a}" for op, a, _ in DERIVED])
def test_gain_is_the_inverse_root_of_the_second_moment(
    op: str, attributes: dict[str, object], f: Callable[[float], float]
) -> None:
    assert gain(op, attributes) == pytest.approx(1 / math.sqrt(second_moment(f)), rel=1e-8)


def test_the_integration_tells_similar_activations_apart() -> None:
    exact_gelu = second_moment(lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2)))
    assert gain("FastGelu") != pytest.approx(1 / math.sqrt(exact_gelu), rel=1e-8)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (None, 1.0),
        ("Relu", math.sqrt(2)),
        ("Tanh", 5 / 3),
        ("Selu", 0.75),
        ("Sigmoid", 1.0),
        ("HardSigmoid", 1.0),
        ("SomethingUnheardOf", 1.0),
    ],
)
def test_established_gains(op: str | None, expected: float) -> None:
    assert gain(op, {}) == expected
    assert gain(op) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200, 10**400, "0.1", None, [0.1]])
@pytest.mark.parametrize(("op", "name"), [("LeakyRelu", "alpha"), ("Elu", "alpha"), ("PRelu", "slope")])
def test_an_attribute_that_is_no_usable_number_is_refused(op: str, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"USAGE: {op}: {name}"):
        gain(op, {name: value})
