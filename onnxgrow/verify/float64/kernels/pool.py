"""Pools in float64.

Spec: https://onnx.ai/onnx/operators/onnx__MaxPool.html, …AveragePool.html, …LpPool.html, …GlobalAveragePool.html .
The reference implementation walks over every output cell in Python.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel
from onnxgrow.verify.float64.kernels.windows import pad, window_of

__all__: list[str] = []

_ALL = (slice(None), slice(None))


@kernel("MaxPool")
def _max_pool(call: Call) -> tuple[Array]:
    if call.uses_output(1):
        raise call.unsupported("the Indices output is not covered")
    x = call.inputs[0]
    window = window_of(call, x.shape[2:], call.attr("kernel_shape"))
    lowest = -np.inf if x.dtype == np.float64 else np.iinfo(x.dtype).min
    padded = pad(x, window, lowest)
    y = np.full((*x.shape[:2], *window.out), lowest, x.dtype)
    for _, cells in window.taps():
        np.maximum(y, padded[_ALL + cells], out=y)
    return (y,)


@kernel("AveragePool")
def _average_pool(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    window = window_of(call, x.shape[2:], call.attr("kernel_shape"))
    padded = pad(x, window, 0.0)
    # cells that count: the input, with count_include_pad also the explicit padding, never what ceil_mode adds
    counted = np.zeros((1, 1, *padded.shape[2:]))
    include = bool(call.attr("count_include_pad", 0))
    counted[
        _ALL
        + tuple(
            slice(0 if include else b, b + n + (e if include else 0))
            for b, n, e in zip(window.begins, x.shape[2:], window.ends, strict=True)
        )
    ] = 1.0
    total, count = np.zeros((*x.shape[:2], *window.out)), np.zeros((1, 1, *window.out))
    for _, cells in window.taps():
        total += padded[_ALL + cells]
        count += counted[_ALL + cells]
    return (total / count,)


@kernel("LpPool")
def _lp_pool(call: Call) -> tuple[Array]:
    x, p = call.inputs[0], call.attr("p", 2)
    window = window_of(call, x.shape[2:], call.attr("kernel_shape"))
    padded = pad(np.abs(x) ** p, window, 0.0)
    total = np.zeros((*x.shape[:2], *window.out))
    for _, cells in window.taps():
        total += padded[_ALL + cells]
    return (total ** (1.0 / p),)


@kernel("GlobalAveragePool")
def _global_average_pool(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),)


@kernel("GlobalMaxPool")
def _global_max_pool(call: Call) -> tuple[Array]:
    x = call.inputs[0]
    return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


@kernel("GlobalLpPool")
def _global_lp_pool(call: Call) -> tuple[Array]:
    x, p = call.inputs[0], call.attr("p", 2)
    return ((np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1.0 / p),)
