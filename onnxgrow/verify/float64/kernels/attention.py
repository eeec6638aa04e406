"""Fused attention in float64: the reference implementation, with the scale that an attribute would state.

Spec: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.float64.kernels.registry import Call, kernel

__all__: list[str] = []


@kernel("Attention")
def _attention(call: Call) -> tuple[Any, ...]:
    """A scale that is left out is that of the head size, rounded to float32: stated and left out mean the same."""
    from onnxgrow.verify.float64.reference import reference_operator  # it needs this package itself

    node = call.node
    if "scale" not in node.attributes:
        q, heads = call.inputs[0], int(call.attr("q_num_heads", 0))
        size = q.shape[-1] if q.ndim == 4 else q.shape[-1] // max(heads, 1)
        scale = ir.AttrFloat32("scale", float(np.float32(1.0 / np.sqrt(size))))
        inputs = [None if value is None else ir.Value(name=value.name) for value in node.inputs]
        outputs = [ir.Value(name=value.name) for value in node.outputs]
        node = ir.Node("", "Attention", inputs, [*node.attributes.values(), scale], outputs=outputs)
    return reference_operator(node, call.opset)(call.inputs)
