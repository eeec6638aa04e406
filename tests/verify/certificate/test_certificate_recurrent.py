"""Recurrent nets, Einsum, indexing and zeros in boxes: what the pass grows is certified, and each fault is caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.concrete import concretize, pin_inputs
from onnxgrow.concrete.values import constants
from onnxgrow.passes.base import Grown
from onnxgrow.passes.widen import Widen
from onnxgrow.verify.certificate import certify
from onnxgrow.verify.report import TierResult, TierStatus

LSTM = (
    "(float[S,2,3] x) => (float[S,2,5] y) {"
    ' h, hn, cn = LSTM <hidden_size = 4, direction = "bidirectional"> (x, w, r, b)'
    " t = Transpose <perm = [0, 2, 1, 3]> (h) m = Reshape (t, to) y = MatMul (m, v) }"
)
LSTM_TENSORS = {"w": (2, 16, 3), "r": (2, 16, 4), "b": (2, 32), "v": (8, 5), "to": np.array([0, 2, 8], np.int64)}
GRU = (
    "(float[S,2,3] x) => (float[S,2,5] y) { h, hn = GRU <hidden_size = 4, linear_before_reset = 1> (x, w, r, b)"
    " m = Squeeze (h, one) y = MatMul (m, v) }"
)
GRU_TENSORS = {"w": (1, 12, 3), "r": (1, 12, 4), "b": (1, 24), "v": (4, 5), "one": np.array([1], np.int64)}
EINSUM = (
    '(float[N,6] x) => (float[N,3] y) { h = Einsum <equation = "ni,ij->nj"> (x, w)'
    ' y = Einsum <equation = "nj,jk->nk"> (h, v) }'
)
EINSUM_TENSORS = {"w": (6, 4), "v": (4, 3)}
FOLDED = (
    "(float[N,4] x) => (float[N,3] y) { a = MatMul (table, wa) b = Relu (a) c = MatMul (b, wb) d = Gather (c, row)"
    " h = MatMul (x, wc) s = Add (h, d) y = MatMul (s, wd) }"
)
FOLDED_TENSORS = {
    "table": (9, 3),
    "wa": (3, 40),
    "wb": (40, 6),
    "row": np.array([2], np.int64),
    "wc": (4, 6),
    "wd": (6, 3),
}
FUSED = (
    "(float[N,5,6] x) => (float[N,5,6] y) { f = MatMul (x, w) s = Reshape (f, to)"
    " t = Transpose <perm = [2, 0, 3, 1, 4]> (s)"
    " q = Gather <axis = 0> (t, zero) k = Gather <axis = 0> (t, one) u = Gather <axis = 0> (t, two)"
    " kt = Transpose <perm = [0, 1, 3, 2]> (k) a = MatMul (q, kt) p = Softmax <axis = -1> (a) o = MatMul (p, u)"
    " ot = Transpose <perm = [0, 2, 1, 3]> (o) m = Reshape (ot, back) y = MatMul (m, v) }"
)
FUSED_TENSORS = {
    "w": (6, 24),
    "v": (8, 6),
    "to": np.array([0, 5, 3, 2, 4], np.int64),
    "back": np.array([0, 5, 8], np.int64),
    **{name: np.array(i, np.int64) for i, name in enumerate(("zero", "one", "two"))},
}
CAST = FUSED.replace("a = MatMul (q, kt)", "c = Cast <to = 1> (q) a = MatMul (c, kt)")
KEPT = (  # the sum over what grew comes out on an axis that did not
    "(float[N,6] x) => (float[N,6] y) { a = MatMul (table, wa) b = Relu (a) c = MatMul (b, wb) y = MatMul (x, c) }"
)
KEPT_TENSORS = {"table": (6, 3), "wa": (3, 40), "wb": (40, 6)}


def judge(model: ir.Model, grown: Grown) -> TierResult:
    shapes = pin_inputs(model)
    return certify(model, grown.model, grown.growth_map, concretize(model, shapes), concretize(grown.model, shapes))


def grow(text: str, tensors: dict[str, object], add: int = 2) -> tuple[ir.Model, Grown]:
    model = model_of(f"g {text}", tensors)
    return model, Widen(add=add).grow(model)


def edit(grown: Grown, name: str, change: Callable[[np.ndarray], None]) -> None:
    values = np.array(constants(grown.model)[name].numpy())
    change(values)
    grown.model.graph.initializers[name].const_value = ir.Tensor(values, name=name)


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        (LSTM, LSTM_TENSORS),
        (GRU, GRU_TENSORS),
        (EINSUM, EINSUM_TENSORS),
        (FUSED, FUSED_TENSORS),
        (FOLDED, FOLDED_TENSORS),
        (CAST, FUSED_TENSORS),
        (KEPT, KEPT_TENSORS),
    ],
    ids=[
        *("LSTM", "GRU", "Einsum", "fused queries, keys and values", "a net on constants"),
        *("fused queries behind a Cast", "a net on constants that gives a matrix"),
    ],
)
def test_a_right_growth_is_certified(text: str, tensors: dict[str, object]) -> None:
    model, grown = grow(text, tensors)
    assert grown.growth_map.sets
    result = judge(model, grown)
    assert result.status is TierStatus.PASSED, result.findings


def leak_w(a: np.ndarray) -> None:
    a[0, 0, 5] = 1e-6  # unit 0 of the first gate reads new hidden unit 5


def leak_old_row(a: np.ndarray) -> None:
    a[0, 6, 4] = 1e-6  # unit 0 of the second gate


def old_entry(a: np.ndarray) -> None:
    a.reshape(-1)[0] = np.nextafter(a.reshape(-1)[0], np.float32(9))


def swap_gates(a: np.ndarray) -> None:
    a[0, [0, 6]] = a[0, [6, 0]]


@pytest.mark.parametrize(
    ("text", "tensors", "name", "change"),
    [
        (LSTM, LSTM_TENSORS, "r", leak_w),
        (LSTM, LSTM_TENSORS, "r", leak_old_row),
        (LSTM, LSTM_TENSORS, "r", old_entry),
        (LSTM, LSTM_TENSORS, "w", swap_gates),
        (LSTM, LSTM_TENSORS, "b", old_entry),
        (GRU, GRU_TENSORS, "r", leak_w),
        (EINSUM, EINSUM_TENSORS, "v", lambda a: a.__setitem__((5, 0), 1e-6)),
        (FUSED, FUSED_TENSORS, "w", lambda a: a.__setitem__((0, 4), 1e-6)),
        (FOLDED, FOLDED_TENSORS, "wb", lambda a: a.__setitem__((41, 0), 1e-6)),
        (FOLDED, FOLDED_TENSORS, "wa", old_entry),
        (CAST, FUSED_TENSORS, "w", lambda a: a.__setitem__((0, 4), 1e-6)),
        (KEPT, KEPT_TENSORS, "wb", lambda a: a.__setitem__((41, 0), 1e-6)),
        (KEPT, KEPT_TENSORS, "wa", old_entry),
    ],
    ids=[
        *("R leaks", "R leaks in another gate", "old R", "gates of W", "old B", "GRU leaks", "Einsum leaks"),
        *("queries", "a net on constants leaks", "an old entry of a net on constants", "queries behind a Cast"),
        *("a net on constants that gives a matrix leaks", "an old entry of a net that gives a matrix"),
    ],
)
def test_a_fault_is_caught(
    text: str, tensors: dict[str, object], name: str, change: Callable[[np.ndarray], None]
) -> None:
    model, grown = grow(text, tensors)
    edit(grown, name, change)
    assert judge(model, grown).status is TierStatus.FAILED


def test_a_hidden_size_that_is_wrong_is_caught() -> None:
    model, grown = grow(LSTM, LSTM_TENSORS)
    node = next(n for n in grown.model.graph if n.op_type == "LSTM")
    node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", 5)
    assert judge(model, grown).status is TierStatus.FAILED


def test_zeros_that_an_einsum_writes_are_proved_and_nothing_less() -> None:
    model = model_of(f"g {EINSUM}", EINSUM_TENSORS)
    grown = Widen("w", add=2, method="zero-fan-in").grow(model)
    assert judge(model, grown).status is TierStatus.PASSED
    edit(grown, "w", lambda a: a.__setitem__((3, 5), 1e-6))
    assert judge(model, grown).status is TierStatus.FAILED
