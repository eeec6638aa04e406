"""Tables without a terminal: what they hold, on wide and narrow screens and where there is only ASCII."""

from __future__ import annotations

import io

import pytest
from report_data import PLAN, evidence, tier
from rich.console import Console

from onnxgrow.report import evidence_table, growth_table, inspection_lines, inspection_table, skipped_lines

INSPECTION = {
    "input_shapes": {"x": [5, 4], "t": []},
    "parameters": 3466,
    "flops": 33_920,
    "linear_weights": 3,
    "growable_weights": 2,
    "sets": [
        {
            "name": name,
            "size": 8,
            "growable": not reasons,
            "writers": writers,
            "readers": ["r1", "r2", "r3", "r4", "r5"],
            "parameters_per_channel": 12,
            "flops_per_channel": 34,
            "reasons": reasons,
        }
        for name, writers, reasons in (
            ("stem", ["stem.weight"], []),
            ("head", ["head.weight"], ["it is an output", "a", "b"]),
            ("input of stem", [], ["it is an input"]),
        )
    ],
}


def rendered(table, width=100, encoding="utf-8") -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    Console(file=stream, width=width, color_system=None).print(table)
    stream.flush()
    return buffer.getvalue().decode(encoding)


def test_growth_shows_sets_totals_and_files():
    text = rendered(growth_table(PLAN, {"file size": (14_900, 38_300), "memory": (None, 1)}))
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert ["stem", "16", "32", "x2.00"] in rows
    assert ["parameters", "3,466", "8,970", "x2.59"] in rows
    assert ["file", "size", "14.9", "kB", "38.3", "kB", "x2.57"] in rows
    assert "memory" not in text


def test_skipped_sets_are_named_few_at_a_time_and_inputs_not_at_all():
    assert skipped_lines(PLAN) == ["not grown: head: it is an output"]
    lines = skipped_lines({"skipped": {f"s{i}": "first; second; third" for i in range(9)}})
    assert lines[0] == "not grown: s0: first (and 2 more)"
    assert lines[-1] == "not grown: 4 more; `onnxgrow inspect` lists them"
    assert len(lines) == 6


def test_evidence_shows_figures_of_what_passed_and_faults_of_what_did_not():
    faults = [(f"w{i}", "entry 3 is not zero") for i in range(9)]
    report = evidence("not equivalent")
    report["tiers"][1] = tier("certificate", {"entries_proved_zero": 77}, "failed", *faults)
    text = rendered(evidence_table(report))
    assert "6 nodes compared" in text
    assert "w0: entry 3 is not zero" in text
    assert "4 more; --report lists them" in text
    assert "77" not in text
    assert text.count("passed") == 4


@pytest.mark.parametrize(("alive", "status"), [(8, "passed"), (0, "failed"), (None, "not run")])
def test_sets_that_cannot_learn_are_no_success(alive, status):
    text = rendered(
        evidence_table(evidence(tiers=[], alive=[{"name": "s", "channels": 8, "alive": alive, "note": "why"}]))
    )
    assert status in text
    assert ("s: why" in text) == (status != "passed")


def test_inspection_hides_what_no_weight_writes_unless_asked():
    text = rendered(inspection_table(INSPECTION), 160)
    assert "input of stem" not in text
    assert "r1, r2, r3 and 2 more" in text
    assert "no: it is an output (and 2 more)" in text
    assert "input of stem" in rendered(inspection_table(INSPECTION, show_all=True), 160)
    lines = inspection_lines(INSPECTION)
    assert lines[0] == "1 of 2 written channel sets can grow; 2 of 3 linear weights growable"
    assert lines[1] == "3,466 parameters, 33.9 k FLOPs per run at x:5x4, t:scalar"
    assert lines[2] == "1 more that no weight writes; --all shows them"
    assert len(inspection_lines(INSPECTION, show_all=True)) == 2


@pytest.mark.parametrize("table", [growth_table(PLAN), evidence_table(evidence()), inspection_table(INSPECTION)])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_tables_fit_any_width_in_pure_ascii(table, width):
    text = rendered(table, width, "ascii")
    assert text.isascii()
    assert all(len(line) <= width for line in text.splitlines())


def test_names_are_data():
    name = "[red]x[/] :smile: \x1b[2J"
    plan = PLAN | {"sets": [{"name": name, "old": 1, "new": 2}]}
    assert "[red]x[/] :smile: \\x1b[2J" in rendered(growth_table(plan))


def test_long_names_are_folded_not_cut():
    name = "encoder." * 20
    plan = PLAN | {"sets": [{"name": name, "old": 1, "new": 2}]}
    text = rendered(growth_table(plan), 60)
    assert "".join(text.split()).count("encoder.") >= 19
    assert "\u2026" not in text
