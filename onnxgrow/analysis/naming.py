"""Names for channel sets that a person recognises: those of the weights that write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

__all__ = ["unique", "weight_label"]

ANONYMOUS = re.compile(
    r"^(onnx::\w+|[A-Z][A-Za-z]+_|(?i:val|const|constant|tensor|initializer|param|arg|[a-z])[_.]?)?\d+$"
    r"|^[a-f0-9]{16,}$"
)
"""Names that exporters count up (``onnx::MatMul_123``, ``Conv_7``, ``val_7``, ``42``): they say nothing."""

SUFFIX = re.compile(
    r"([./_](weights?(_(v|orig))?|parametrizations[./]weight[./]original\d*|kernel|W|w|MatMul|Conv|Gemm|ReadVariableOp)"
    r"(:\d+)?)+$"
)
"""What a weight's name says beyond the layer's."""


def weight_label(weight: str, node: ir.Node) -> str:
    """Name of the layer a weight belongs to: from the weight's own name, else its node's, else its output's."""
    if not ANONYMOUS.match(weight):
        return SUFFIX.sub("", weight) or weight
    if node.name and not ANONYMOUS.match(node.name):
        return SUFFIX.sub("", node.name.strip("/")) or node.name
    output = next((o.name for o in node.outputs if o.name), "") or ""
    return output or node.name or weight


def unique(names: Iterable[str]) -> list[str]:
    """The names in order, the second and later ones of a name marked ``#2``, ``#3`` …"""
    names = list(names)
    taken = set(names)
    seen: dict[str, int] = {}
    out = []
    for name in names:
        count = seen.get(name, 0) + 1
        candidate = name
        if count > 1:
            while (candidate := f"{name}#{count}") in taken:
                count += 1
            taken.add(candidate)
        seen[name] = count
        out.append(candidate)
    return out
