"""ActiSwitches as local functions: one node each, proved like those written out, and refused when tampered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support import model_of, run

import onnxgrow
from onnxgrow.concrete.calls import calls_in, expanded
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.passes import AddActiSwitch, Fold, InsertIdentity
from onnxgrow.passes.base import seal
from onnxgrow.passes.deepen.functions import FUNCTIONS
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierStatus, Verdict

MLP = """g (float[n,4] x) => (float[n,3] y) {
    h = MatMul(x, u)  a = Relu(h)  k = MatMul(a, v)  b = Relu(k)  y = MatMul(b, w)
}"""
WEIGHTS = {"u": (4, 8), "v": (8, 3), "w": (3, 3)}


def mlp(**options: object) -> ir.Model:
    return model_of(MLP, WEIGHTS, **options)


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def outputs(model: ir.Model) -> np.ndarray:
    return run(model, {"x": np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)})[0]


def test_a_wrapped_activation_is_blended_by_one_node() -> None:
    result = AddActiSwitch(as_function=True)(mlp())
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == ["MatMul", "Relu", "ActiSwitch", "MatMul", "Relu", "ActiSwitch", "MatMul"]
    assert [f.name for f in result.model.functions.values()] == ["ActiSwitch"]
    assert result.growth_map.calls == ("a.actiswitch", "b.actiswitch")
    assert all(a.alive == a.channels == 2 for a in result.report.alive)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("opset", [9, 17])
def test_every_function_is_proved_as_a_call(function: str, opset: int) -> None:
    model = model_of(MLP, WEIGHTS, opset=opset)
    result = InsertIdentity("a", activation=function, as_function=True)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model)[2:4] == ["Gemm", f"ActiSwitch_{function.replace('-', '_')}"]
    written_out = InsertIdentity("a", activation=function).grow(model).model
    assert ops(expanded(result.model, result.growth_map.calls)).count("Mul") == ops(written_out).count("Mul")


def test_types_that_hold_numbers_have_functions_of_their_own() -> None:
    graph = "g (float16[n,4] x) => (float16[n,4] y) { a = Relu(x)  y = MatMul(a, u) }"
    model = model_of(graph, {"u": np.ones((4, 4), np.float16)})
    result = InsertIdentity("a", activation="gelu", as_function=True)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [f.name for f in result.model.functions.values()] == ["ActiSwitch_gelu_float16"]


def test_growing_again_uses_the_same_function_and_what_is_behind_a_call_is_a_place() -> None:
    first = InsertIdentity("a", as_function=True)(mlp()).model
    again = InsertIdentity(["a", "a.actiswitch"], as_function=True, activation="tanh")(first)
    assert again.report.verdict is Verdict.EQUIVALENT
    assert ops(again.model).count("ActiSwitch_tanh") == 3
    assert len(again.model.functions) == 1
    assert again.growth_map.calls == ("a.actiswitch_2", "a.actiswitch.actiswitch")
    chain = onnxgrow.verify(mlp(), again.model)
    assert chain.verdict is Verdict.EQUIVALENT


def test_a_function_of_that_name_but_another_content_stays_as_it_is() -> None:
    model = InsertIdentity("a", as_function=True, activation="tanh").grow(mlp()).model
    function = next(iter(model.functions.values()))
    function[0].outputs[0].name = "other"
    model.metadata_props.clear()
    result = InsertIdentity("b", as_function=True, activation="tanh")(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert [f.name for f in result.model.functions.values()] == ["ActiSwitch_tanh", "ActiSwitch_tanh_2"]


def test_calls_fold_back_to_the_original() -> None:
    switched = AddActiSwitch(as_function=True)(mlp()).model
    result = Fold()(switched)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == ops(mlp())
    assert not result.model.functions
    assert dict(result.model.opset_imports) == dict(mlp().opset_imports)


def test_calls_that_did_not_converge_stay_calls() -> None:
    switched = AddActiSwitch(as_function=True).grow(mlp()).model
    factor = switched.graph.initializers["a.actiswitch.a"]
    assert factor.const_value is not None
    metadata = dict(factor.const_value.metadata_props)
    factor.const_value = ir.Tensor(np.float32(0.5).reshape(()), name=factor.name, metadata_props=metadata)
    switched.metadata_props.clear()
    result = Fold()(switched)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert ops(result.model) == ["MatMul", "Relu", "ActiSwitch", "MatMul", "Relu", "MatMul"]
    assert result.growth_map.calls == ("b.actiswitch",)
    assert np.array_equal(outputs(result.model), outputs(switched))


def test_widening_inlines_the_calls_that_it_grows_through() -> None:
    switched = AddActiSwitch(as_function=True)(mlp()).model
    wide = onnxgrow.widen(switched, "u", factor=2)
    assert wide.report.verdict is Verdict.EQUIVALENT
    assert any("inlined" in note for note in wide.plan["notes"])
    assert Fold()(wide.model).report.verdict is Verdict.EQUIVALENT


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "old IR": (
        lambda: AddActiSwitch(as_function=True).plan(mlp(ir_version=7)),
        UnsupportedError,
        "IR version is 7",
    ),
    "no ActiSwitch": (lambda: InsertIdentity(actiswitch=False, as_function=True), UsageError, "only ActiSwitches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_function_is_refused(name: str) -> None:
    make, kind, reason = REFUSED[name]
    with pytest.raises(kind, match=reason):
        make()


def other_body(model: ir.Model) -> None:
    """The sum of the function subtracts."""
    function = next(iter(model.functions.values()))
    last = function[-1]
    last.op_type = "Sub"


def one_path(model: ir.Model) -> None:
    """The sum of the function adds the linear path to itself."""
    last = next(iter(model.functions.values()))[-1]
    last.replace_input_with(1, last.inputs[0])


def more_functions(model: ir.Model) -> None:
    """A function that nothing calls."""
    function = next(iter(copy_model(model).functions.values()))
    function.name = "Unlisted"
    model.functions[function.identifier()] = function


def swapped_factors(model: ir.Model) -> None:
    """a and b change places."""
    call = calls_in(model)["a.actiswitch"]
    a, b = call.inputs[-2], call.inputs[-1]
    call.replace_input_with(len(call.inputs) - 2, b)
    call.replace_input_with(len(call.inputs) - 1, a)


FAULTS: dict[str, Callable[[ir.Model], None]] = {
    "other body": other_body,
    "one path only": one_path,
    "a function that nothing calls": more_functions,
    "swapped factors": swapped_factors,
}


@pytest.mark.parametrize("step", [AddActiSwitch("a", as_function=True), InsertIdentity("a", as_function=True)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_call_or_its_function_is_seen(fault: str, step: AddActiSwitch | InsertIdentity) -> None:
    original = mlp()
    grown = step.grow(original)
    FAULTS[fault](grown.model)
    report = verify(original, grown.model, tiers=("accounting", "certificate"))
    assert TierStatus.FAILED in [t.status for t in report.tiers[:2]]
    assert verify(original, step.grow(original).model).verdict is Verdict.EQUIVALENT


MAPS: dict[str, tuple[Callable[[GrowthMap], GrowthMap], str]] = {
    "a call that is in neither model": (lambda m: replace(m, calls=(*m.calls, "a")), "in neither"),
    "a call that is not listed": (lambda m: replace(m, calls=()), "inserted"),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_growth_map_that_lists_other_calls_is_refused(name: str) -> None:
    change, reason = MAPS[name]
    original = mlp()
    grown = AddActiSwitch("a", as_function=True).grow(original)
    model = grown.model
    seal(model, change(grown.growth_map))
    report = verify(original, model, tiers=("accounting",))
    assert report.tiers[0].status is TierStatus.FAILED
    assert any(reason in f.reason for f in report.tiers[0].findings)


def test_a_changed_function_that_both_models_have_is_seen() -> None:
    original = AddActiSwitch("a", as_function=True)(mlp()).model
    step = AddActiSwitch("b", as_function=True)
    assert step(original).report.verdict is Verdict.EQUIVALENT
    grown = step.grow(original).model
    other_body(grown)
    report = verify(original, grown, tiers=("accounting",))
    assert any("function ActiSwitch" in f.subject for f in report.tiers[0].findings)


def test_written_files_are_proved_as_they_are_stored(tmp_path) -> None:
    path = tmp_path / "deep.onnx"
    result = onnxgrow.deepen(mlp(), as_function=True, output=path)
    assert result.report.verdict is Verdict.EQUIVALENT
    assert onnxgrow.verify(mlp(), path).verdict is Verdict.EQUIVALENT
    assert len(onnxgrow.load(path).model.functions) == 1


def test_a_switch_is_not_wrapped_again() -> None:
    for as_function in (False, True):
        deep = InsertIdentity("a", as_function=as_function).grow(mlp()).model
        plan = AddActiSwitch().plan(deep).to_json()
        assert [layer["place"] for layer in plan["layers"]] == ["a", "b"]
        assert list(plan["skipped"].values()) == ["it is an ActiSwitch already"]


def test_switches_written_out_and_called_lie_side_by_side() -> None:
    deep = InsertIdentity("a", as_function=True).grow(mlp()).model
    both = AddActiSwitch().grow(deep)
    assert onnxgrow.verify(mlp(), both.model).verdict is Verdict.EQUIVALENT
    folded = Fold()(both.model)
    assert folded.report.verdict is Verdict.EQUIVALENT
    assert ops(folded.model) == ["MatMul", "Relu", "Gemm", "MatMul", "Relu", "MatMul"]


def test_functions_come_back_after_a_widening_inlined_them() -> None:
    deep = InsertIdentity("a", as_function=True).grow(mlp()).model
    wide = onnxgrow.Widen(factor=2).grow(deep).model
    assert not wide.functions
    again = AddActiSwitch(as_function=True)(wide)
    assert again.report.verdict is Verdict.EQUIVALENT
    assert onnxgrow.verify(mlp(), again.model).verdict is Verdict.EQUIVALENT
