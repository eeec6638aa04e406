"""LSTM, GRU and RNN: the hidden size is one channel set, repeated for every gate and shared by both directions.

Rows of W, R and B are gates × hidden; old rows of R must not read new columns, as with every weight.
Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html and its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrow.algebra import Term
from onnxgrow.rules.context import NodeContext, Terms, Unsuitable
from onnxgrow.rules.registry import register

__all__: list[str] = []

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PEEPHOLES = 3


@register("LSTM", "GRU", "RNN")
def recurrent(op: NodeContext) -> Sequence[Terms | None]:
    """X [seq, batch, in], W [dirs, gates·hidden, in], R [dirs, gates·hidden, hidden], B [dirs, 2·gates·hidden]."""
    if not (op.is_constant(1) and op.is_constant(2)):
        raise Unsuitable("a weight that is computed")
    gates = GATES[op.node.op_type]
    batch_first = bool(op.attr("layout", 0))
    x, w, r = op.terms(0), op.terms(1), op.terms(2)
    hidden, directions = r[2], w[0]
    op.freeze(x[0 if batch_first else 1 :][:1], "it is the batch", 0 if batch_first else 1)
    op.freeze(x[1 if batch_first else 0 :][:1], "it is the sequence", 1 if batch_first else 0)
    op.freeze([directions], "it counts directions")
    op.unify(x[2], w[2], "its input features do not line up")
    for terms in (w, r):
        op.unify(terms[0], directions)
        op.unify(terms[1], _gated(op, gates, hidden), "its rows are no gates")
    op.linear(1, [1], [2], data=0)
    op.linear(2, [1], [2], data=0)
    if op.has(3):
        op.unify(op.terms(3)[1], _gated(op, 2 * gates, hidden), "its bias is no gates")
        op.fill(3, 0.0)
    state_axis = 2
    for i in (5, 6):
        if op.has(i) and (i == 5 or op.node.op_type == "LSTM"):
            op.unify(op.terms(i)[state_axis], hidden, "its initial state does not line up")
            op.fill(i, 0.0)
    if op.node.op_type == "LSTM" and op.has(7):
        op.unify(op.terms(7)[1], _gated(op, PEEPHOLES, hidden), "its peepholes are no gates")
        op.fill(7, 0.0)
    op.attribute("hidden_size", lambda growth: op.size(hidden, growth) if op.grows(hidden, growth) else _size(op))
    return _outputs(op, directions, hidden, batch_first)


def _size(op: NodeContext) -> int | None:
    value = op.attr("hidden_size")
    return None if value is None else int(value)


def _gated(op: NodeContext, gates: int, hidden: Term) -> Term:
    return op.forest.product((op.fresh(gates, "it counts gates", 1), hidden))


def _outputs(op: NodeContext, directions: Term, hidden: Term, batch_first: bool) -> list[Terms | None]:
    x = op.terms(0)
    sequence, batch = (x[1], x[0]) if batch_first else (x[0], x[1])
    whole = [batch, sequence, directions, hidden] if batch_first else [sequence, directions, batch, hidden]
    last = [batch, directions, hidden] if batch_first else [directions, batch, hidden]
    out: list[Terms | None] = [whole, last, list(last)]
    return out[: len(op.node.outputs)]
