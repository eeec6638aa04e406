"""``onnxgrow run`` on the command line: what it shows, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome, listing

Run = Callable[..., Outcome]
SAMPLES = Path(__file__).parents[2] / "models"
RECIPE = "steps:\n  - widen: {factor: 2}\n  - deepen\n"


@pytest.fixture
def recipe(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE)
    return Path("recipe.yaml")


def test_it_shows_every_step_and_writes_one_result_that_verifies(mlp: Path, recipe: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("run", recipe, mlp, "--report", "report.json")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1].startswith("equivalent: mlp.grown.onnx: 1 output proved")
    for words in ("step 1 (widen)", "step 2 (deepen)", "all steps", "2 growths, each proved"):
        assert words in outcome.err
    report = json.loads(Path("report.json").read_text())
    assert [s["where"] for s in report["plan"]["steps"]] == ["recipe.yaml:2", "recipe.yaml:3"]
    assert report["growth"]["history_listed"] == 1
    again = onnxgrow("verify", mlp, "mlp.grown.onnx")
    assert again.code == 0
    assert "growths, each proved" in again.err


def test_a_dry_run_shows_the_plan_of_every_step_and_writes_nothing(
    mlp: Path, recipe: Path, folder: Path, onnxgrow: Run
) -> None:
    before = listing(folder)
    outcome = onnxgrow("run", recipe, mlp, "--dry-run", "--json")
    assert outcome.code == 0
    steps = json.loads(outcome.out)["plan"]["steps"]
    assert [s["recipe"]["pass"] for s in steps] == ["widen", "deepen"]
    assert steps[1]["layers"][0]["channels"] == 16
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("text", "arguments", "code", "words"),
    [
        ("steps:\n  - widne", [], 2, "USAGE: recipe.yaml:2: 'widne' is no step: did you mean widen?"),
        ("steps:\n  - widen: {layer: nothing}", [], 2, "recipe.yaml:2: widen: "),
        ("steps:\n  - enlarge-kernel: {to: 5}", [], 4, "recipe.yaml:2: enlarge-kernel: "),
        ("steps:\n  - pass: {code: 'os:getcwd'}", [], 2, "--allow-code"),
        ("steps:\n  - pass: {code: 'os:getcwd'}", ["--allow-code"], 2, "recipe.yaml:2: pass os:getcwd: it failed"),
        (None, [], 3, "BAD-INPUT: recipe.yaml: the file does not exist"),
        (RECIPE, ["-o", "recipe.yaml", "--force"], 2, "recipe.yaml is the same file as recipe.yaml"),
        (RECIPE, ["--report", "recipe.yaml"], 2, "--report"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    mlp: Path, folder: Path, onnxgrow: Run, text: str | None, arguments: list[str], code: int, words: str
) -> None:
    if text is not None:
        (folder / "recipe.yaml").write_text(text)
    before = listing(folder)
    outcome = onnxgrow("run", "recipe.yaml", mlp, *arguments)
    assert (outcome.code, words in outcome.error) == (code, True), outcome.err
    assert listing(folder) == before


def test_the_sample_recipe_grows_the_sample_network(folder: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("run", SAMPLES / "digits_recipe.yaml", SAMPLES / "digits_cnn.onnx", "-o", "bigger.onnx")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1].startswith("equivalent: bigger.onnx")
