"""Gain: the factor on weights that makes up for what the activation after them does to the signal.

He et al. 2015 (https://arxiv.org/abs/1502.01852) derive it for ReLU as 1/√E[f(z)²], z ~ N(0, 1). Where no
value is established, the constants below are that expression, integrated numerically to 15 digits; a test
integrates again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from onnxgrow.errors import UsageError

__all__ = ["gain"]

_SQRT_2 = math.sqrt(2.0)

# Established: torch.nn.init.calculate_gain, https://docs.pytorch.org/docs/stable/nn.init.html. A sigmoid has
# gain 1 there by convention; SELU has 3/4 for training stability, though its second moment is 1.
_ESTABLISHED = {
    "Relu": _SQRT_2,
    "Tanh": 5.0 / 3.0,
    "Selu": 0.75,
    "Sigmoid": 1.0,
    "HardSigmoid": 1.0,
    "Identity": 1.0,
}

# 1/√E[f(z)²]. Swish, Celu and ThresholdedRelu are taken at their default alpha: for another one there is no
# closed form in exact operations, and an initial scale tolerates the difference (for Celu, every alpha lies
# between a linear unit's 1 and ReLU's √2).
_SECOND_MOMENT = {
    "Gelu": 1.5335304411955353,
    "FastGelu": 1.533580521666147,
    "QuickGelu": 1.5394587622988314,
    "Swish": 1.6765324703310913,
    "Silu": 1.6765324703310913,
    "HardSwish": 1.7366572127665416,
    "Mish": 1.486847581273208,
    "Celu": 1.2451983007007066,
    "Softplus": 1.0418668355353016,
    "Softsign": 2.3375333631085398,
    "ThresholdedRelu": 1.57990308176105,
    "Erf": 1.4671669504891385,
}

# E[(eᶻ − 1)²; z < 0] = e²Φ(−2) − 2√e·Φ(−1) + ½
_ELU_NEGATIVE_HALF = 0.14494541749292386


def _leaky(slope: float) -> float:
    return math.sqrt(2.0 / (1.0 + slope * slope))


def _elu(alpha: float) -> float:
    return math.sqrt(1.0 / (0.5 + alpha * alpha * _ELU_NEGATIVE_HALF))


# Op type → (attribute, its default, gain as a function of it). The slope of PRelu is an input in ONNX;
# callers that know it pass it as "slope", otherwise it is the value PReLU layers start from.
_PARAMETRIC: dict[str, tuple[str, float, Callable[[float], float]]] = {
    "LeakyRelu": ("alpha", 0.01, _leaky),
    "PRelu": ("slope", 0.25, _leaky),
    "Elu": ("alpha", 1.0, _elu),
}


def gain(activation: str | None, attributes: Mapping[str, object] | None = None) -> float:
    """Gain for weights that are followed by ``activation``.

    Args:
        activation: ONNX op type of the activation (``Silu``, ``QuickGelu`` and ``FastGelu`` are known too);
            None where none follows.
        attributes: The node's attributes as plain values; only ``alpha`` (LeakyRelu, Elu) and ``slope``
            (PRelu) are read, absent ones have the ONNX default.

    Returns:
        The gain, > 0; 1 for None and for an op type that is no known activation.

    Raises:
        UsageError: An attribute that is no finite number.
    """
    if activation is None:
        return 1.0
    if activation in _PARAMETRIC:
        name, default, rule = _PARAMETRIC[activation]
        return rule(_number(activation, name, (attributes or {}).get(name, default)))
    return _ESTABLISHED.get(activation, _SECOND_MOMENT.get(activation, 1.0))


def _number(activation: str, name: str, value: object) -> float:
    # Beyond this limit the squares leave the range of a float and the gain would become 0.
    if isinstance(value, int | float) and abs(value) < 1e100:
        return float(value)
    raise UsageError(activation, f"{name} = {value!r} is no number that gives a gain")
