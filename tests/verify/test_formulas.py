"""The growth formulas, one by one: dropping the compensation of any is seen by the certificate and in float64.

``formula_cases`` injects a fault in a grown model for each; :data:`ELSEWHERE` names the tests of those that are
audited next to what they are about. Together they are the list of all formulas.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from formula_cases import DENSE, FORMULAS, MLP
from formula_faults import Faulty
from support import model_of

from onnxgrow.passes import Widen
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus

TIERS = ("certificate", "float64")


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_without_its_compensation_is_refused(name: str) -> None:
    formula = FORMULAS[name]
    model = formula.model()
    made = formula.step().grow(model)
    right = verify(model, made.model, made.growth_map, tiers=TIERS)
    assert {t.name: t.status for t in right.tiers if t.name in TIERS} == dict.fromkeys(TIERS, TierStatus.PASSED)
    wrong = Faulty.of(model, made.model, made.growth_map)
    formula.fault(wrong)
    report = verify(model, wrong.new, made.growth_map, tiers=TIERS)
    assert {t.name: t.status for t in report.tiers if t.name in TIERS} == dict.fromkeys(TIERS, TierStatus.FAILED)
    assert not report.ok


def test_copies_that_do_not_share_the_old_reader_are_refused() -> None:
    """Net2Net: two copies that are each read with the whole old weight."""
    model = model_of(MLP.format("Tanh(h)"), DENSE)
    made = Widen("wa", add=4, method="net2wider").grow(model)
    assert verify(model, made.model, made.growth_map, max_change=1e-5).ok
    wrong = Faulty.of(model, made.model, made.growth_map)
    source = made.growth_map.tensors["wb"].axes[1]
    old = np.array(model.graph.initializers["wb"].const_value.numpy())
    picks = np.concatenate(
        [np.arange(s.start, s.start + s.length) if s.start >= 0 else [s.source] for s in source.segments]
    )
    wrong.put("wb", old[:, picks])
    assert not verify(model, wrong.new, made.growth_map, max_change=1e-5).ok


ELSEWHERE = {
    "LayerNorm: scale · √η, ε · η, means of weights, biases and tables, β = 0, readers without a norm": (
        "passes.test_residual_stream",
        "test_a_dropped_compensation_is_seen_by_the_certificate_and_in_float64",
    ),
    "RMSNorm: scale · √η, ε · η, zeros; 1 + w; decomposed norms, without parameters, of sums and embeddings": (
        "passes.test_residual_stream",
        "test_a_dropped_compensation_is_seen_by_the_certificate_and_in_float64",
    ),
    "every stored number is the formula rounded once": (
        "passes.test_residual_stream",
        "test_a_formula_rounded_otherwise_is_seen_by_the_certificate",
    ),
    "integer replication: copies repeat every channel": (
        "passes.test_residual_stream",
        "test_a_dropped_compensation_is_seen_by_the_certificate_and_in_float64",
    ),
    "one group, LRN, norms over several axes: refused": (
        "passes.test_norms",
        "test_what_no_new_channel_leaves_alone_is_frozen_with_the_reason",
    ),
    "normalised queries and keys: refused": (
        "passes.test_norms",
        "test_normalised_queries_and_keys_keep_their_size_and_grow_in_number",
    ),
    "fused attention: scale, number of heads": (
        "rules.test_rules_attention",
        "test_the_certificate_sees_a_wrong_scale_or_number_of_heads",
    ),
    "fused attention: groups of query heads with their key head": (
        "rules.test_rules_attention",
        "test_the_certificate_sees_old_heads_that_change_places",
    ),
    "fused attention: queries or keys are zero": (
        "rules.test_rules_attention",
        "test_the_certificate_sees_queries_and_keys_that_are_both_not_zero",
    ),
    "RotaryEmbedding: partners and angles": (
        "rules.test_rules_attention",
        "test_old_features_keep_their_partners_and_angles",
    ),
    "BatchNormalization: new channels are the identity": (
        "passes.test_grown_values",
        "test_batch_normalisation_grows_as_the_identity",
    ),
    "0 · ∞: weights that are not finite are refused": (
        "passes.test_widen_pass",
        "test_weights_that_are_not_finite_are_refused_where_they_matter",
    ),
    "near-zero is measured, never equivalent": (
        "passes.test_widen_pass",
        "test_inexact_methods_need_a_bound_and_never_say_equivalent",
    ),
    "shared weights: equal tensors are un-shared": (
        "verify.certificate.test_certificate_values",
        "test_unshared_tensors_pass",
    ),
    "folding: only what is exact, never padded kernels": (
        "passes.test_fold",
        "test_what_does_not_merge_exactly_stays_two_layers",
    ),
    "masked scores: no identity MatMul": ("passes.test_deepen", "test_constants_that_mask_make_a_place_illegal"),
    "post-norm blocks are not copied": (
        "passes.test_copy_blocks",
        "test_what_cannot_be_copied_is_refused_with_the_reason",
    ),
    "optimizer: steps of their own for new entries": (
        "torch.test_torch_growth",
        "test_new_entries_with_steps_of_their_own_move_as_under_a_fresh_adam",
    ),
    "optimizer: moments follow places, factors and copies": (
        "torch.test_torch_growth",
        "test_moments_follow_places_factors_and_copies",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_audited_elsewhere_is_there(name: str) -> None:
    module, test = ELSEWHERE[name]
    source = (Path(__file__).parent.parent / f"{module.replace('.', '/')}.py").read_text("utf-8")
    assert f"def {test}(" in source
