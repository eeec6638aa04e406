"""The table of architectures: what it says of a run, and that it holds no fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.architectures import DOCUMENT, main, merge, render
from tools.zoo import Row


def row(model: str, **given: Any) -> dict[str, Any]:
    plain = {"weights": 10, "growable_weights": 10, "grown_weights": 9, "sets": 4, "singles": 2, "singles_ok": 2}
    figures = {"joint": "equivalent", "difference": 1e-7, "bound": 2e-6, "float64": 2e-16, "float64_bound": 4e-15}
    return vars(Row(model, **{**plain, **figures, **given}))


def test_a_line_holds_what_the_run_found() -> None:
    took = {"load": 9.0, "analysis": 0.14, "grow": 0.2, "verify": 3.0}
    text = render([row("net.legacy", dead=["w"], seconds=took), row("public")])
    line = "10 | 10 (100 %) | 9 | 4 | 2/2 | equivalent | 0.05 | 0.05 |"
    assert f"| net | legacy | {line} 0.1 + 0.2 + 3.0 + 0.0 | w |" in text
    assert f"| public | real | {line} 0.0 + 0.0 + 0.0 + 0.0 |  |" in text
    assert "2 files of 2 architectures: 20 of 20 linear weights can grow, 18 grew together" in text


def test_where_little_grows_the_reasons_are_listed() -> None:
    frozen = [
        {"name": "w", "size": 3, "reasons": ["it is sorted (TopK /a/b.0/TopK, axis 1)"]},
        {"name": "x", "size": 3, "reasons": ["it is an input of the network (input x, axis 1)"]},
    ]
    text = render([row("net.dynamo", growable_weights=8, frozen=frozen), row("other.dynamo")])
    assert "- **net** (dynamo 80 %): it is sorted (TopK, axis 1)\n" in text
    assert "**other**" not in text


def test_the_last_report_of_a_model_counts() -> None:
    assert merge([[row("b.x"), row("a.x", sets=1)], [row("a.x", sets=2)]]) == [row("a.x", sets=2), row("b.x")]


@pytest.mark.parametrize(
    "fault", [{"faults": ["crash"]}, {"singles_ok": 1}, {"joint": "unproved"}, {"joint": ""}], ids=str
)
def test_a_report_with_a_fault_makes_no_document(tmp_path: Path, fault: dict[str, Any]) -> None:
    report, out = tmp_path / "report.json", tmp_path / "doc.md"
    report.write_text(json.dumps([row("net.legacy"), row("bad.legacy", **fault)]))
    assert main([str(report), "--out", str(out)]) == 1
    assert not out.exists()
    report.write_text(json.dumps([row("net.legacy")]))
    assert main([str(report), "--out", str(out)]) == 0
    assert out.read_text().startswith("# Architectures")


def test_the_document_keeps_its_promise() -> None:
    """At least 33 architectures, from both exporters of PyTorch, none of them with another verdict than these."""
    lines = [line.split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    assert len({line[0] for line in lines}) >= 33
    assert {"legacy", "dynamo"} <= {line[1] for line in lines}
    assert {line[7] for line in lines} <= {"equivalent", "refused", "unrunnable"}
