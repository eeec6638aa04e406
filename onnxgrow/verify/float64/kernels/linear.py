"""Matrix products in float64.

Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html, …MatMul.html, …Einsum.html
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []


@kernel("Gemm")
def _gemm(call: Call) -> tuple[Array]:
    a, b, c = call.inputs[0], call.inputs[1], call.input(2)
    if call.attr("transA", 0):
        a = a.T
    if call.attr("transB", 0):
        b = b.T
    y = a @ b
    if call.attr("alpha", 1.0) != 1.0:
        y = y * call.attr("alpha")
    if c is None:
        return (y,)
    return (y + (c if call.attr("beta", 1.0) == 1.0 else c * call.attr("beta")),)


@kernel("MatMul")
def _matmul(call: Call) -> tuple[Array]:
    return (np.asarray(np.matmul(call.inputs[0], call.inputs[1])),)


@kernel("FusedMatMul", domain="com.microsoft")
def _fused_matmul(call: Call) -> tuple[Array]:
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise call.unsupported("transBatchA and transBatchB are not covered")
    a, b = call.inputs[:2]
    a = np.swapaxes(a, -1, -2) if call.attr("transA", 0) else a
    b = np.swapaxes(b, -1, -2) if call.attr("transB", 0) else b
    return (np.asarray(np.matmul(a, b) * call.attr("alpha", 1.0)),)


@kernel("Einsum")
def _einsum(call: Call) -> tuple[Array]:
    return (np.asarray(np.einsum(call.attr("equation"), *call.inputs, optimize=True)),)
