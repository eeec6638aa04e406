"""What a pass does not look at, counted and named: nodes in bodies of control flow that are not analysed."""

from __future__ import annotations

from collections.abc import Collection

from onnxgrow.analysis import node_key
from onnxgrow.analysis.bodies import graphs_of
from onnxgrow.analysis.study import Study
from onnxgrow.concrete.bodies import Scopes

__all__ = ["left_out"]

NAMED = 3
"""How many are named."""


def left_out(found: Study, ops: Collection[str], what: str, *, bodies: bool = False) -> tuple[str, ...]:
    """A note on the nodes of some operators that a plan could not take into account; none where there are none.

    Args:
        found: The network.
        ops: The operators.
        what: What these nodes are, in the plural.
        bodies: Whether no body is looked into, even if it was analysed.
    """
    scopes = Scopes(found.model)
    seen = {()} if bodies else {path for path, _, _ in graphs_of(found.analysis)}
    missed = [
        f"{scopes.bodies[path].label}/{node.name or node_key(node)}"
        for path, graph in scopes.graphs.items()
        if path not in seen
        for node in graph
        if node.op_type in ops and node.domain in ("", "ai.onnx")
    ]
    if not missed:
        return ()
    more = ", …" * (len(missed) > NAMED)
    named = ", ".join(missed[:NAMED])
    return (f"{what} inside bodies of If, Loop or Scan are left out ({len(missed)}): {named}{more}",)
