"""Operators that are undefined somewhere: new entries have to be kept away from there, whatever samples show."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from certificate_case import Case, grow, more, reasons, rnd
from undefined_models import SAFE, UNSAFE, network

from onnxgrow.analysis import channel_sets
from onnxgrow.concrete import concretize, pin_inputs
from onnxgrow.passes.base import Grown, seal
from onnxgrow.passes.widen import Widen
from onnxgrow.verify.certificate import certify
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierResult, TierStatus, Verdict


@pytest.fixture(autouse=True)
def grow_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sets, "freeze_undefined", lambda dims: None)


def judge(model: ir.Model, grown: Grown) -> TierResult:
    shapes = pin_inputs(model)
    return certify(model, grown.model, grown.growth_map, concretize(model, shapes), concretize(grown.model, shapes))


@pytest.mark.parametrize("case", SAFE)
def test_what_the_operators_in_front_keep_positive_is_certified(case: str) -> None:
    body, weights = SAFE[case]
    model = network(body, **weights)
    result = judge(model, Widen("u").grow(model))
    assert result.status is TierStatus.PASSED, result.findings


@pytest.mark.parametrize("case", UNSAFE)
def test_what_nothing_keeps_positive_is_not(case: str) -> None:
    body, weights, _ = UNSAFE[case]
    model = network(body, **weights)
    result = judge(model, Widen("u").grow(model))
    assert result.status is TierStatus.FAILED
    assert "may have no number for new entries" in result.findings[0].reason


def test_a_logarithm_that_fails_on_rare_inputs_only_is_seen() -> None:
    """Of what samples show nothing is wrong: the new weight is negative for one input in front of three others."""
    model = network("z = Log(h)")
    grown = Widen("u", add=1).grow(model)
    values = np.ones((4, 7), np.float32)
    values[3, 6] = -1e-9
    grown.model.graph.initializers["u"].const_value = ir.tensor(values, name="u")
    listed = seal(grown.model, grown.growth_map)
    report = verify(model, grown.model, listed, provider="cpu")
    status = {t.name: t.status for t in report.tiers}
    assert status["runtime"] is status["float64"] is TierStatus.PASSED
    assert status["certificate"] is TierStatus.FAILED
    assert report.verdict is Verdict.NOT_EQUIVALENT


def combined(body: str, fact: str, **tensors: np.ndarray) -> Case:
    """Two new channels of ``h`` that are the mean of the four old ones, or anything, in front of an operator."""
    first = rnd(3, 4)
    mean = np.repeat(first.mean(axis=1, keepdims=True), 2, axis=1)
    axis = more(4, 2, fact)
    return grow(
        f"(float[2,3] x) => (float[2,2] y) {{ h = MatMul(x, u)  {body}  y = MatMul(z, v) }}",
        {"u": first, "v": rnd(4, 2), **tensors},
        {"u": {1: axis}, "v": {0: more(4, 2)}},
        {"h": {1: axis}, "z": {1: more(4, 2)}},
        zero={"v": (1, 0)},
        put={"u": np.concatenate([first, mean], axis=1)},
    )


MEANS = {
    "logarithm": ("z = Log(h)", {}, True),
    "root": ("z = Sqrt(h)", {}, True),
    "half power": ("z = Pow(h, p)", {"p": np.array(0.5, np.float32)}, True),
    "quotient": ("z = Div(c, h)", {"c": np.array(1, np.float32)}, False),
    "reciprocal": ("z = Reciprocal(h)", {}, False),
    "negative whole power": ("z = Pow(h, p)", {"p": np.array(-2, np.float32)}, False),
}


@pytest.mark.parametrize("case", MEANS)
def test_the_mean_of_the_old_entries_is_no_safe_divisor(case: str) -> None:
    """That of 1 and -1 is 0; but the mean of what has a logarithm has one."""
    body, tensors, safe = MEANS[case]
    result = combined(body, "mean", **tensors).certify()
    assert (result.status is TierStatus.PASSED) == safe, reasons(result)
    assert safe or "may have no number" in reasons(result)
    assert combined(body, "any", **tensors).certify().status is TierStatus.FAILED
