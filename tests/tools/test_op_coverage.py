"""The table of operators is complete and up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import op_coverage

made_with = re.search(r"Made with onnx (\S+)\.", op_coverage.DOCUMENT.read_text(encoding="utf-8"))
same_onnx = pytest.mark.skipif(
    made_with is not None and made_with[1] != op_coverage.onnx_version(),
    reason="the document was made with another version of onnx, which has other operators",
)


@same_onnx
def test_the_document_is_up_to_date() -> None:
    assert op_coverage.main(["--check"]) == 0


@same_onnx
def test_every_rule_and_checker_is_in_the_table() -> None:
    rows = {(r.domain, r.op_type): r for r in op_coverage.coverage()}
    assert rows["", "Conv"].rule == "`rules/conv.py`"
    assert rows["", "Conv"].checker == "`verify/certificate/checkers/convolution.py`"
    assert rows["", "Conv"].float64 == "`verify/float64/kernels/conv.py`"
    assert rows["", "RandomNormal"].float64 == "none: random"
    assert rows["", "SequenceAt"].rule.startswith("frozen: ")
    assert set(op_coverage.covered()) <= set(rows)


@same_onnx
@pytest.mark.parametrize(
    ("before", "after"), [("| Abs | ", "| Abs | 9"), ("`rules/conv.py`", "`rules/other.py`"), ("end -->", "")]
)
def test_an_edited_document_is_refused_and_left_alone(
    before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = op_coverage.DOCUMENT.read_text(encoding="utf-8")
    copy = tmp_path / "op-coverage.md"
    copy.write_text(text.replace(before, after), encoding="utf-8")
    assert copy.read_text(encoding="utf-8") != text
    monkeypatch.setattr(op_coverage, "DOCUMENT", copy)
    assert op_coverage.main(["--check"]) == 1
    assert "op-coverage.md" in capsys.readouterr().err
    assert copy.read_text(encoding="utf-8") == text.replace(before, after)


@same_onnx
def test_writing_restores_the_table_and_keeps_the_text_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = op_coverage.DOCUMENT.read_text(encoding="utf-8")
    copy = tmp_path / "op-coverage.md"
    copy.write_text(text.replace("| Abs |", "| Ab |").replace("# Operators", "# Ops"), encoding="utf-8")
    monkeypatch.setattr(op_coverage, "DOCUMENT", copy)
    assert op_coverage.main([]) == 0
    assert copy.read_text(encoding="utf-8") == text.replace("# Operators", "# Ops")


@same_onnx
def test_an_operator_has_a_rule_or_a_reason_and_not_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(op_coverage.REFUSALS, ("", "Det"))
    with pytest.raises(ValueError, match="neither a rule nor a reason: Det"):
        op_coverage.coverage()
    monkeypatch.setitem(op_coverage.REFUSALS, ("", "Det"), "it is fused")
    monkeypatch.setitem(op_coverage.REFUSALS, ("", "Conv"), "it is not")
    with pytest.raises(ValueError, match="both a rule and a reason: Conv"):
        op_coverage.coverage()
    monkeypatch.delitem(op_coverage.REFUSALS, ("", "Conv"))
    monkeypatch.setitem(op_coverage.REFUSALS, ("", "Konv"), "it is misspelt")
    with pytest.raises(ValueError, match="does not know it: Konv"):
        op_coverage.coverage()
