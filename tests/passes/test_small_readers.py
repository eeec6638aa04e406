"""Weights far smaller than a standard initialisation that read normalised means: what is new beside them stays small.

New channels of a normalised mean are zero, but for roundings. SAM's encoder, for one, starts from weights of 1e-10.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from stream_nets import DENSE, LN1, WEIGHTS, N
from support import model_of

from onnxgrow.concrete.values import constants
from onnxgrow.errors import NotEquivalentError
from onnxgrow.passes import Widen
from onnxgrow.passes.values import TensorGrower
from onnxgrow.verify.report import TierStatus, Verdict

READERS = {
    "MatMul": (" t = MatMul(n1, w)", (N, 5)),
    "Gemm, transposed": (" t = Gemm <transB = 1> (n1, w)", (5, N)),
    "behind a Transpose": (" wt = Transpose(w) t = MatMul(n1, wt)", (5, N)),
}


def network(reader: str, size: float) -> ir.Model:
    text, shape = READERS[reader]
    weight = np.random.default_rng(3).normal(size=shape).astype(np.float32) * np.float32(size)
    used = {k: WEIGHTS[k] for k in ("w0", "b0", "g1", "c1")} | {"w": weight, "w5": (5, 3)}
    return model_of(DENSE + LN1 + text + " r = Relu(t) y = MatMul(r, w5) }", used)


def step() -> Widen:
    return Widen(residual=True, add=4)


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_nearly_zeros_is_no_larger_than_the_weight(reader: str) -> None:
    model = network(reader, 1e-10)
    result = step()(model)
    assert result.report.verdict is Verdict.EQUIVALENT, result.report.tiers
    assert all(a.alive for a in result.report.alive)
    grown = constants(result.model)["w"].numpy()
    if READERS[reader][1][0] != N:
        grown = grown.T
    assert grown.shape == (N + 4, 9)
    read = np.abs(grown[N:, :5])
    assert 1e-11 < read.max() < 1e-9
    assert np.abs(grown[:N, 5:]).max() > 1e-2, "new outputs start as large as ever"


@pytest.mark.parametrize("reader", READERS)
def test_drawn_as_large_as_ever_they_make_noise_a_signal(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorGrower, "_no_larger", lambda *_: [])
    with pytest.raises(NotEquivalentError) as refused:
        step()(network(reader, 1e-10))
    report = refused.value.report
    assert report.tier("certificate").status is TierStatus.PASSED, "in exact arithmetic nothing is wrong"
    assert report.tier("float64").status is TierStatus.FAILED


def test_weights_of_usual_size_or_all_zero_are_drawn_beside_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (100.0, 0.0):
        model = network("MatMul", size)
        usual = constants(step().grow(model).model)["w"].numpy()
        with monkeypatch.context() as patch:
            patch.setattr(TensorGrower, "_no_larger", lambda *_: [])
            plain = constants(step().grow(model).model)["w"].numpy()
        assert np.array_equal(usual, plain)
        assert np.abs(usual[N:, :5]).max() > 1e-2
