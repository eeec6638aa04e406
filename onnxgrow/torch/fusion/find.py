"""Which chains of a graph run as one kernel each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxgrow.torch.fusion import activation, attention, linear, normalization
from onnxgrow.torch.fusion.chain import Facts, Fusion

__all__ = ["find_fusions"]

_MATCHERS: dict[str, tuple[Callable[[ir.Node, Facts], Iterator[Fusion]], ...]] = {
    "Add": (normalization.layer_norm, linear.linear),
    "Div": (normalization.layer_norm,),
    "Mul": (normalization.layer_norm, activation.gelu, activation.gated),
    "MatMul": (attention.attention,),
}
"""Type of a chain's last node → what recognises it, the longer chains first."""


def find_fusions(graph: ir.Graph, facts: Facts) -> dict[ir.Node, Fusion]:
    """Last node of a chain → its fusion, in one graph.

    A chain is only taken where nobody else reads the values inside it.
    """
    found: dict[ir.Node, Fusion] = {}
    taken: set[ir.Node] = set()
    # From the end, so that of two chains one of which continues the other the longer one is found.
    for node in reversed(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        for match in _MATCHERS.get(node.op_type, ()):
            fusion = next((f for f in match(node, facts) if _is_closed(f, node, graph, taken)), None)
            if fusion is not None:
                found[node] = fusion
                taken |= {node, *fusion.absorbed}
                break
    return found


def _is_closed(fusion: Fusion, last: ir.Node, graph: ir.Graph, taken: set[ir.Node]) -> bool:
    nodes = {last, *fusion.absorbed}
    return not nodes & taken and all(
        node.graph is graph
        and (
            node is last
            or all(not v.is_graph_output() and all(u.node in nodes for u in v.uses()) for v in node.outputs)
        )
        for node in nodes
    )
