"""``onnxgrow deepen`` and ``onnxgrow actiswitch`` on the command line: what they show, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, listing

Run = Callable[..., Outcome]


def test_deepen_says_what_is_new_and_writes_it(mlp: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("deepen", mlp)
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("equivalent: mlp.grown.onnx: 1 output proved")
    for words in ("new layer", "a.identity", "Gemm, 1x + 0·tanh on 8", "2 of 2 layers can learn"):
        assert words in outcome.err
    assert [n.op_type for n in onnx.load("mlp.grown.onnx").graph.node] == [
        *("Gemm", "Relu", "Gemm", "Tanh", "Mul", "Mul", "Add", "Gemm")
    ]
    assert onnxgrow("verify", mlp, "mlp.grown.onnx").code == 0
    assert onnxgrow("widen", "mlp.grown.onnx", "-o", "wide.onnx").code == 0


def test_actiswitch_wraps_what_is_there(mlp: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("actiswitch", mlp, "--per-channel", "-o", "switched.onnx")
    assert outcome.code == 0
    assert "0x + 1·Relu on 8" in outcome.err
    shapes = {t.name: list(t.dims) for t in onnx.load("switched.onnx").graph.initializer}
    assert shapes["a.actiswitch.a"] == shapes["a.actiswitch.b"] == [8]


@pytest.mark.parametrize("command", ["deepen", "actiswitch"])
def test_switches_can_be_functions(command: str, mlp: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow(command, mlp, "--as-function")
    assert outcome.code == 0
    model = onnx.load("mlp.grown.onnx")
    assert [f.domain for f in model.functions] == ["onnxgrow"]
    assert sum(n.domain == "onnxgrow" for n in model.graph.node) == 1
    assert onnxgrow("verify", mlp, "mlp.grown.onnx").code == 0
    assert onnxgrow("fold", "mlp.grown.onnx", "-o", "folded.onnx").code == 0
    assert not onnx.load("folded.onnx").functions


def test_an_inexact_start_needs_a_bound(mlp: Path, onnxgrow: Run) -> None:
    assert onnxgrow("actiswitch", mlp, "--start", "0.1,0.9").code == 1
    assert not Path("mlp.grown.onnx").exists()
    assert onnxgrow("actiswitch", mlp, "--start", "0.1,0.9", "--max-change", "2").code == 0


def test_json_holds_the_plan_and_a_dry_run_writes_nothing(mlp: Path, folder: Path, onnxgrow: Run) -> None:
    before = listing(folder)
    outcome = onnxgrow("deepen", mlp, "--at", "a", "--no-actiswitch", "--no-bias", "--dry-run", "--json")
    assert outcome.code == 0
    data = json.loads(outcome.out)
    assert data["command"] == "deepen --dry-run"
    assert data["plan"]["layers"] == [{"place": "a", "channels": 8, "name": "a.identity", "layer": "Gemm"}]
    assert data["plan"]["parameters"] == {"old": 64, "new": 128}
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["deepen", "--at", "y"], 4),
        (["deepen", "--at", "nothing"], 2),
        (["deepen", "--kernel", "0"], 2),
        (["deepen", "--as-function", "--no-actiswitch"], 2),
        (["deepen", "--activation", "square"], 2),
        (["deepen", "--start", "1"], 2),
        (["deepen", "--every", "0"], 2),
        (["deepen", "--depthwise"], 4),
        (["actiswitch", "--at", "h"], 4),
        (["actiswitch", "--start", "nan,0"], 2),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    mlp: Path, folder: Path, onnxgrow: Run, arguments: list[str], code: int
) -> None:
    before = listing(folder)
    outcome = onnxgrow(arguments[0], mlp, *arguments[1:])
    assert outcome.code == code
    assert outcome.error
    assert listing(folder) == before


def test_fold_takes_out_what_converged(mlp: Path, onnxgrow: Run) -> None:
    assert onnxgrow("actiswitch", mlp, "-o", "switched.onnx").code == 0
    outcome = onnxgrow("fold", "switched.onnx", "-o", "folded.onnx")
    assert outcome.code == 0
    for words in ("a.actiswitch", "a·x + b·f(x)", "f(x)", "equivalent: folded.onnx"):
        assert words in outcome.err
    assert [n.op_type for n in onnx.load("folded.onnx").graph.node] == ["Gemm", "Relu", "Gemm"]
    assert onnxgrow("verify", "switched.onnx", "folded.onnx").code == 0
    assert onnxgrow("fold", mlp).code == 4
    assert onnxgrow("fold", "switched.onnx", "--tolerance", "2").code == 2
    plan = json.loads(onnxgrow("fold", "switched.onnx", "--dry-run", "--json").out)["plan"]
    assert plan["folds"] == [{"name": "a.actiswitch", "becomes": "f(x)", "gap": 0.0}]
