"""Schemes that draw every value from N(0, σ²) and differ only in σ."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.registry import FillRequest, Sigma, register
from onnxgrow.init.transform import normal

__all__ = ["kaiming", "lecun", "scaled_normal", "xavier"]

Float64 = npt.NDArray[np.float64]


def scaled_normal(key: Key, start: int, count: int, sigma: float) -> Float64:
    """Values ``start`` … ``start + count − 1`` of the N(0, ``sigma``²) stream of ``key``; float64, shape
    (count,)."""
    values = normal(raw_bits(key, start, count))
    values *= sigma
    return values


def _register(name: str, reference_url: str) -> Callable[[Sigma], Sigma]:
    """Decorator that makes the scheme ``name`` of a function that gives its σ."""

    def add(sigma: Sigma) -> Sigma:
        def rule(request: FillRequest, start: int, count: int) -> Float64:
            return scaled_normal(request.key, start, count, sigma(request))

        register(name, reference_url, sigma=sigma)(rule)
        return sigma

    return add


@_register("kaiming", "https://arxiv.org/abs/1502.01852")
def kaiming(request: FillRequest) -> float:
    """He et al. 2015, fan-in mode: σ = gain/√fan_in."""
    return request.gain / math.sqrt(request.fan_in)


@_register("xavier", "https://proceedings.mlr.press/v9/glorot10a.html")
def xavier(request: FillRequest) -> float:
    """Glorot and Bengio 2010: σ = gain·√(2/(fan_in + fan_out))."""
    return request.gain * math.sqrt(2.0 / (request.fan_in + request.fan_out))


@_register("lecun", "http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf")
def lecun(request: FillRequest) -> float:
    """LeCun et al. 1998, "Efficient BackProp": σ = 1/√fan_in whatever the gain."""
    return 1.0 / math.sqrt(request.fan_in)
