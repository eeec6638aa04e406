"""``onnxgrow enlarge-kernel`` on the command line: what it shows, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, listing, parsed

Run = Callable[..., Outcome]

CNN = """
<ir_version: 8, opset_import: ["" : 17]>
cnn (float[N, 1, 8, 8] x) => (float[N, 2, 8, 8] y)
<float[3, 1, 3, 3] w1, float[2, 3, 1, 1] w2>
{
    h = Conv<pads=[1,1,1,1]>(x, w1)
    a = Relu(h)
    y = Conv(a, w2)
}
"""


@pytest.fixture
def cnn(folder: Path) -> Path:
    onnx.save(parsed(CNN), folder / "cnn.onnx")
    return Path("cnn.onnx")


def test_it_says_what_grew_and_writes_it(cnn: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("enlarge-kernel", cnn, "--to", "5")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("equivalent: cnn.grown.onnx: 1 output proved")
    for words in (
        "kernel",
        "3x3",
        "5x5",
        "not grown: w2: its kernel is 1x1 and grows only where it is named literally",
    ):
        assert words in outcome.err
    weights = {t.name: list(t.dims) for t in onnx.load("cnn.grown.onnx").graph.initializer}
    assert weights == {"w1": [3, 1, 5, 5], "w2": [2, 3, 1, 1]}
    assert onnxgrow("verify", cnn, "cnn.grown.onnx").code == 0


def test_json_holds_the_plan_and_a_dry_run_writes_nothing(cnn: Path, folder: Path, onnxgrow: Run) -> None:
    before = listing(folder)
    outcome = onnxgrow("enlarge-kernel", cnn, "--to", "5x7", "--layer", "w2", "--dry-run", "--json")
    assert outcome.code == 0
    data = json.loads(outcome.out)
    assert data["command"] == "enlarge-kernel --dry-run"
    assert data["plan"]["kernels"] == [{"name": "w2", "old": [1, 1], "new": [5, 7]}]
    assert data["plan"]["parameters"] == {"old": 33, "new": 33 + 6 * 34}
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--to", "3"], 4),
        (["--to", "5", "--layer", "nothing"], 2),
        (["--to", "0"], 2),
        (["--to", "5xa"], 2),
        ([], 2),
        (["--to", "100000"], 2),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    cnn: Path, folder: Path, onnxgrow: Run, arguments: list[str], code: int
) -> None:
    before = listing(folder)
    outcome = onnxgrow("enlarge-kernel", cnn, *arguments)
    assert outcome.code == code
    assert outcome.error
    assert listing(folder) == before
