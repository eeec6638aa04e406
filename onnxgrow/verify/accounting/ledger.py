"""What a comparison in progress knows and has found."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.findings import Findings

__all__ = ["Ledger", "input_names", "key_of"]


def key_of(node: ir.Node) -> str:
    """What the growth map calls a node: its first named output."""
    return next((value.name for value in node.outputs if value.name), "")


def input_names(node: ir.Node) -> list[str]:
    """Names of a node's inputs; empty where there is none."""
    return [value.name or "" if value is not None else "" for value in node.inputs]


class Ledger(Findings):
    """Both models, the growth map, and the findings so far.

    Attributes:
        old_nodes, new_nodes: By :func:`key_of`.
        inserted, removed: Keys of the nodes that the growth map lists so.
        figures: What was compared.
    """

    def __init__(self, original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> None:
        super().__init__()
        self.original, self.grown, self.map = original, grown, growth_map
        self.old_nodes = {key_of(node): node for node in original.graph}
        self.new_nodes = {key_of(node): node for node in grown.graph}
        self.inserted, self.removed = set(growth_map.inserted), set(growth_map.removed)
        self.figures: dict[str, Any] = {
            "nodes_compared": 0,
            "nodes_inserted": len(self.inserted),
            "nodes_removed": len(self.removed),
            "tensors_equal": 0,
            "tensors_listed": len(growth_map.tensors),
            "values_listed": len(growth_map.values),
        }

    def expect(self, difference: str, subject: str) -> None:
        """Note a difference, where there is one."""
        if difference:
            self.fault(subject, difference)

    def in_original(self, key: str) -> bool:
        """Whether the original has a node or an initializer of this name."""
        return key in self.old_nodes or key in self.original.graph.initializers
