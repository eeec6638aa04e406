"""Sets whose new channels could bring a NaN: frozen with the node, unless the operators in front rule it out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from support import analysis_of
from undefined_models import SAFE, UNSAFE, network

from onnxgrow.analysis import channel_sets
from onnxgrow.errors import NotEquivalentError
from onnxgrow.passes import Widen


@pytest.mark.parametrize("case", SAFE)
def test_what_the_operators_in_front_rule_out_does_not_freeze(case: str) -> None:
    body, weights = SAFE[case]
    assert analysis_of(network(body, **weights)).sets[0].reasons == ()


@pytest.mark.parametrize("case", UNSAFE)
def test_what_may_be_no_number_is_frozen_with_the_node(case: str) -> None:
    body, weights, why = UNSAFE[case]
    reasons = [str(r) for r in analysis_of(network(body, **weights)).sets[0].reasons]
    assert any(why in r and "axis 1" in r for r in reasons), reasons


def test_without_it_old_outputs_would_be_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sets, "freeze_undefined", lambda dims: None)
    with pytest.raises(NotEquivalentError):
        Widen()(network("z = Log(h)"))


def test_a_deep_network_does_not_exhaust_the_stack() -> None:
    names = ["h", *(f"i{k}" for k in range(2000))]
    body = "  ".join(f"{b} = Identity({a})" for a, b in pairwise(names)) + f"  z = Log({names[-1]})"
    assert any("logarithm" in str(r) for r in analysis_of(network(body)).sets[0].reasons)
