"""What the commands answer: verdicts, evidence, and what goes to which stream."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from command_line import Outcome, listing, parsed

from onnxgrow.growth_map import METADATA_KEY

Run = Callable[..., Outcome]


def edit_grown(change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load("mlp.grown.onnx")
    change(model)
    onnx.save(model, "mlp.grown.onnx")


def nudge_an_old_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] += 1e-6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def forget_the_map(model: onnx.ModelProto) -> None:
    kept = [p for p in model.metadata_props if p.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def break_the_map(model: onnx.ModelProto) -> None:
    for p in model.metadata_props:
        if p.key == METADATA_KEY:
            p.value = p.value[:-2]


def test_widen_says_what_grew_and_on_what_evidence(mlp, onnxgrow):
    outcome = onnxgrow("widen", mlp)
    assert outcome.code == 0
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[-1].startswith("equivalent: mlp.grown.onnx: 1 output proved")
    for words in (
        "x2.00",
        "parameters",
        "FLOPs",
        "file size",
        "accounting",
        "certificate",
        "float64",
        "runtime",
        "alive",
    ):
        assert words in outcome.err
    assert "not grown: y: it is an output of the network" in outcome.err


def test_quiet_says_nothing(mlp, folder, onnxgrow):
    outcome = onnxgrow("widen", mlp, "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert "mlp.grown.onnx" in listing(folder)


def test_json_of_widen_is_the_report(mlp, onnxgrow):
    outcome = onnxgrow("widen", mlp, "--json", "--report", "r.json", "--seed", "7")
    data = json.loads(outcome.out)
    with open("r.json") as file:
        assert json.load(file) == data
    assert data["verdict"] == "equivalent"
    assert data["files"] == {"model": "mlp.onnx", "output": "mlp.grown.onnx"}
    assert [t["status"] for t in data["verification"]["tiers"]] == ["passed"] * 4
    assert data["growth"]["seed"] == 7
    assert data["growth"]["sets"][0]["new"] == 16
    assert {"onnx", "numpy", "python"} <= data["versions"].keys()


def test_inexact_method_without_a_bound_is_refused_and_measured(mlp, folder, onnxgrow):
    outcome = onnxgrow("widen", mlp, "--method", "near-zero", "--report", "r.json")
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("NOT-EQUIVALENT: ")
    assert "--max-change" in last
    assert sorted(listing(folder)) == ["mlp.onnx", "r.json"]
    data = json.loads((folder / "r.json").read_text())
    assert data["verdict"] == "changed"
    assert data["verification"]["change"] > 0
    assert data["plan"]["recipe"]["method"] == "near-zero"
    assert data["growth"]["exact"] is False


def test_inexact_method_within_its_bound_is_changed_never_equivalent(mlp, onnxgrow):
    outcome = onnxgrow("widen", mlp, "--method", "near-zero", "--max-change", "0.5")
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("changed: mlp.grown.onnx: outputs change by ")
    assert "equivalent" not in outcome.err
    assert onnxgrow("verify", mlp, "mlp.grown.onnx").code == 1
    assert onnxgrow("verify", mlp, "mlp.grown.onnx", "--max-change", "1e-9").code == 1
    assert onnxgrow("verify", mlp, "mlp.grown.onnx", "--max-change", "0.5").code == 0


def test_verify_proves_what_widen_wrote(mlp, folder, onnxgrow):
    onnxgrow("widen", mlp)
    before = listing(folder)
    outcome = onnxgrow("verify", mlp, "mlp.grown.onnx", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["verdict"] == "equivalent"
    assert outcome.err.splitlines()[-1].startswith("equivalent: mlp.grown.onnx")
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("change", "code", "start"),
    [
        (nudge_an_old_weight, 1, "NOT-EQUIVALENT: mlp.grown.onnx: not equivalent"),
        (forget_the_map, 1, "NOT-EQUIVALENT: mlp.grown.onnx: unproved"),
        (break_the_map, 3, "BAD-INPUT: "),
    ],
)
def test_verify_sees_a_fault(change, code, start, mlp, onnxgrow):
    onnxgrow("widen", mlp)
    edit_grown(change)
    outcome = onnxgrow("verify", mlp, "mlp.grown.onnx", "--report", "r.json")
    assert outcome.code == code
    assert outcome.err.splitlines()[-1].startswith(start)
    if code == 1:
        with open("r.json") as file:
            assert json.load(file)["verdict"] in start


def test_verify_of_models_the_wrong_way_round_fails(mlp, onnxgrow):
    onnxgrow("widen", mlp)
    assert onnxgrow("verify", "mlp.grown.onnx", mlp).code == 1


def test_inspect_shows_sets_and_reasons(mlp, folder, onnxgrow):
    before = listing(folder)
    outcome = onnxgrow("inspect", mlp)
    assert outcome.code == 0
    assert outcome.out == ""
    assert "1 of 2 written channel sets can grow; 2 of 2 linear weights growable" in outcome.err
    assert "output of the network" in outcome.err
    assert "input of" not in outcome.err
    assert "input of" in onnxgrow("inspect", mlp, "--all").err
    assert listing(folder) == before


def test_inspect_gives_data_on_stdout_only(mlp, onnxgrow):
    outcome = onnxgrow("inspect", mlp, "--json", "-q")
    assert outcome.err == ""
    sets = json.loads(outcome.out)["sets"]
    assert [(s["name"], s["growable"]) for s in sets if s["writers"]] == [("h", True), ("y", False)]


def test_selectors_and_sizes_reach_the_library(mlp, onnxgrow):
    onnxgrow("widen", mlp, "--layer", "w1", "--factor", "1.1", "--multiple-of", "4", "-o", "a.onnx")
    assert list(onnx.load("a.onnx").graph.initializer[0].dims) == [12, 4]
    onnxgrow("widen", mlp, "--add", "3", "--init", "orthogonal", "-o", "b.onnx")
    assert list(onnx.load("b.onnx").graph.initializer[0].dims) == [11, 4]


def test_inputs_are_used(mlp, onnxgrow):
    np.savez("in.npz", x=np.ones((3, 4), np.float32))
    assert onnxgrow("widen", mlp, "--inputs", "in.npz", "-o", "a.onnx").code == 0
    outcome = onnxgrow("widen", mlp, "--input-shape", "x:9x4", "--json", "-o", "b.onnx")
    shapes = [t["figures"].get("input_shapes") for t in json.loads(outcome.out)["verification"]["tiers"]]
    assert {"x": [9, 4]} in shapes[1]


def test_names_in_a_model_are_data_and_no_markup(folder, onnxgrow):
    proto = parsed()
    for place in (proto.graph.node[0].output, proto.graph.node[1].input):
        place[0] = "[bold red]h[/] :smile: \u00e9\x1b[2J"
    onnx.save(proto, folder / "m.onnx")
    outcome = onnxgrow("inspect", "m.onnx")
    assert outcome.code == 0
    assert "[bold red]h[/] :smile: \u00e9\\x1b[2J" in outcome.err
    assert "\x1b[2J" not in outcome.err


def test_inspect_says_where_a_verification_would_run(mlp, onnxgrow):
    outcome = onnxgrow("inspect", mlp, "--provider", "cpu", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["provider"] == "cpu"
    assert "a verification would run on cpu" in outcome.err
