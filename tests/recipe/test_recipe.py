"""Recipes as data: what they say, what is refused on which line, and that schema, commands and passes agree."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import onnxgrow.recipe
from onnxgrow.cli.main import COMMANDS
from onnxgrow.errors import UsageError
from onnxgrow.passes import AddBlocks, CopyBlocks
from onnxgrow.recipe import Recipe, recipe_of
from onnxgrow.recipe.recipe import schema
from onnxgrow.recipe.steps import STEPS, StepKind
from onnxgrow.recipe.tree import parse

STORED = json.loads(Path(onnxgrow.recipe.__file__).with_name("recipe.schema.json").read_text(encoding="utf-8"))
EVERYTHING = """
version: 1
seed: 3
max-change: 1e-3
steps:
  - widen
  - fold:
  - widen: {layer: [stem, "op:Conv"], factor: 1.5, multiple-of: 8, init: orthogonal, residual: true, seed: 5}
  - widen: {layer: stem, method: near-zero, scale: 0.01, max-change: 0.1}
  - enlarge-kernel: {to: [5, 3], layer: stem}
  - deepen: {after: "*relu*", kernel: 3, depthwise: true, bias: false, activation: tanh, start: [0.9, 0.1]}
  - deepen: {every: 2, actiswitch: false}
  - actiswitch: {start: nonlinear, per-channel: true}
  - fold: {tolerance: 0.01, merge: true}
  - blocks: {copy: [0, last]}
  - blocks: {block: mlp, at: "*relu*", ratio: 2}
  - pass: {name: mine, options: {deep: [1, {a: null}]}}
  - pass: {code: "mine.passes:grow", form: onnx-ir}
