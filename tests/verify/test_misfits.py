"""Growth maps that speak of axes and sizes which the models do not have: a finding in every tier, never a crash."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from by_hand import appended, grown_mlp, mlp

import onnxgrow
from onnxgrow.axis_map import MEAN, AxisMap, Segment
from onnxgrow.growth_map import METADATA_KEY, Axes, GrowthMap, ValueGrowth
from onnxgrow.verify import Report, TierStatus, Verdict, alive
from onnxgrow.verify.chain import end_to_end
from onnxgrow.verify.fit import misfits
from onnxgrow.verify.judge import TIERS, verify

GOOD = appended(4, 7)
ABSURD = 10**15
"""More entries than any memory holds."""

WRONG: dict[str, Axes] = {
    "an axis beyond the rank": {1: GOOD, 7: GOOD},
    "an axis far beyond it": {2**70: GOOD},
    "a negative axis": {-1: GOOD},
    "too many new entries": {1: appended(4, 8)},
    "absurdly many new entries": {1: AxisMap((Segment(4, 0), Segment(ABSURD, fact="any")))},
    "absurdly many old entries": {1: AxisMap((Segment(ABSURD, 0),))},
    "another number of old entries": {1: appended(5, 7)},
    "no entries": {1: AxisMap(())},
    "an old entry twice": {1: AxisMap((Segment(2, 0), Segment(2, 0), Segment(3, fact="any")))},
}


def claimed(growth: GrowthMap, name: str, axes: Axes) -> GrowthMap:
    """The map with other axes for a tensor or a value."""
    if name in growth.tensors:
        return replace(growth, tensors={**growth.tensors, name: replace(growth.tensors[name], axes=axes)})
    return replace(growth, values={**growth.values, name: ValueGrowth(axes)})


def status(report: Report, name: str) -> TierStatus:
    tier = report.tier(name)
    assert tier is not None
    assert tier.findings or tier.status is TierStatus.PASSED
    return tier.status


@pytest.mark.parametrize("axes", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", ["w1", "h"])
def test_axes_that_are_not_there_are_a_finding_in_every_tier(name: str, axes: Axes) -> None:
    original, grown, growth = grown_mlp()
    report = verify(original, grown, claimed(growth, name, axes), provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    found = {tier: status(report, tier) for tier in TIERS}
    if name == "h":  # of a computed value no shape is stored that accounting could look at
        del found["accounting"]
    else:
        assert {a.alive for a in report.alive} == {None}
    assert set(found.values()) == {TierStatus.FAILED}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["w1", "h"])
def test_a_tier_alone_does_not_break_either(name: str, tier: str) -> None:
    original, grown, growth = grown_mlp()
    report = verify(original, grown, claimed(growth, name, {7: GOOD}), provider="cpu", tiers=[tier])
    assert not report.ok
    if (name, tier) != ("h", "accounting"):
        assert status(report, tier) is TierStatus.FAILED


def test_a_stored_map_is_read_and_found_wrong() -> None:
    original, grown, growth = grown_mlp()
    wrong = claimed(claimed(growth, "w1", {1: GOOD, 7: GOOD}), "a", {5: GOOD})
    grown.metadata_props[METADATA_KEY] = wrong.dumps()
    report = onnxgrow.verify(original, grown, provider="cpu")
    assert report.verdict is Verdict.NOT_EQUIVALENT
    said = {(f.subject, f.reason) for f in report.tier("float64").findings}
    assert ("w1", "the growth map lists axis 7, which its shape [6, 7] does not have") in said
    assert {subject for subject, _ in said} == {"w1", "a"}


def test_a_map_that_fits_has_no_misfits() -> None:
    original, grown, growth = grown_mlp()
    shapes = {"h": (5, 7), "a": (5, 7)}
    assert misfits(original, grown, growth, shapes) == ()
    (found,) = misfits(original, grown, growth, {**shapes, "a": (5, 8)})
    assert found.subject == "a"


def test_weights_of_a_mean_are_one_for_each_old_entry() -> None:
    original, grown, growth = grown_mlp()
    mean = {1: AxisMap((Segment(4, 0), Segment(3, fact=MEAN)))}
    wrong = claimed(growth, "w1", mean)
    wrong = replace(wrong, tensors={**wrong.tensors, "w1": replace(wrong.tensors["w1"], weights="b2")})
    report = verify(original, grown, wrong, provider="cpu", tiers=["float64"])
    assert status(report, "float64") is TierStatus.FAILED
    assert "3 weights 'b2' for 4 entries" in report.tier("float64").findings[0].reason


@pytest.mark.parametrize("axes", [{9: GOOD}, {-1: GOOD}, {1: appended(4, 8)}])
def test_what_only_a_run_shows_of_a_shape_is_not_measured(axes: Axes) -> None:
    _, grown, growth = grown_mlp()
    feeds = [{"x": np.ones((2, 6), np.float32)}]
    (found,) = alive.check(grown, claimed(growth, "a", axes), feeds)
    assert found.alive is None
    assert "axis" in found.note
    (right,) = alive.check(grown, growth, feeds)
    assert right.alive


def test_growths_that_do_not_follow_each_other_are_seen_at_the_ends() -> None:
    model = mlp()
    maps = [
        GrowthMap(values={"y": ValueGrowth({1: axis})}, outputs=("y",)) for axis in (appended(3, 5), appended(9, 11))
    ]
    for tier in end_to_end(model, ir.from_proto(ir.to_proto(model)), maps, provider="cpu"):
        assert tier.status is TierStatus.FAILED
        assert tier.findings[0].subject == "y"
