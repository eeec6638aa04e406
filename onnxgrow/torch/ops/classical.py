"""Preprocessing of the ai.onnx.ml domain. Spec: https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html

Its numbers are attributes: they are computed with, and not trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onnxgrow.torch.registry import Context, Kernel, NodeSpec, register

__all__: list[str] = []


@register("Scaler", domain="ai.onnx.ml", context=True)
def scaler(op: NodeSpec) -> Kernel:
    """(x − offset) · scale, per feature or for all."""
    offset, scale = op.attr("offset") or [0.0], op.attr("scale") or [1.0]

    def run(context: Context, x: Tensor) -> Tensor:
        dtype = context.moved(torch.float32)
        low, step = (torch.tensor(v, dtype=dtype, device=x.device) for v in (offset, scale))
        return (x.to(dtype) - low) * step

    return run


@register("Normalizer", domain="ai.onnx.ml", context=True)
def normalizer(op: NodeSpec) -> Kernel:
    """Each row divided by its largest entry, the sum of its absolute entries, or its length."""
    kind = op.attr("norm", "MAX")
    if kind not in ("MAX", "L1", "L2"):
        op.fail(f"norm {kind}")

    def run(context: Context, x: Tensor) -> Tensor:
        x = x.to(context.moved(torch.float32))
        if kind == "MAX":
            norm = x.amax(-1, keepdim=True)
        else:
            norm = torch.linalg.vector_norm(x, 1 if kind == "L1" else 2, -1, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return run
