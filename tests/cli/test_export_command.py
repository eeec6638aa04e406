"""``onnxgrow export`` on the command line: what it writes, says and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Outcome, listing, parsed

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from safetensors.numpy import load_file, save_file  # only where PyTorch is installed

Run = Callable[..., Outcome]
COMMAND = ("export", "grown.onnx", "--to", "checkpoint", "--reference", "small.safetensors")


@pytest.fixture
def grown(folder: Path, onnxgrow: Run) -> dict[str, np.ndarray]:
    """``grown.onnx`` in the working directory, and the checkpoint of its original, under other names."""
    onnx.save(parsed(), folder / "mlp.onnx")
    arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in parsed().graph.initializer}
    state = {"up.weight": arrays["w1"], "up.bias": arrays["b1"], "down.weight": arrays["w2"]}
    save_file({**state, "steps": np.array([3])}, folder / "small.safetensors")
    assert onnxgrow("widen", "mlp.onnx", "-o", "grown.onnx", "-q").code == 0
    return state


def test_it_writes_the_grown_entries_under_the_names_of_the_class(
    grown: dict[str, np.ndarray], folder: Path, onnxgrow: Run
) -> None:
    outcome = onnxgrow(*COMMAND, "-o", "home", "--json")
    assert outcome.code == 0
    assert "written: home: 4 entries" in outcome.err
    assert "taken over from the reference: steps" in outcome.err
    written = load_file(folder / "home" / "model.safetensors")
    assert {k: v.shape for k, v in written.items()} == {
        "up.weight": (16, 4),
        "up.bias": (16,),
        "down.weight": (3, 16),
        "steps": (1,),
    }
    assert np.array_equal(written["up.weight"][:8], grown["up.weight"])
    names = json.loads(outcome.out)
    assert names == json.loads((folder / "home" / "name_map.json").read_text(encoding="utf-8"))
    assert names["entries"]["down.weight"]["from"] == ["w2"]
    assert not names["entries"]["down.weight"]["by_name"]


def test_what_cannot_be_brought_home_is_listed_and_nothing_is_written(
    grown: dict[str, np.ndarray], folder: Path, onnxgrow: Run
) -> None:
    save_file({**grown, "up.bias": grown["up.bias"] + 1, "other": np.ones(5, np.float32)}, "small.safetensors")
    before = listing(folder)
    outcome = onnxgrow(*COMMAND)
    assert outcome.code == 4
    assert outcome.err.splitlines()[-1].startswith("UNSUPPORTED: ")
    for line in ("not found: other: no tensor", "not found: up.bias: ", "not found: b1: it grew or was trained"):
        assert line in outcome.err
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("further", "code"),
    [
        (["--reference", "missing.safetensors"], 3),
        (["--reference", "mlp.onnx"], 3),
        (["--original", "grown.onnx"], 3),
        (["--keep", "typo.*"], 2),
        (["--name", "w1"], 2),
        (["--name", "nothing=key"], 2),
        (["-o", "mlp.onnx"], 2),
        (["-o", "no/folder"], 2),
    ],
)
def test_wrong_requests_are_one_line_and_no_file(
    grown: dict[str, np.ndarray], folder: Path, onnxgrow: Run, further: list[str], code: int
) -> None:
    before = listing(folder)
    outcome = onnxgrow(*COMMAND, *further)
    assert outcome.code == code
    assert outcome.error
    assert listing(folder) == before


def test_tensors_that_the_growth_added_get_a_name_or_are_refused(
    grown: dict[str, np.ndarray], folder: Path, onnxgrow: Run
) -> None:
    del grown["up.bias"]
    save_file(grown, "small.safetensors")
    assert onnxgrow(*COMMAND).code == 4
    assert onnxgrow(*COMMAND, "--name", "b1=up.offset", "-o", "home").code == 0
    assert load_file(folder / "home" / "model.safetensors")["up.offset"].shape == (16,)
