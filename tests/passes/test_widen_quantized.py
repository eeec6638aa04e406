"""Quantised networks end to end: grown, proved by every tier, alive; and the faults that a wrong zero would be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.concrete.values import constants
from onnxgrow.errors import NotEquivalentError, UnsupportedError
from onnxgrow.io import copy_model
from onnxgrow.passes.rewriter import Rewriter
from onnxgrow.passes.widen import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

QDQ = (
    "g (float[N,6] x) => (float[N,3] y) { qx = QuantizeLinear(x, sx, zx) dx = DequantizeLinear(qx, sx, zx)"
    " a = DequantizeLinear <axis = 1> (wa, sa, za) m = MatMul(dx, a) r = Relu(m)"
    " qh = QuantizeLinear(r, sh, zh) h = DequantizeLinear(qh, sh, zh)"
    " b = DequantizeLinear(wb, sb, zb) y = MatMul(h, b) }"
)
ATTENTION = (
    "g (float[2,5,6] x) => (float[2,5,3] y) { q = MatMul(x, wq) dk = DequantizeLinear(wk, s, z) k = MatMul(x, dk)"
    " qk = QuantizeLinear(k, s, z) k2 = DequantizeLinear(qk, s, z)"
    " qq = QuantizeLinear(q, s, z) q2 = DequantizeLinear(qq, s, z) t = Transpose <perm = [0, 2, 1]> (k2)"
    " a = MatMul(q2, t) p = Softmax(a) y = MatMul(p, v) }"
)


def integers(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(shape[0]).integers(0, 255, shape).astype(dtype)


def quantised() -> ir.Model:
    return model_of(
        QDQ,
        {
            "wa": integers((6, 4)),
            "sa": np.full(4, 0.01, np.float32),
            "za": np.array([9, 120, 128, 130], np.uint8),
            "wb": integers((4, 3)),
            "sb": np.float32(0.02),
            "zb": np.uint8(7),
            "sx": np.float32(0.03),
            "zx": np.uint8(128),
            "sh": np.float32(0.05),
            "zh": np.uint8(3),
        },
    )


def test_a_quantised_network_grows_proved_by_all_tiers_and_alive() -> None:
    result = Widen(add=3)(quantised())
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [r.alive for r in result.report.alive] == [3]
    held = {name: tensor.numpy() for name, tensor in constants(result.model).items()}
    assert {name: held[name].dtype for name in ("wa", "wb", "za")} == dict.fromkeys(("wa", "wb", "za"), np.uint8)
    assert held["za"].tolist() == [9, 120, 128, 130, 9, 9, 9]
    assert np.array_equal(held["wb"][4:], np.full((3, 3), 7)), "a hard zero is the zero point"
    assert len(np.unique(held["wa"][:, 4:])) > 4, "new entries differ"


def test_queries_and_keys_grow_through_quantised_activations() -> None:
    model = model_of(
        ATTENTION,
        {"wq": (6, 4), "wk": integers((6, 4)), "v": (2, 5, 3), "s": np.float32(0.02), "z": np.uint8(77)},
    )
    result = Widen(add=2)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [r.alive for r in result.report.alive] == [2]


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("wb", lambda a: np.where(np.arange(7)[:, None] == 5, 0, a)),
        ("wb", lambda a: a + (np.indices(a.shape).sum(0) == 8)),
        ("zb", lambda a: a + 1),
        ("za", lambda a: a + (np.arange(7) == 0)),
        ("sa", lambda a: a * np.where(np.arange(7) == 1, np.float32(1.0001), 1)),
        ("wa", lambda a: a + (np.indices(a.shape).sum(0) == 0)),
    ],
    ids=["0 for the zero point", "one zero moved", "the zero point", "old zero point", "old scale", "old weight"],
)
def test_the_certificate_sees_faults_in_quantised_weights(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    model = quantised()
    grown = copy_model(Widen(add=3)(model).model)
    old = constants(grown)[name].numpy()
    Rewriter(grown).set_constant(name, ir.Tensor(edit(old).astype(old.dtype), name=name))
    report = verify(model, grown)
    tier = next(t for t in report.tiers if t.name == "certificate")
    assert tier.status is TierStatus.FAILED


@pytest.mark.parametrize("method", ["net2wider", "near-zero"])
def test_inexact_methods_have_no_values_for_quantised_weights(method: str) -> None:
    with pytest.raises((UnsupportedError, NotEquivalentError), match="quantised weight"):
        Widen(add=3, method=method, scale=0.01 if method == "near-zero" else None)(quantised())
