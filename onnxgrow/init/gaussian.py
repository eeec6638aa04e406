"""Schemes that draw every value from N(0, σ²) and differ only in σ."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxgrow.init.bits import Key, raw_bits
from onnxgrow.init.registry import FillRequest, register
from onnxgrow.init.transform import normal

__all__ = ["kaiming", "lecun", "scaled_normal", "xavier"]

Float64 = npt.NDArray[np.float64]


def scaled_normal(key: Key, start: int, count: int, sigma: float) -> Float64:
    """Values ``start`` … ``start + count − 1`` of the N(0, ``sigma``²) stream of ``key``; float64, shape
    (count,)."""
    values = normal(raw_bits(key, start, count))
    values *= sigma
    return values


@register("kaiming", "https://arxiv.org/abs/1502.01852")
def kaiming(request: FillRequest, start: int, count: int) -> Float64:
    """He et al. 2015, fan-in mode: σ = gain/√fan_in."""
    return scaled_normal(request.key, start, count, request.gain / math.sqrt(request.fan_in))


@register("xavier", "https://proceedings.mlr.press/v9/glorot10a.html")
def xavier(request: FillRequest, start: int, count: int) -> Float64:
    """Glorot and Bengio 2010: σ = gain·√(2/(fan_in + fan_out))."""
    sigma = request.gain * math.sqrt(2.0 / (request.fan_in + request.fan_out))
    return scaled_normal(request.key, start, count, sigma)


@register("lecun", "http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf")
def lecun(request: FillRequest, start: int, count: int) -> Float64:
    """LeCun et al. 1998, "Efficient BackProp": σ = 1/√fan_in whatever the gain."""
    return scaled_normal(request.key, start, count, 1.0 / math.sqrt(request.fan_in))
