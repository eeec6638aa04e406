"""Statistics of new batch-normalised channels follow the user's inputs, layer after layer."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from support import model_of

from onnxgrow.concrete.session import open_session
from onnxgrow.concrete.values import constants
from onnxgrow.passes import Proof, Widen

TEXT = (
    "g (float[N,2,6,6] x) => (float[N,3,6,6] y) {"
    " a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = BatchNormalization (a, s1, b1, m1, var1) c = Relu (b)"
    " d = Conv (c, w2) e = BatchNormalization (d, s2, b2, m2, var2) y = Conv (e, w3) }"
)
SHAPES = {"w1": (4, 2, 3, 3), "w2": (5, 4, 1, 1), "w3": (3, 5, 1, 1)}
NORMS = {f"{name}{i}": (n,) for i, n in ((1, 4), (2, 5)) for name in ("s", "b", "m", "var")}
INPUT = np.random.default_rng(0).normal(2.0, 3.0, (7, 2, 6, 6)).astype(np.float32)


def grown(inputs: dict[str, np.ndarray] | None) -> ir.Model:
    return Widen(add=3, proof=Proof(inputs=inputs)).grow(model_of(TEXT, SHAPES | NORMS)).model


def test_new_channels_come_out_with_mean_0_and_variance_1_before_scale_and_shift() -> None:
    model = grown({"x": INPUT})
    run = open_session(model, ["b", "e"]).run({"x": INPUT})
    for name, old in (("b", 4), ("e", 5)):
        new = run[name].numpy()
        assert new is not None
        new = np.asarray(new)[:, old:]
        assert np.abs(new.mean(axis=(0, 2, 3))).max() < 1e-3
        assert np.abs(new.std(axis=(0, 2, 3)) - 1).max() < 1e-2


def test_old_statistics_stay_bit_for_bit() -> None:
    before, after = constants(model_of(TEXT, SHAPES | NORMS)), constants(grown({"x": INPUT}))
    for name in NORMS:
        assert np.array_equal(np.asarray(after[name].numpy())[: NORMS[name][0]], np.asarray(before[name].numpy()))


def test_without_inputs_new_statistics_are_neutral() -> None:
    after = constants(grown(None))
    assert np.array_equal(np.asarray(after["m1"].numpy())[4:], np.zeros(3, np.float32))
    assert np.array_equal(np.asarray(after["var2"].numpy())[5:], np.ones(3, np.float32))
