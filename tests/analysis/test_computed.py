"""Weights that are computed from constants: which of their channels can grow, and why others cannot."""

from __future__ import annotations

import pytest
from computed_nets import COMPUTED, INPUTS, REFUSED, STANDARDISED, computed_net
from support import analysis_of, model_of


@pytest.mark.parametrize("name", [*COMPUTED, *STANDARDISED])
def test_both_sides_of_a_computed_weight_can_grow(name: str) -> None:
    analysis = analysis_of(computed_net(name))
    inner = [s for s in analysis.sets if not any("output" in str(r) or "input" in str(r) for r in s.reasons)]
    assert inner
    assert all(s.growable for s in inner), [s.reasons for s in inner]
    assert bool(analysis.dims.computed.standards) is (name in STANDARDISED)


@pytest.mark.parametrize("name", INPUTS)
def test_a_length_for_each_input_leaves_no_new_output_alone(name: str) -> None:
    read, written = analysis_of(computed_net(name)).sets[:2]
    assert read.growable
    assert {w.root for w in read.readers} == {"v", "g"}
    assert "would never learn" in str(written.reasons[0])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_to_work_stays_with_the_reason(name: str) -> None:
    graph, weights, writer, reason = REFUSED[name]
    analysis = analysis_of(model_of(graph, weights))
    written = [s for s in analysis.sets if any(w.root == writer for w in s.writers)]
    assert written
    assert any(reason in str(r) for s in written for r in s.reasons), [s.reasons for s in written]


def test_what_only_helps_to_compute_a_weight_is_no_weight_itself() -> None:
    analysis = analysis_of(computed_net("spectral normalisation"))
    assert {w.root for w in analysis.weights} == {"wa", "v", "wb"}
    analysis = analysis_of(computed_net("weight normalisation"))
    assert {w.root for w in analysis.weights} == {"wa", "v", "wb"}


def test_constants_in_nodes_go_by_the_names_of_their_values() -> None:
    graph, weights = COMPUTED["weight normalisation"]
    model = model_of(graph, weights, as_nodes=True)
    for node in model.graph:
        if node.op_type == "Constant":
            node.attributes["value"].as_tensor().name = ""
    assert {w.root for w in analysis_of(model).weights} == {"wa", "v", "wb"}


def test_a_network_on_constants_is_no_computed_weight() -> None:
    """Its layers have activations between them, so they keep their own channels."""
    graph = (
        "g (float[N,3] x) => (float[N,2] y) { c = MatMul(x, wa) p = MatMul(table, v) r = Relu(p) w = MatMul(r, u)"
        " h = MatMul(c, w) t = Tanh(h) y = MatMul(t, wb) }"
    )
    weights = {"wa": (3, 4), "table": (4, 3), "v": (3, 6), "u": (6, 5), "wb": (5, 2)}
    analysis = analysis_of(model_of(graph, weights))
    assert not analysis.dims.computed.nodes
    [hidden] = [s for s in analysis.sets if s.size == 6]
    assert hidden.growable