"""


def test_a_recipe_says_what_the_passes_are_told() -> None:
    recipe = recipe_of(EVERYTHING)
    told = [(s.title, s.arguments, s.max_change) for s in recipe.steps]
    assert recipe.max_change == 0.001
    assert told[:4] == [
        ("widen", {"seed": 3}, None),
        ("fold", {}, None),
        (
            "widen",
            {
                "layers": ("stem", "op:Conv"),
                "factor": 1.5,
                "multiple_of": 8,
                "init": "orthogonal",
                "residual": True,
                "seed": 5,
            },
            None,
        ),
        ("widen", {"layers": ("stem",), "method": "near-zero", "scale": 0.01, "seed": 3}, 0.1),
    ]
    assert told[4] == ("enlarge-kernel", {"to": (5, 3), "layers": ("stem",)}, None)
    assert told[5][1]["start"] == (0.9, 0.1)
    assert told[7][1] == {"start": (0.0, 1.0), "per_channel": True}
    assert told[11] == ("pass mine", {"name": "mine", "options": {"deep": [1, {"a": None}]}}, None)
    assert [s.where for s in recipe.steps][:2] == ["recipe:6", "recipe:7"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[widen]", 1, "a list where a recipe belongs"),
        ("version: 1", 1, "needs the key steps"),
        ("version: 2\nsteps: [widen]", 1, "version 2 is unknown"),
        ("steps: []", 1, "no step"),
        ("steps: widen", 1, "it is a list"),
        ("steps: [widen]\nstep: [fold]", 2, "did you mean steps?"),
        ("steps:\n  - widen\n  - widne: {factor: 2}", 3, "did you mean widen?"),
        ("steps:\n  - enlarge_kernel: {to: 5}", 2, "did you mean enlarge-kernel?"),
        ("steps:\n  - nonsense", 2, "one of actiswitch, blocks"),
        ("steps:\n  - 3", 2, "a number where one step belongs"),
        ("steps:\n  - {widen: , fold: }", 2, "2 keys where one step belongs"),
        ("steps:\n  - widen: [2]", 2, "a list where the options of widen belong"),
        ("steps:\n  - widen:\n      factor: 2\n      layers: a", 4, "did you mean layer?"),
        ("steps:\n  - widen:\n      multiple_of: 2", 3, "did you mean multiple-of?"),
        ("steps:\n  - widen:\n      in-place: true", 3, "its keys are"),
        ("steps:\n  - widen:\n      factor: two", 3, "text where a number belongs"),
        ("steps:\n  - widen:\n      factor: -2", 3, "from 0 up"),
        ("steps:\n  - widen:\n      add: 1.5", 3, "a number where a whole number belongs"),
        ("steps:\n  - widen:\n      add: true", 3, "true or false where a whole number belongs"),
        ("steps:\n  - widen:\n      add: 0", 3, "not from 1"),
        ("steps:\n  - widen:\n      method: zero", 3, "one of zero-fan-out"),
        ("steps:\n  - widen:\n      layer:\n        - a\n        - 3", 5, "put quotes around it"),
        ("steps:\n  - widen:\n      layer: []", 3, "leave the key out"),
        ("steps:\n  - widen:\n      residual: yes", 3, "text where true or false belongs"),
        ("steps:\n  - fold\n  - widen: {scale: 0.1}", 3, "scale: it has no meaning with zero-fan-out"),
        ("steps:\n  - widen: {factor: 2, add: 3}", 2, "factor"),
        ("steps:\n  - deepen: {at: a, every: 2}", 2, "every"),
        ("steps:\n  - deepen:\n      start: [1, b]", 3, "text where a number belongs"),
        ("steps:\n  - deepen:\n      start: halfway", 3, "linear, nonlinear or [a, b]"),
        ("steps:\n  - enlarge-kernel", 2, "needs the key to"),
        ("steps:\n  - enlarge-kernel:\n      to: 5\n      max-change: 1", 4, "no key 'max-change'"),
        ("steps:\n  - blocks: {block: mlp, copy: 1}", 2, "it excludes block"),
        ("steps:\n  - blocks: {ratio: 2}", 2, "ratio: it is an option of new blocks"),
        ("steps:\n  - pass", 2, "either name or code"),
        ("steps:\n  - pass: {name: a, code: 'b:c'}", 2, "either name or code"),
        ("steps:\n  - pass:\n      code: os.system", 3, "module:function"),
        ("steps:\n  - pass:\n      code: 'a:b:c'", 3, "module:function"),
        ("steps:\n  - pass:\n      code: '../a:b'", 3, "module:function"),
        ("steps:\n  - pass:\n      name: a\n      options: 3", 4, "a mapping of options"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_of(text, "r.yaml")
    assert caught.value.subject == f"r.yaml:{line}"
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_schema_that_is_shipped_is_that_of_the_steps() -> None:
    jsonschema.Draft202012Validator.check_schema(STORED)
    assert schema() == STORED, "write onnxgrow.recipe.recipe.schema() to onnxgrow/recipe/recipe.schema.json"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (EVERYTHING, True),
        ("steps: [widen]", True),
        ("steps: []", False),
        ("steps: [nonsense]", False),
        ("steps: [enlarge-kernel]", False),
        ("steps: [{enlarge-kernel: }]", False),
        ("steps: [{widen: {layers: a}}]", False),
        ("steps: [{widen: {add: 0}}]", False),
        ("steps: [{widen: {factor: two}}]", False),
        ("steps: [{widen: , fold: }]", False),
        ("steps: [{deepen: {start: [1]}}]", False),
        ("steps: [{pass: {form: onnx}}]", False),
        ("{version: 2, steps: [widen]}", False),
        ("{steps: [widen], other: 1}", False),
    ],
)
def test_schema_and_reader_accept_the_same(text: str, good: bool) -> None:
    assert jsonschema.Draft202012Validator(STORED).is_valid(parse(text).plain()) is good
    if good:
        assert isinstance(recipe_of(text), Recipe)
    else:
        with pytest.raises(UsageError):
            recipe_of(text)


GENERAL = {"help", "model", "output", "max_change", "freeze_old"}
PASSES = {"blocks": (AddBlocks, CopyBlocks)}
NEGATED = {"no_actiswitch": "actiswitch"}


def command(name: str) -> Any:
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"onnxgrow.cli.{module}"), module)


@pytest.mark.parametrize("kind", STEPS.values(), ids=STEPS)
def test_keys_of_a_step_are_the_arguments_of_its_pass(kind: StepKind) -> None:
    module, _, name = kind.target.partition(":")
    classes = PASSES.get(kind.name) or (getattr(importlib.import_module(module), name),)
    arguments = {argument for c in classes for argument in inspect.signature(c).parameters}
    assert {key.target for key in kind.keys} == arguments - {"proof"}


@pytest.mark.parametrize("kind", STEPS.values(), ids=STEPS)
def test_keys_of_a_step_are_the_options_of_its_command(kind: StepKind) -> None:
    def told(name: str) -> set[str]:
        return {p.opts[-1].lstrip("-").replace("-", "_") for p in command(name).params}

    options = {NEGATED.get(o, o) for o in told(kind.name) - told("run") - GENERAL}
    assert {key.name.replace("-", "_") for key in kind.keys} == options
    has_bound = any("--max-change" in p.opts for p in command(kind.name).params)
    assert kind.is_inexact is has_bound


def test_every_growing_command_is_a_step() -> None:
    growing = {n for n in COMMANDS if any("--in-place" in p.opts for p in command(n).params)}
    assert growing - {"run"} == set(STEPS)
