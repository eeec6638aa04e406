"""Growth inside bodies of control flow is proved for every body, run or not, and faults in them are seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from body_models import MODELS, body_model

from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io.digest import tensor_digest
from onnxgrow.passes import Widen
from onnxgrow.verify import Report, TierStatus, Verdict
from onnxgrow.verify.bodies import Opened
from onnxgrow.verify.judge import verify

BRANCHES = "branches that own their weights"
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
TAKEN = {"x": X, "c": np.array(True)}
"""Inputs with which the else branch never runs."""
TIERS = ("accounting", "certificate", "float64", "runtime")


def graph_named(graph: onnx.GraphProto, name: str) -> onnx.GraphProto:
    pending = [graph]
    while pending:
        current = pending.pop()
        if current.name == name:
            return current
        pending += [a.g for node in current.node for a in node.attribute if a.HasField("g")]
    raise KeyError(name)


def grown(name: str, **options: object) -> tuple[ir.Model, onnx.ModelProto, GrowthMap]:
    original = body_model(name)
    made = Widen(add=2, **options).grow(original)
    return original, ir.to_proto(made.model), made.growth_map


def judged(
    original: ir.Model, result: onnx.ModelProto, growth: GrowthMap, inputs: dict[str, np.ndarray] | None = None
) -> Report:
    """The report, on a result that carries exactly this map."""
    for entry in result.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = growth.dumps()
    return verify(original, ir.from_proto(result), growth, inputs=inputs, provider="cpu")


def reweigh(
    result: onnx.ModelProto, growth: GrowthMap, graph: str, name: str, change: Callable[[np.ndarray], None]
) -> GrowthMap:
    """Change a tensor of a body and claim its new digest: accounting alone cannot object."""
    held = next(t for t in graph_named(result.graph, graph).initializer if t.name == name)
    array = onnx.numpy_helper.to_array(held).copy()
    change(array)
    held.CopyFrom(onnx.numpy_helper.from_array(array, name))
    digest = tensor_digest(ir.serde.deserialize_tensor(held))
    return replace(growth, tensors={**growth.tensors, name: replace(growth.tensors[name], sha256=digest)})


def failed(report: Report) -> list[str]:
    return [t.name for t in report.tiers if t.status is TierStatus.FAILED]


@pytest.mark.parametrize("name", MODELS)
def test_every_tier_really_runs_for_every_body(name: str) -> None:
    original, result, growth = grown(name)
    report = judged(original, result, growth)
    assert report.verdict is Verdict.EQUIVALENT, [t.findings for t in report.tiers]
    opened = {b.label for b in Opened(original, ir.from_proto(result), growth).old.bodies.values()}
    listed = {label for label in opened if any(s.name.startswith(f"{label}/") for s in growth.sets)}
    assert listed
    for tier in report.tiers:
        assert listed <= set(tier.figures["bodies"])
        for label in listed:
            figures = tier.figures["bodies"][label]
            assert figures.get("outputs_proved", 1) > 0
            assert figures.get("values_compared", 1) > 0
            assert figures.get("nodes_compared", 1) > 0
    assert report.tier("certificate").figures["entries_proved_zero"] > 0
    assert all(a.alive for a in report.alive)
    assert len(report.alive) == len(growth.sets)
    json.dumps(report.to_json(), allow_nan=False)


def test_a_fault_in_a_branch_that_never_runs_is_caught_by_every_tier_that_computes() -> None:
    original, result, growth = grown(BRANCHES)
    assert judged(original, result, growth, TAKEN).verdict is Verdict.EQUIVALENT

    def leak(array: np.ndarray) -> None:
        array[-1, 0] = 0.5  # an old output reads a new channel

    growth = reweigh(result, growth, "no", "v2", leak)
    report = judged(original, result, growth, TAKEN)
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert failed(report) == ["certificate", "float64", "runtime"]
    assert all(t.findings[0].subject.startswith("t.else_branch/") for t in report.tiers if t.name in failed(report))


@pytest.mark.parametrize(
    ("name", "graph", "tensor"),
    [
        (BRANCHES, "yes", "w1"),
        ("If in If", "deep", "u2"),
        ("Loop", "step", "w2"),
        ("Scan", "cell", "w1"),
    ],
)
def test_a_changed_old_entry_is_caught(name: str, graph: str, tensor: str) -> None:
    original, result, growth = grown(name)

    def nudge(array: np.ndarray) -> None:
        array[0, 0] += 0.25

    report = judged(original, result, reweigh(result, growth, graph, tensor, nudge))
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert "certificate" in failed(report)


def test_a_constant_stored_around_its_body_is_proved_with_it() -> None:
    original, result, growth = grown("branches that capture their weights")

    def leak(array: np.ndarray) -> None:
        array[-1, 0] = 0.5

    report = judged(original, result, reweigh(result, growth, "g", "v2", leak), TAKEN)
    assert {"certificate", "float64", "runtime"} <= set(failed(report))


def rename_node(graph: onnx.GraphProto) -> None:
    graph.node[0].name = "another"


def swap_activation(graph: onnx.GraphProto) -> None:
    graph.node[1].op_type = "Elu"


def describe(graph: onnx.GraphProto) -> None:
    graph.doc_string = "changed"


def read_another_value(graph: onnx.GraphProto) -> None:
    graph.node[0].input[0] = "x"  # captured, of the same shape as h


def drop_declaration(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("inside", ["yes", "no"])
@pytest.mark.parametrize("edit", [rename_node, swap_activation, describe, read_another_value, drop_declaration])
def test_an_unlisted_change_of_a_body_is_caught_whether_it_grew_or_not(
    edit: Callable[[onnx.GraphProto], None], inside: str
) -> None:
    original, result, growth = grown(BRANCHES, layers="t.then_branch/a1")
    assert judged(original, result, growth, TAKEN).verdict is Verdict.EQUIVALENT
    edit(graph_named(result.graph, inside))
    assert "accounting" in failed(judged(original, result, growth, TAKEN))


def test_a_map_of_another_growth_is_refused() -> None:
    original, result, growth = grown(BRANCHES)
    report = verify(original, ir.from_proto(result), replace(growth, seed=9), provider="cpu", tiers=("accounting",))
    assert "another one" in report.tiers[0].findings[0].reason
    other = replace(growth, original="0" * 64)
    assert failed(judged(original, result, other)) == ["accounting"]


@pytest.mark.parametrize("part", ["tensors", "values", "nodes", "inserted"])
def test_a_name_that_no_graph_has_is_a_fault(part: str) -> None:
    original, result, growth = grown(BRANCHES)
    held = getattr(growth, part)
    entry = {"nodes": {"ghost": None}, "inserted": ("ghost",)}.get(part)
    if part == "nodes":
        from onnxgrow.growth_map import NodeChange

        entry = {"ghost": NodeChange({"alpha": (None, 1)})}
    more = (*held, "ghost") if part == "inserted" else {**held, **(entry or {"ghost": next(iter(held.values()), None)})}
    report = judged(original, result, replace(growth, **{part: more}))
    assert "accounting" in failed(report)


def test_a_grown_weight_that_the_graph_around_reads_as_well_is_not_put_back_in_silence() -> None:
    """Owned by one body in the original only: in the result the main graph reads it, too."""
    original, result, growth = grown("branches that capture their weights")
    result.graph.node.insert(0, onnx.helper.make_node("Shape", ["w1"], ["reads_it"]))
    report = judged(original, result, growth)
    assert "accounting" in failed(report)


def test_a_body_that_cannot_be_run_is_unproved_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxgrow.concrete import body_runs
    from onnxgrow.errors import UnsupportedError

    original, result, growth = grown(BRANCHES)

    def refuse(*_: object) -> None:
        raise UnsupportedError("t.else_branch", "no input was found")

    monkeypatch.setattr(body_runs, "_runs", refuse)
    report = judged(original, result, growth)
    assert report.verdict is Verdict.UNPROVED
    assert [t.status for t in report.tiers] == [TierStatus.PASSED, *[TierStatus.NOT_RUN] * 3]
    assert "no input was found" in report.tier("certificate").findings[0].reason


def test_inner_changes_count_for_an_inexact_growth_in_a_branch_that_never_runs() -> None:
    original = body_model(BRANCHES)
    made = Widen("t.else_branch/a2", add=2, method="near-zero", scale=1.0).grow(original)
    report = verify(original, made.model, made.growth_map, inputs=TAKEN, provider="cpu", max_change=1.0)
    assert report.verdict is Verdict.CHANGED
    assert report.change is not None
    assert report.change > 1e-3
