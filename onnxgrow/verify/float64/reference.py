"""One node at a time through the operator implementations of ``onnx.reference``, for operators without an own kernel.

https://onnx.ai/onnx/api/reference.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.float64.kernels.registry import NoFloat64Error, RandomError, is_float64

__all__ = ["reference_operator"]

ROUNDED = frozenset({"LinearAttention"})
"""Operators whose implementation computes in float32 and hides it behind a float64 result."""

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def reference_operator(node: ir.Node, opset: int) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A callable that evaluates ``node`` (without subgraphs) on arrays.

    Raises:
        NoFloat64Error: ``onnx.reference`` has no implementation of it, or none that keeps float64.
    """
    op = node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
    if node.domain not in ("", "ai.onnx"):
        raise NoFloat64Error(op, "no float64 implementation")
    if op in RANDOM:
        raise RandomError(op, "its result is random")
    if op in ROUNDED:
        raise NoFloat64Error(op, "its reference implementation does not keep float64")
    proto = ir.to_proto(node)
    graph = onnx.GraphProto(name="node")
    for name in dict.fromkeys(n for n in proto.input if n):
        graph.input.add(name=name)
    for name in proto.output:
        if name:
            graph.output.add(name=name)
    graph.node.append(proto)
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.add(domain="", version=opset)
    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as e:  # the reference package raises kinds of its own, without a common base
        raise NoFloat64Error(op, f"no float64 implementation ({type(e).__name__})") from e
    names = [value.name if value is not None else "" for value in node.inputs]
    outputs = [value.name for value in node.outputs if value.name]
    positions = [i for i, value in enumerate(node.outputs) if value.name]

    def run(inputs: Sequence[Any]) -> tuple[Any, ...]:
        feeds = {name: x for name, x in zip(names, inputs, strict=True) if name}
        found = evaluator.run(outputs, feeds)
        widest = any(is_float64(x) for x in inputs)
        result: list[Any] = [None] * len(node.outputs)
        for position, y in zip(positions, found, strict=True):
            if isinstance(y, np.ndarray) and y.dtype in (np.float32, np.float16) and widest:
                raise NoFloat64Error(op, f"its reference implementation rounds to {y.dtype}")
            result[position] = to_float64(y) if isinstance(y, np.ndarray) else y
        return tuple(result)

    return run
