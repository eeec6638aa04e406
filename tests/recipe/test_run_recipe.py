"""Recipes done: one proof over all steps, history, faults between the steps, and code of the user's own."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from support import model_of

import onnxgrow
from onnxgrow.errors import NotEquivalentError, UnsupportedError, UsageError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io import load
from onnxgrow.passes.base import Grown, GrowthPass, Proof, seal
from onnxgrow.recipe import RunRecipe, recipe_of
from onnxgrow.recipe import custom as custom_module
from onnxgrow.verify.report import TierStatus, Verdict

MLP = "mlp (float[N, 4] x) => (float[N, 3] y) { h = Gemm(x, wa, ba)  a = Relu(h)  y = MatMul(a, wb) }"
WEIGHTS: dict[str, Any] = {"wa": (4, 6), "ba": (6,), "wb": (6, 3)}
THREE = """
steps:
  - widen: {layer: wa, add: 2}
  - deepen
  - widen: {layer: wa, add: 1, seed: 4}
"""


def mlp() -> ir.Model:
    return model_of(MLP, WEIGHTS)


def done(text: str, **options: Any) -> Any:
    return RunRecipe(recipe_of(text, "r.yaml"), **options)(mlp())


def test_all_steps_are_proved_and_the_last_is_compared_with_the_first() -> None:
    result = done(THREE)
    report = result.report
    assert report.verdict is Verdict.EQUIVALENT
    assert [h["recipe"]["pass"] for h in result.growth_map.history] == ["widen", "deepen"]
    assert result.growth_map.generation == 3
    assert "3 growths, each proved against the model before it" in report.notes[-1]
    links = ["step 1 (widen)", "step 2 (deepen)", "step 3 (widen)"]
    assert list(report.tier("certificate").figures["steps"]) == links
    assert list(report.tier("runtime").figures["steps"]) == ["end to end", *links]
    assert [s["title"] for s in result.plan["steps"]] == links
    assert result.plan["parameters"]["old"] == 48


def test_verification_finds_the_models_between_again() -> None:
    result = done(THREE)
    report = onnxgrow.verify(mlp(), result.model)
    assert report.verdict is Verdict.EQUIVALENT
    assert all(t.status is TierStatus.PASSED for t in report.tiers)
    assert list(report.tier("accounting").figures["steps"]) == [
        "growth 1 (widen)",
        "growth 2 (deepen)",
        "growth 3 (widen)",
    ]


def test_a_grown_model_grows_again_and_both_originals_are_proved() -> None:
    first = done("steps: [{widen: {layer: wa, add: 2}}]")
    twice = RunRecipe(recipe_of("steps: [deepen, actiswitch]"))(first.model)
    assert [h["recipe"]["pass"] for h in twice.growth_map.history] == ["widen", "deepen"]
    for original in (mlp(), first.model):
        assert onnxgrow.verify(original, twice.model).verdict is Verdict.EQUIVALENT


def nudged(model: ir.Model, name: str = "wa", by: float = 1e-4) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array.flat[0] += by
    value.const_value = ir.tensor(array, name=name)


def test_a_weight_moved_in_the_last_step_is_not_equivalent_to_the_first_model() -> None:
    result = done(THREE)
    model = load(result.model).model
    nudged(model)
    sealed = replace(
        result.growth_map, tensors={k: replace(t, sha256="") for k, t in result.growth_map.tensors.items()}
    )
    seal(model, sealed)
    report = onnxgrow.verify(mlp(), model)
    assert report.verdict is Verdict.NOT_EQUIVALENT
    assert report.tier("runtime").figures["steps"]["end to end"]["faults"] > 0


def test_what_cannot_be_made_again_is_unproved_and_says_why() -> None:
    result = done(THREE)
    model = load(result.model).model
    forged = [dict(h) for h in result.growth_map.history]
    forged[1]["recipe"] = {"pass": "mine"}
    model.metadata_props[METADATA_KEY] = replace(result.growth_map, history=tuple(forged)).dumps()
    report = onnxgrow.verify(mlp(), model)
    assert report.verdict is Verdict.UNPROVED
    assert "growth 2 (mine) cannot be made again" in report.tiers[0].findings[0].reason
    assert [t.status for t in report.tiers] == [TierStatus.NOT_RUN] * 2 + [TierStatus.PASSED] * 2


class Wrong(GrowthPass):
    """Widens, and moves an old weight, which its growth map does not say."""

    def grow(self, model: ir.Model) -> Grown:
        grown = onnxgrow.Widen("wa", add=1).grow(model)
        nudged(grown.draft, "wb" if "wb" not in grown.listed.tensors else "ba")
        listed = replace(grown.listed, tensors={k: replace(t, sha256="") for k, t in grown.listed.tensors.items()})
        return Grown(grown.draft, listed, grown.plan)


def nothing(graph: Any) -> None:
    """A function that changes nothing."""


def renamed(graph: Any, to: str = "other") -> None:
    graph.nodes[0].name = to


def failing(graph: Any) -> None:
    raise KeyError("no such layer")


def no_model(graph: Any) -> int:
    return 3


def doubled(model: ir.Model) -> tuple[ir.Model, GrowthMap]:
    """A pass of a user's own, which declares what it did: here by way of a pass of the package."""
    grown = onnxgrow.Widen("wa", factor=2).grow(model)
    return grown.model, grown.growth_map


