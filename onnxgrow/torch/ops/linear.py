"""Matrix products. Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html and its neighbours"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 # PyTorch's own convention

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


@register("MatMul", weights=None)
def matmul(op: NodeSpec) -> Kernel:
    return torch.matmul


@register("Gemm", weights=None)
def gemm(op: NodeSpec) -> Kernel:
    """Y = α A B + β C with optional transposes."""
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    transposed_a, transposed_b = bool(op.attr("transA", 0)), bool(op.attr("transB", 0))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if transposed_a else a
        if alpha == 1.0 and (c is None or (beta == 1.0 and c.dim() == 1)):
            return F.linear(a, b if transposed_b else b.t(), c)
        y = alpha * torch.matmul(a, b.t() if transposed_b else b)
        return y if c is None else y + beta * c

    return run


@register("Einsum", weights=None)
def einsum(op: NodeSpec) -> Kernel:
    equation = op.attr("equation").replace(" ", "")
    return lambda *xs: torch.einsum(equation, *xs)


@register("FusedMatMul", domain="com.microsoft", weights=None)
def fused_matmul(op: NodeSpec) -> Kernel:
    alpha = op.attr("alpha", 1.0)
    transposed_a, transposed_b = bool(op.attr("transA", 0)), bool(op.attr("transB", 0))
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        op.fail("batch axes are transposed")

    def run(a: Tensor, b: Tensor) -> Tensor:
        a = a.transpose(-1, -2) if transposed_a else a
        y = torch.matmul(a, b.transpose(-1, -2) if transposed_b else b)
        return y if alpha == 1.0 else alpha * y

    return run


@register("FusedGemm", domain="com.microsoft", weights=None)
def fused_gemm(op: NodeSpec) -> Kernel:
    product, name = gemm(op), op.attr("activation", "")
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "Relu": F.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "": lambda x: x,
    }
    if name not in functions:
        op.fail(f"activation {name}")
    function = functions[name]
    return lambda a, b, c=None: function(product(a, b, c))


@register("Det")
def det(op: NodeSpec) -> Kernel:
    return torch.linalg.det
