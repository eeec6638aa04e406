"""LSTM, GRU and RNN: one map of the hidden units explains every gate block, both directions and all outputs.

Rows of W, R and B are gates × hidden units. Old units must read exactly the old features and the old units: the
weight entries (old row × new column) are zero in W and in R. Then the state of old units never sees a new one, at any
step. Specs: https://onnx.ai/onnx/operators/onnx__LSTM.html, __GRU.html and __RNN.html.
"""

from __future__ import annotations

import numpy as np

from onnxgrow.verify.certificate.axis import Axis, IntArray
from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.compare import nonzero
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.state import Proved

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PEEPHOLES = 3


@register("LSTM", "GRU", "RNN")
def check_recurrent(pair: Pair) -> None:
    pair.same_attributes("hidden_size")
    gates = _GATES[pair.node.op_type]
    x, w, r = pair.input(0), pair.input(1), pair.input(2)
    require(len(x.axes) == len(w.axes) == len(r.axes) == 3, "an operand is not three-dimensional")
    hidden = r.axes[2]
    size, old_size = pair.int_attribute("hidden_size", hidden.size if hidden.identity else -1)
    require(
        (size, old_size) == (hidden.size, hidden.old_size) or (hidden.identity and size == old_size),
        "attribute 'hidden_size' is not the number of hidden units",
    )
    batch_first = pair.same_int_attribute("layout", 0) == 1
    pair.identity((0,), w, "the weight")
    agree(x.axes[2], w.axes[2], "the features of input and weight")
    for state, what in ((w, "W"), (r, "R")):
        pair.identity((0,), state, what)
        _rows(state.axes[1], gates, hidden, what)
    _isolated(pair, 1, x, w)
    _isolated(pair, 2, None, r)
    _parameters(pair, gates, hidden)
    if pair.has(4):
        require(pair.input(4).identity, "the sequence lengths grew")
    directions = w.axes[0]
    batch, sequence = (x.axes[0], x.axes[1]) if batch_first else (x.axes[1], x.axes[0])
    whole = [batch, sequence, directions, hidden] if batch_first else [sequence, directions, batch, hidden]
    last = [batch, directions, hidden] if batch_first else [directions, batch, hidden]
    require(batch.identity and sequence.identity, "the batch or the sequence grew")
    _states(pair, last)
    for index, claim in pair.claims.items():
        expected = whole if index == 0 else last
        require(len(claim.axes) == len(expected), "the rank of an output does not follow from the inputs")
        for number, (a, b) in enumerate(zip(claim.axes, expected, strict=True)):
            agree(a, b, f"axis {number} of output {index}")


def _rows(axis: Axis, blocks: int, hidden: Axis, what: str) -> None:
    """An axis must be ``blocks`` × hidden units, every block mapped alike."""
    starts = np.arange(blocks, dtype=np.int64)[:, None] * hidden.old_size
    expected: IntArray = np.where(hidden.source < 0, -1, starts + hidden.source).reshape(-1)
    require(np.array_equal(axis.source, expected), f"the gates of {what} do not follow the hidden units")


def _isolated(pair: Pair, index: int, data: Proved | None, weight: Proved) -> None:
    """Old rows must be zero where they would read a new column, unless the data are zero there."""
    columns = weight.axes[2]
    if columns.identity:
        return
    open_columns = columns.new if data is None else columns.new & ~data.zero(2)
    new = np.flatnonzero(open_columns)
    rows = np.flatnonzero(weight.axes[1].source >= 0)
    if not new.size or not rows.size:
        return
    reader = pair.reader(index)
    require(reader is not None, f"input {index} is computed, and old units may read new columns of it")
    assert reader is not None
    found = nonzero(reader, {1: rows, 2: new}, pair.tally)
    require(not found.any(), f"old units read new columns of input {index}: the weight is not zero there")


def _parameters(pair: Pair, gates: int, hidden: Axis) -> None:
    for index, blocks, what in ((3, 2 * gates, "B"), (7, _PEEPHOLES, "P")):
        if index < len(pair.node.inputs) and pair.has(index):
            state = pair.input(index)
            require(len(state.axes) == 2 and state.axes[0].identity, f"{what} is not directions by gates")
            _rows(state.axes[1], blocks, hidden, what)


def _states(pair: Pair, expected: list[Axis]) -> None:
    for index in (5, 6):
        if index < len(pair.node.inputs) and pair.has(index):
            state = pair.input(index)
            require(len(state.axes) == len(expected), f"input {index} has another rank than the state")
            for number, (a, b) in enumerate(zip(state.axes, expected, strict=True)):
                agree(a, b, f"axis {number} of input {index}")
