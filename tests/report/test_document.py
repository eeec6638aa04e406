"""The report file: complete, valid JSON whatever the numbers, and written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest
from report_data import PLAN, evidence

from onnxgrow.errors import EnvironmentFault
from onnxgrow.growth_map import GrowthMap, SetGrowth
from onnxgrow.report import Subject, document, dumps, write_json

ABOUT = Subject("widen", {"model": "m.onnx"}, 0.0)


def test_document_holds_everything_about_a_run():
    growth_map = GrowthMap(original="ab", seed=3, sets=(SetGrowth("stem", 16, 32),))
    data = document(ABOUT, plan=PLAN, growth_map=growth_map.to_json(), evidence=evidence())
    assert data["command"] == "widen"
    assert data["files"] == {"model": "m.onnx"}
    assert data["verdict"] == "equivalent"
    assert data["plan"] == PLAN
    assert data["verification"] == evidence()
    assert data["growth"]["original"] == "ab"
    assert data["growth"]["sets"][0]["new"] == 32
    assert data["growth"]["tensors_listed"] == 0
    assert data["started"] == "1970-01-01T00:00:00+00:00"
    assert data["seconds"] > 0
    assert {"python", "onnx", "numpy"} <= data["versions"].keys()


def test_document_without_evidence_has_no_verdict():
    assert document(ABOUT, plan=PLAN)["verdict"] is None


def test_json_is_strict_and_ascii():
    text = dumps({"a": float("inf"), "b": [float("nan"), -float("inf")], "c": "größe\udc80", "d": (1, 2)})
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": "inf",
        "b": ["nan", "-inf"],
        "c": "größe\udc80",
        "d": [1, 2],
    }


def test_report_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("{}")
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync"])
def test_report_that_cannot_be_written_leaves_the_old_one(failing, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("{}")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        write_json(path, {"a": 1})
    assert path.read_text() == "{}"
    assert os.listdir(tmp_path) == ["r.json"]
