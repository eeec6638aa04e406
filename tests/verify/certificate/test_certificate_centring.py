"""Which values the certificate takes for the mean of another one."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_case import text_model

from onnxgrow.concrete.infer import concretize
from onnxgrow.verify.certificate.checkers.centring import own_mean
from onnxgrow.verify.certificate.side import Side

SHAPES = {"w": (4, 2, 3), "square": (3, 3), "row": (1, 4, 6)}
COLUMN, SIX, FIVE = np.array([-1, 1, 1]), np.float32(6), np.float32(5)

CASES = {
    "in place": ("m = ReduceMean <axes = [1, 2], keepdims = 1> (w)", "w", None, {1, 2}),
    "laid by a reshape": ("r = ReduceMean <axes = [1, 2], keepdims = 0> (w) m = Reshape(r, column)", "w", None, {1, 2}),
    "a sum over its terms": (
        "s = ReduceSum <keepdims = 0> (w, axes) r = Div(s, six) m = Reshape(r, column)",
        "w",
        None,
        {1, 2},
    ),
    "a sum over another number": (
        "s = ReduceSum <keepdims = 0> (w, axes) r = Div(s, five) m = Reshape(r, column)",
        "w",
        None,
        None,
    ),
    "a sum": ("m = ReduceSum <keepdims = 1> (w, axes)", "w", None, None),
    "of another value": ("m = ReduceMean <axes = [1, 2], keepdims = 1> (w)", "other", None, None),
    "beside the rows it is of": ("m = ReduceMean <axes = [1], keepdims = 0> (square)", "square", None, None),
    "over the rows": ("m = ReduceMean <axes = [0], keepdims = 0> (square)", "square", None, {0}),
    "turned": ("r = ReduceMean <axes = [1], keepdims = 1> (square) m = Transpose(r)", "square", None, None),
    "multiplied": ("r = ReduceMean <axes = [1, 2], keepdims = 1> (w) m = Mul(r, five)", "w", None, None),
    "a vector of channels": ("m = ReduceMean <axes = [0, 2], keepdims = 0> (row)", "row", 1, {2}),
    "a vector of other channels": ("m = ReduceMean <axes = [0, 1], keepdims = 0> (row)", "row", 1, None),
    "channels over a part": ("m = ReduceMean <axes = [0], keepdims = 0> (square)", "square", 0, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mean_is_one_of_that_value_over_those_axes_laid_in_its_place(name: str) -> None:
    nodes, x, channel, wanted = CASES[name]
    tensors = {k: np.ones(n, np.float32) for k, n in {**SHAPES, "other": (4, 2, 3)}.items()}
    tensors |= {"column": COLUMN, "axes": np.array([1, 2]), "six": SIX, "five": FIVE}
    model = text_model(f"(float[1] x) => (float[1] y) {{ {nodes} y = Identity(x) }}", tensors)
    side = Side(model, concretize(model, {"x": (1,)}))
    assert own_mean(side, x, "m", channel=channel) == wanted
