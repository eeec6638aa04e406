"""The equation of an Einsum, read as the spec says.

Spec: https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["letters"]


def letters(node: ir.Node) -> tuple[list[str], str]:
    """The letters of every operand and of the result of an Einsum; an ellipsis stays as its dots."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        every = "".join(terms)
        result = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    return terms, result
