"""Weights that are computed from constants grow with them; every compensation is seen when it is dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from computed_nets import COMPUTED, INPUTS, STANDARDISED, computed_net
from formula_faults import Fault, Faulty, attribute, replaced

from onnxgrow.axis_map import AxisMap
from onnxgrow.concrete.values import constants
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import SCALED, TAKEN_BACK, GrowthMap
from onnxgrow.passes import Widen
from onnxgrow.passes.base import Grown
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus

TIERS = ("certificate", "float64")


def widened(name: str, add: int = 3) -> tuple[ir.Model, Grown]:
    model = computed_net(name)
    return model, Widen(add=add).grow(model)


@pytest.mark.parametrize("name", [*COMPUTED, *INPUTS, *STANDARDISED])
def test_computed_weights_grow_on_both_sides_and_can_learn(name: str) -> None:
    model, made = widened(name)
    report = verify(model, made.model, made.growth_map)
    assert report.ok, report
    groups = name.endswith("groups")
    assert {s.name for s in made.growth_map.sets} >= ({"wa/outer"} if groups else {"wa"})
    assert all(s.new > s.old for s in made.growth_map.sets)
    assert all(r.alive for r in report.alive)


def test_new_outputs_read_new_inputs_and_old_ones_do_not() -> None:
    _, made = widened("weight normalisation")
    v = np.asarray(constants(made.model)["v"].numpy())
    assert v.shape == (8, 7, 3, 3)
    assert not v[:5, 4:].any()
    assert v[5:, 4:].all()


def test_a_layer_on_a_table_grows_with_what_it_is_multiplied_with() -> None:
    model, made = widened("a layer on a table")
    report = verify(model, made.model, made.growth_map)
    assert report.ok, report
    assert {s.name: (s.old, s.new) for s in made.growth_map.sets} == {"wa": (6, 9)}
    assert not np.asarray(constants(made.model)["wk"].numpy())[:, 6:].any()
    assert all(r.alive for r in report.alive)


def test_a_mask_lets_new_entries_through() -> None:
    _, made = widened("a mask in front")
    mask, v = (np.asarray(constants(made.model)[n].numpy()) for n in ("mask", "v"))
    assert (mask[5:] == 1).all()
    assert (mask[:, 4:] == 1).all()
    assert not v[:5, 4:].any()


def test_new_entries_are_of_the_size_of_the_others() -> None:
    model = computed_net("weight normalisation")
    small = np.asarray(constants(model)["v"].numpy()) * np.float32(1e-3)
    model.graph.initializers["v"].const_value = ir.Tensor(small, name="v")
    grown = Widen("v", add=16).grow(model)
    new = np.asarray(constants(grown.model)["v"].numpy())[5:]
    assert 0.8 < new.std() / small.std() < 1.25
    g = np.asarray(constants(grown.model)["g"].numpy())
    assert set(g.reshape(-1)) <= set(np.asarray(constants(model)["g"].numpy()).reshape(-1))


def test_new_fan_in_is_the_mean_of_the_old_one_and_only_the_gain_is_scaled() -> None:
    model, made = widened("with a gain")
    v, gain, eps = (np.asarray(constants(made.model)[n].numpy()) for n in ("v", "g", "eps"))
    means = v[:, :4].astype(np.float64).mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_array_equal(v[:, 4:], np.broadcast_to(means.astype(np.float32), (8, 3, 3, 3)))
    np.testing.assert_array_equal(gain[:5], constants(model)["g"].numpy() * np.float32(np.sqrt(4 / 7)))
    np.testing.assert_allclose(eps, 0.01 * 4 / 7, rtol=1e-6)
    growth = made.growth_map.tensors["v"]
    assert growth.over == (2, 3)
    assert "mean" in growth.axes[1].facts()
    assert GrowthMap.loads(made.growth_map.dumps()) == made.growth_map


def test_a_number_beside_the_gain_takes_the_factor_and_the_gain_stays() -> None:
    _, made = widened("a batch normalisation of computed statistics")
    assert made.growth_map.tensors["part"].formula == SCALED
    assert not made.growth_map.tensors["g"].formula


def test_a_weight_without_a_gain_is_multiplied_where_it_is_used() -> None:
    _, made = widened("without a gain")
    [(name, growth)] = [(n, t) for n, t in made.growth_map.tensors.items() if t.formula == TAKEN_BACK]
    assert growth.factor == np.sqrt(4 / 7)
    assert name in made.growth_map.inserted
    [conv] = [n for n in made.model.graph if n.outputs[0].name == "h"]
    assert conv.inputs[1].producer().op_type == "Mul"


def test_outputs_alone_need_no_compensation() -> None:
    model = computed_net("without a gain")
    made = Widen("v", add=3).grow(model)
    assert not made.growth_map.inserted
    assert verify(model, made.model, made.growth_map).ok


@pytest.mark.parametrize("method", ["zero-fan-in", "near-zero", "net2wider"])
def test_other_methods_have_no_values_for_what_a_weight_is_computed_from(method: str) -> None:
    model = computed_net("weight normalisation")
    more = {"scale": 0.1} if method == "near-zero" else {}
    with pytest.raises(UnsupportedError, match="a weight is computed from it and others"):
        Widen("v", add=5, method=method, **more).grow(model)


def entry(name: str, index: tuple[int, ...], value: float) -> Fault:
    def fault(f: Faulty) -> None:
        values = f.get(name)
        assert values[index] != np.float32(value)
        values[index] = value
        f.put(name, values)

    return fault


def number(factor: float) -> Fault:
    """Another number in place of the one that takes the factor back."""

    def fault(f: Faulty) -> None:
        [name] = [n for n, t in f.map.tensors.items() if t.formula == TAKEN_BACK]
        f.put(name, f.get(name) * np.float32(factor))

    return fault


def unclaimed(name: str, fault: Fault) -> Fault:
    """The same with a growth map that does not claim the formula: in float64, what is claimed is put in unrounded."""

    def dropped(f: Faulty) -> None:
        fault(f)
        tensors, nodes = dict(f.map.tensors), dict(f.map.nodes)
        for key in [k for k, t in tensors.items() if name in (k, t.formula)]:
            growth = tensors.pop(key)
            if growth.formula != TAKEN_BACK:
                axes = {a: AxisMap.from_source(m.source()) for a, m in growth.axes.items()}
                tensors[key] = replace(growth, axes=axes, formula="", factor=1.0, over=())
        nodes.pop(name, None)
        f.map = replace(f.map, tensors=tensors, nodes=nodes)

    return dropped


def bypass(f: Faulty) -> None:
    """The weight is read as it is, in front of the Mul that takes the factor back."""
    [conv] = [n for n in f.new.graph if n.outputs[0].name == "h"]
    made = conv.inputs[1]
    assert made is not None
    conv.replace_input_with(1, made.producer().inputs[0])


FAULTS: dict[str, tuple[str, Fault]] = {
    "an old output that reads a new input": ("weight normalisation", entry("v", (0, 5, 1, 1), 1e-4)),
    "the same in front of a scale": ("weight normalisation, the scale first", entry("v", (4, 4, 0, 0), 1e-4)),
    "the same of channels that come back": (
        "weight normalisation of channels that come back",
        entry("v", (0, 6, 1, 1), 1e-4),
    ),
    "another norm of an old output": ("weight normalisation", entry("v", (2, 1, 0, 0), 9.0)),
    "a gain that was moved": ("weight normalisation", entry("g", (1, 0, 0, 0), 0.76)),
    "a square that is not zero": ("unit length, with an epsilon", entry("v", (0, 5, 1, 1), 1e-3)),
    "a singular vector that reads new outputs": ("spectral normalisation", entry("left", (6,), 0.5)),
    "a new row of the left factor": ("low rank", entry("down", (5, 0), 0.1)),
    "a new row of an update": ("a weight with an update of low rank", entry("down", (5, 0), 0.1)),
    "a new row of the weight beside it": ("a weight with an update of low rank", entry("v", (5, 0), 0.1)),
    "an update that is zero no more": ("an update of low rank that is still zero", entry("up", (1, 1), 0.1)),
    "a gain of a new input": ("weight normalisation of what an input is read with", entry("g", (5, 0, 0, 0), 0.5)),
    "a layer on a table that is read by new channels": ("a layer on a table", entry("wk", (0, 7), 0.1)),
    "behind a mask": ("a mask", entry("v", (0, 5, 0, 0), 0.1)),
    "a tap of the smaller kernel": ("a smaller kernel beside it", entry("small", (0, 5, 0, 0), 0.1)),
    "new fan-in that is no mean": ("without a gain", unclaimed("v", entry("v", (0, 5, 1, 1), 0.3))),
    "the mean of one tap": ("with a gain", unclaimed("v", entry("v", (1, 4, 0, 0), 0.0))),
    "ε not scaled": ("with a gain", unclaimed("eps", replaced("eps", np.array))),
    "gain not scaled": ("with a gain", unclaimed("g", entry("g", (0, 0, 0, 0), 0.5))),
    "the number of terms not scaled": (
        "the mean as a sum over a number",
        unclaimed("count", replaced("count", np.array)),
    ),
    "another factor": ("without a gain", unclaimed(TAKEN_BACK, number(1.001))),
    "no factor": ("without a gain", bypass),
    "ε of a batch normalisation": (
        "a batch normalisation in training form",
        unclaimed("b", attribute("b", "epsilon", 0.01)),
    ),
    "gain of a batch normalisation": (
        "a batch normalisation in training form",
        unclaimed("g", entry("g", (0,), 0.5)),
    ),
    "a shift of a batch normalisation": ("a batch normalisation in training form", entry("zero", (0,), 0.1)),
    "the number beside the gain": (
        "a batch normalisation of computed statistics",
        unclaimed("part", replaced("part", np.array)),
    ),
    "fan-in of a batch normalisation": (
        "a batch normalisation of computed statistics",
        unclaimed("v", entry("v", (0, 5, 1, 1), 0.3)),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_computed_weight_is_refused_by_both_tiers(name: str) -> None:
    net, fault = FAULTS[name]
    model, made = widened(net)
    wrong = Faulty.of(model, made.model, made.growth_map)
    try:
        fault(wrong)
    except AssertionError:
        pytest.fail("the fault changes nothing")
    report = verify(model, wrong.new, wrong.map, tiers=TIERS)
    assert {t.name: t.status for t in report.tiers if t.name in TIERS} == dict.fromkeys(TIERS, TierStatus.FAILED)
    assert not report.ok
