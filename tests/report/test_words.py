"""Evidence in words: the numbers that were measured, and nothing that was not."""

from __future__ import annotations

import pytest
from report_data import evidence, tier

from onnxgrow.report import conclusion, refusal
from onnxgrow.report.words import alive_words, tier_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accounting", "6 nodes compared, 1 tensor equal, 5 grown, 2 nodes inserted"),
        ("certificate", "1 output proved, 1,024 entries proved zero, 3,466 compared bit by bit, 3 nodes"),
        ("float64", "24 values in 4 runs, largest difference 2.5e-16 (bound 4e-15, noise floor 4e-16)"),
        (
            "runtime",
            "on cuda (CUDAExecutionProvider 5 nodes, CPUExecutionProvider 1 node), 8 outputs and 20 inner values, "
            "outputs differ by 1e-07 of their scale (bound 2e-06, noise floor 2e-07)",
        ),
    ],
)
def test_tier_says_what_it_measured(name, words):
    found = next(t for t in evidence()["tiers"] if t["name"] == name)
    assert tier_words(found) == words


@pytest.mark.parametrize("name", ["accounting", "certificate", "float64", "runtime", "of tomorrow"])
def test_tier_that_measured_nothing_says_nothing(name):
    assert tier_words(tier(name, {}, "not run", ("x", "y"))) == ""


@pytest.mark.parametrize("name", ["accounting", "certificate", "float64", "runtime"])
def test_tier_with_a_figure_missing_still_speaks(name):
    """Another version of the library may measure other things."""
    assert tier_words(tier(name, {"novelty": 1}))


def test_alive_counts_sets_and_channels():
    assert alive_words(evidence()["alive"]) == "2 of 2 sets can learn, 39 of 40 new channels get a gradient"
    unknown = {"name": "x", "channels": 4, "alive": None, "note": "no float64"}
    dead = {"name": "y", "channels": 2, "alive": 0, "note": "dead"}
    words = alive_words([unknown, dead])
    assert words == "0 of 1 set can learn, 0 of 2 new channels get a gradient, not measured whether 1 set can learn"
    assert alive_words([unknown]) == "not measured whether 1 set can learn"


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (("layer",), "1 of 1 layer can learn, 3 of 4 channels get a gradient"),
        (("kernel",), "1 of 1 kernel can learn, 3 of 4 new taps get a gradient"),
        (("layer", "kernel"), "2 of 2 sets can learn, 6 of 8 new channels get a gradient"),
        (("of tomorrow",), "1 of 1 of tomorrow can learn, 3 of 4 channels get a gradient"),
    ],
)
def test_alive_counts_what_grew(units, words):
    found = [{"name": "x", "channels": 4, "alive": 3, "note": "", "unit": unit} for unit in units]
    assert alive_words(found) == words


def test_conclusion_of_an_equivalent_result_names_the_evidence():
    line = conclusion(evidence(), "m.grown.onnx")
    assert line.startswith("equivalent: m.grown.onnx: 1 output proved, 1,024 entries proved zero; ")
    assert "in ONNX Runtime on cuda outputs differ by 1e-07 of their scale" in line
    assert line.endswith("2 of 2 sets can learn, 39 of 40 new channels get a gradient")


def test_conclusion_of_a_changed_result_says_by_how_much():
    line = conclusion(evidence("changed", change=0.003, max_change=0.01), "m.onnx")
    assert line == "changed: m.onnx: outputs change by 0.003 of their scale, 0.01 was allowed"


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (evidence("changed", change=0.3), "outputs change by 0.3 of their scale"),
        (evidence("changed", change=0.3, max_change=0.1), "0.1 was allowed"),
        (
            evidence("not equivalent", tiers=[tier("certificate", {}, "failed", ("w", "entry 3 is not zero"))]),
            "not equivalent; certificate failed: w: entry 3 is not zero",
        ),
        (
            evidence("unproved", tiers=[tier("float64", {}, "not run", ("Loop", "no kernel"))]),
            "unproved; float64 not run: Loop: no kernel",
        ),
        (evidence("unproved", notes=["stem: dead"]), "unproved: stem: dead"),
    ],
)
def test_refusal_gives_the_first_cause(report, says):
    reason, hint = refusal(report)
    assert says in reason
    assert ("--max-change" in hint) == (report["verdict"] == "changed" and report["max_change"] is None)
