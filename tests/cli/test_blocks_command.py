"""``onnxgrow blocks`` on the command line: what it shows, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, listing
from residual_models import transformer

from onnxgrow.io import save

Run = Callable[..., Outcome]


@pytest.fixture
def network(folder: Path) -> Path:
    save(transformer(), folder / "net.onnx")
    return Path("net.onnx")


def test_new_blocks_are_shown_and_written(mlp: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("blocks", mlp, "--block", "mlp", "--freeze-old", "new.json")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("equivalent: mlp.grown.onnx: 1 output proved")
    for words in ("new layer", "a.mlp", "mlp of 32 channels on 8", "1 of 1 layer can learn"):
        assert words in outcome.err
    listed = json.loads(Path("new.json").read_text())
    assert listed["frozen"] == ["w1", "b1", "w2"]
    assert listed["trainable"] == [f"a.mlp.{n}.{p}" for n in ("expand", "project") for p in ("weight", "bias")]
    assert onnxgrow("verify", mlp, "mlp.grown.onnx").code == 0


def test_layers_that_are_named_are_copied(network: Path, onnxgrow: Run) -> None:
    outcome = onnxgrow("blocks", network, "--copy", "1", "--freeze-old", "new.json", "-o", "deep.onnx")
    assert outcome.code == 0
    assert "copy of layer 1 on 8" in outcome.err
    names = {t.name for t in onnx.load("deep.onnx").graph.initializer}
    listed = json.loads(Path("new.json").read_text())
    assert set(listed["trainable"]) == {n for n in names if n.startswith("copy.")}
    assert set(listed["frozen"]) == names - set(listed["trainable"])
    plan = json.loads(onnxgrow("blocks", network, "--dry-run", "--json").out)["plan"]
    assert [layer["block"] for layer in plan["layers"]] == ["copy of layer 0", "copy of layer 1"]


def test_copies_go_where_they_are_told(network: Path, onnxgrow: Run) -> None:
    assert onnxgrow("blocks", network, "--copy", "0", "--after", "1", "-o", "deep.onnx").code == 0
    made = [n.output[0] for n in onnx.load("deep.onnx").graph.node if n.op_type == "Add"]
    assert made.index("t1") < made.index("copy.t0")


def test_a_recipe_can_ask_for_both(network: Path, onnxgrow: Run) -> None:
    steps = "steps:\n  - blocks: {every: 2}\n  - blocks: {block: mlp, at: t0, ratio: 2}\n"
    Path("recipe.yaml").write_text(f"version: 1\n{steps}")
    assert onnxgrow("run", "recipe.yaml", network, "-o", "deep.onnx").code == 0
    names = {t.name for t in onnx.load("deep.onnx").graph.initializer}
    assert {"copy.wo1", "t0.mlp.project.weight"} <= names


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--block", "bottleneck"], 4),
        (["--copy", "0", "--after", "0", "--after", "1"], 2),
        (["--copy", "0", "--before", "t1"], 2),
        (["--block", "cube"], 2),
        (["--block", "mlp", "--at", "nothing"], 2),
        (["--block", "mlp", "--ratio", "-1"], 2),
        (["--block", "mlp", "--copy", "0"], 2),
        (["--block", "mlp", "--freeze-old", "mlp.onnx"], 2),
        (["--block", "mlp", "--freeze-old", "mlp.grown.onnx"], 2),
        (["--kernel", "3"], 2),
        ([], 4),
        (["--every", "0"], 2),
        (["--freeze-old", "nowhere/new.json"], 2),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    mlp: Path, folder: Path, onnxgrow: Run, arguments: list[str], code: int
) -> None:
    before = listing(folder)
    outcome = onnxgrow("blocks", mlp, *arguments)
    assert outcome.code == code
    assert outcome.error
    assert listing(folder) == before


def test_the_list_is_never_written_over_what_the_model_reads(network: Path, folder: Path, onnxgrow: Run) -> None:
    onnx.save(onnx.load(network), "big.onnx", save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    data = Path("big.onnx.data").read_bytes()
    Path("big.onnx.data").write_bytes(b"{" + data[1:])  # begins like a list or a report that may be replaced
    before = listing(folder)
    outcome = onnxgrow("blocks", "big.onnx", "--copy", "1", "--freeze-old", "big.onnx.data", "-o", "deep.onnx")
    assert outcome.code == 2
    assert "--freeze-old" in outcome.error
    assert listing(folder) == before
