"""Networks in which rounding noise decides: they are compared node by node, and faults still show."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from by_hand import grow, set_weight, text_model, weight

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64 import prepare, run_tier
from onnxgrow.verify.float64.lockstep import lockstep
from onnxgrow.verify.report import TierStatus

FEEDS = [{"x": np.full((1, 3), 0.37, np.float32)}]


def undecided() -> tuple[ir.Model, ir.Model, GrowthMap]:
    """All classes get the same huge sum; which of them wins, the last bit says."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3] x) => (float[1,4] y)'
        "{ h = MatMul (x, w1) z = MatMul (h, w2) p = Softmax (z) y = Mul (p, s) }"
    )
    # same values in every column, in another order: equal sums in exact arithmetic
    rows = np.random.default_rng(0).uniform(1e17, 9e17, 64).astype(np.float32)
    columns = [np.random.default_rng(i).permutation(rows) for i in range(4)]
    weights = {"w1": np.full((3, 64), 0.11), "w2": np.stack(columns, axis=1), "s": np.array([2.0])}
    old = text_model(text, {name: w.astype(np.float32) for name, w in weights.items()})
    axis = AxisMap.from_source(np.where(np.arange(128) % 2, -1, np.arange(128) // 2))
    return old, *grow(old, {"w1": {1: axis}, "w2": {0: axis}}, {"h": {1: axis}}, zero_axis={"w2": 0})


def test_what_noise_decides_is_compared_node_by_node() -> None:
    old, grown, growth = undecided()
    end_to_end = lockstep(prepare(old), prepare(grown), growth, FEEDS[0], range(4))
    assert end_to_end.chaotic, "this network is to be chaotic"
    tier = run_tier(old, grown, growth, FEEDS)
    assert tier.status is TierStatus.PASSED, tier.findings
    assert {"p", "y"} <= set(tier.figures["chaotic_values"])


@pytest.mark.parametrize("size", [1e-5, 1e-6])
@pytest.mark.parametrize("name", ["w1", "w2", "s"])
def test_a_fault_before_or_behind_chaos_shows(name: str, size: float) -> None:
    old, grown, growth = undecided()
    wrong = weight(grown, name)
    wrong[wrong > 0] *= np.float32(1 + size)
    set_weight(grown, name, wrong)
    assert run_tier(old, grown, growth, FEEDS).status is TierStatus.FAILED


def test_new_channels_that_leak_show_in_spite_of_chaos() -> None:
    old, grown, growth = undecided()
    wrong = weight(grown, "w2")
    wrong[1, :] = 1e12
    set_weight(grown, "w2", wrong)
    assert run_tier(old, grown, growth, FEEDS).status is TierStatus.FAILED
