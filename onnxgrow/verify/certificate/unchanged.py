"""Nodes without a checker: they may only see and make what did not grow, and then nothing about them can change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnxgrow.verify.certificate.equality import attributes_difference
from onnxgrow.verify.certificate.side import attribute_graphs, captures, input_names
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved

__all__ = ["Relate", "unchanged", "why_changed"]

Relate = Callable[[str, str], Proved]
"""Value of the result, value of the original → how the one stands for the other; raises ProofError."""


def unchanged(node: ir.Node, original: ir.Node, claims: Mapping[int, Claim], relate: Relate) -> bool:
    """Whether the node is the original's and sees and makes only what did not grow: then nothing can change."""
    if not all(claim.identity for claim in claims.values()):
        return False
    if len(node.outputs) != len(original.outputs):
        return False
    names, old_names = input_names(node), input_names(original)
    if len(names) != len(old_names) or any(bool(a) != bool(b) for a, b in zip(names, old_names, strict=True)):
        return False
    if attributes_difference(original.attributes, node.attributes):
        return False
    pairs = [(a, b) for a, b in zip(names, old_names, strict=True) if a]
    # Bodies are equal, so what they capture has the same names in both models.
    pairs += [(name, name) for body in attribute_graphs(node) for name in sorted(captures(body))]
    try:
        return all(relate(a, b).identity for a, b in pairs)
    except ProofError:
        return False


def why_changed(node: ir.Node, original: ir.Node, relate: Relate) -> str:
    """What keeps a node without a rule from being trivially the same."""
    difference = attributes_difference(original.attributes, node.attributes)
    if difference:
        return f" ({difference})"
    for a, b in zip(input_names(node), input_names(original), strict=False):
        if a:
            try:
                if not relate(a, b).identity:
                    return f" (input {a!r} grew)"
            except ProofError as fault:
                return f" ({fault})"
    for body in attribute_graphs(node):
        for name in sorted(captures(body)):
            try:
                if not relate(name, name).identity:
                    return f" (its body reads {name!r}, which grew)"
            except ProofError as fault:
                return f" ({fault})"
    return ""