def greedy(model: ir.Model) -> tuple[ir.Model, GrowthMap]:
    grown = onnxgrow.Widen("wa", factor=2).grow(model)
    return grown.model, replace(grown.growth_map, outputs=("y",))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of this module as entry points."""
    names = ("Wrong", "nothing", "renamed", "failing", "no_model", "doubled", "greedy", "THREE")
    points = EntryPoints(EntryPoint(n, f"{__name__}:{n}", custom_module.GROUP) for n in names)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(custom_module, "entry_points", lambda group: points.select(group=group))


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        ("name: Wrong", NotEquivalentError, "not equivalent"),
        ("name: renamed, options: {to: mine}", NotEquivalentError, "changed the model and declared no growth map"),
        ("name: failing", UsageError, "it failed: KeyError: 'no such layer'"),
        ("name: no_model", Exception, "this is no model"),
        ("name: nothing, options: {a: 1}", UsageError, "unexpected keyword"),
        ("name: greedy, form: onnx-ir", UnsupportedError, "has to be asked for by name"),
        ("name: THREE", UsageError, "is no pass and no function"),
        ("name: missing", UsageError, "no entry point of onnxgrow.passes is called 'missing'"),
        ("code: 'os:getcwd'", UsageError, "use --allow-code"),
    ],
)
def test_code_that_proves_nothing_is_refused_with_its_line(
    installed: None, step: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        done(f"steps:\n  - widen: {{layer: wa, add: 1}}\n  - pass: {{{step}}}")
    assert words in str(caught.value)
    assert "r.yaml:3" in str(caught.value)


@pytest.mark.parametrize("step", ["name: nothing", "name: doubled, form: onnx-ir"])
def test_code_that_declares_what_it_does_is_proved_like_any_step(installed: None, step: str) -> None:
    result = done(f"steps:\n  - pass: {{{step}}}\n  - widen: {{layer: wa, add: 1}}")
    assert result.report.verdict is Verdict.EQUIVALENT
    assert result.growth_map.history[0]["recipe"]["pass"] == "pass"


def test_modules_beside_the_recipe_run_when_code_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "beside_the_recipe.py").write_text("def same(graph):\n    return graph\n")
    recipe = replace(recipe_of("steps: [{pass: {code: 'beside_the_recipe:same'}}]"), folder=tmp_path)
    with pytest.raises(UsageError, match="--allow-code"):
        RunRecipe(recipe)
    assert "beside_the_recipe" not in sys.modules
    before = list(sys.path)
    assert RunRecipe(recipe, allow_code=True)(mlp()).report.verdict is Verdict.EQUIVALENT
    assert sys.path == before


INEXACT = "steps:\n  - widen: {layer: wa, add: 2}\n  - widen: {layer: wa, add: 2, method: near-zero, scale: 0.001}"


@pytest.mark.parametrize(("bound", "good"), [(None, False), (1e-9, False), (0.5, True)])
def test_an_inexact_step_is_changed_by_what_moved_from_end_to_end(bound: float | None, good: bool) -> None:
    proof = Proof(max_change=bound)
    if not good:
        with pytest.raises(NotEquivalentError):
            done(INEXACT, proof=proof)
        return
    report = done(INEXACT, proof=proof).report
    assert report.verdict is Verdict.CHANGED
    assert report.change is not None
    assert 0 < report.change < 0.5


def test_nothing_is_written_when_a_step_fails(installed: None, tmp_path: Path) -> None:
    recipe = recipe_of("steps:\n  - widen: {layer: wa, add: 1}\n  - pass: {name: Wrong}")
    with pytest.raises(NotEquivalentError):
        onnxgrow.apply(RunRecipe(recipe), mlp(), output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_outputs_grow_by_request_and_the_old_entries_are_compared() -> None:
    result = done("steps:\n  - widen: {layer: wa, add: 2}\n  - widen: {outputs: 'y=+2'}\n  - widen: {outputs: 'y=+1'}")
    assert result.report.verdict is Verdict.CHANGED
    assert result.report.change is None
    assert [(o.name, o.old, o.new) for o in result.report.outputs] == [("y", 3, 6)]
