"""GridSample and RoiAlign read every channel at the same positions: channels grow, nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import model_of

from onnxgrow.axis_map import ANY, AxisMap, Segment
from onnxgrow.growth_map import METADATA_KEY, GrowthMap, ValueGrowth
from onnxgrow.passes.widen import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

WEIGHTS = {"wa": (4, 3, 1, 1), "wb": (5, 4, 1, 1)}
GRID = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
CASES = {
    "GridSample": ("a = GridSample(h, grid)", {"grid": GRID}),
    "RoiAlign": (
        "a = RoiAlign <output_height = 3, output_width = 3> (h, rois, which)",
        {"rois": np.array([[0, 0, 4, 4], [1, 1, 7, 5]], np.float32), "which": np.array([1, 0])},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_grow_through_sampling_and_a_false_map_is_seen(name: str) -> None:
    call, more = CASES[name]
    text = f"g (float[2,3,8,8] x) => (float[2,5,3,3] y) {{ h = Conv(x, wa) {call} y = Conv(a, wb) }}"
    model = model_of(text, WEIGHTS | more)
    grown = Widen(add=2)(model)
    assert grown.report.verdict is Verdict.EQUIVALENT
    listed = GrowthMap.of_model(grown.model.metadata_props)
    assert listed is not None
    # The new channels of the result are said to lie before the old ones.
    false = ValueGrowth({1: AxisMap((Segment(2, fact=ANY), Segment(4, 0)))})
    grown.model.metadata_props[METADATA_KEY] = replace(listed, values={**listed.values, "a": false}).dumps()
    certificate = next(t for t in verify(model, grown.model).tiers if t.name == "certificate")
    assert certificate.status is TierStatus.FAILED
