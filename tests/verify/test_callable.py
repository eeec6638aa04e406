"""``onnxgrow.verify`` is a package and a function, whichever was touched first."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
from by_hand import copy, grown_mlp, mlp

import onnxgrow
from onnxgrow import api
from onnxgrow.errors import GrowError
from onnxgrow.verify import Report, Verdict


def test_the_package_is_called_like_the_function() -> None:
    model = mlp()
    report = onnxgrow.verify(model, copy(model), provider="cpu")
    assert isinstance(report, Report)
    assert report.verdict is Verdict.EQUIVALENT
    assert onnxgrow.verify(*grown_mlp()[:2], provider="cpu").verdict is Verdict.UNPROVED  # no map: not waved through


def test_it_shows_the_signature_of_the_function() -> None:
    assert inspect.signature(onnxgrow.verify) == inspect.signature(api.verify)
    with pytest.raises(TypeError, match="provder"):
        onnxgrow.verify(mlp(), mlp(), provder="cpu")
    with pytest.raises(GrowError):
        onnxgrow.verify("nowhere.onnx", "nowhere.onnx")


@pytest.mark.parametrize(
    "first",
    [
        "from onnxgrow import verify",
        "import onnxgrow.verify.report",
        "from onnxgrow.verify import Report",
        "import onnxgrow; onnxgrow.verify",
        "import onnxgrow.api",
    ],
)
def test_no_import_hides_the_one_or_the_other(first: str) -> None:
    check = "import onnxgrow, onnxgrow.verify as v; assert callable(onnxgrow.verify) and v is onnxgrow.verify; v.Report"
    subprocess.run([sys.executable, "-c", f"{first}; {check}"], check=True, timeout=60)


def test_reading_a_report_does_not_load_the_tiers() -> None:
    code = "import sys, onnxgrow.verify; assert 'onnxgrow.verify.judge' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_judge_has_a_name_of_its_own() -> None:
    judge = importlib.import_module("onnxgrow.verify.judge")
    assert callable(judge.verify)
    assert not hasattr(onnxgrow.verify, "verify")
