"""A recipe: what is to be done with a model, in which order. Parsed and validated here, nothing is done."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxgrow.errors import UsageError
from onnxgrow.recipe.kinds import Integer, Number
from onnxgrow.recipe.steps import CUSTOM, CUSTOM_KEYS, STEPS, Key, StepKind
from onnxgrow.recipe.tree import Located, parse, read_text

__all__ = ["Recipe", "Step", "read_recipe", "recipe_of", "schema"]

VERSION = 1
_CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
MAX_CHANGE = Key("max-change", Number())
TOP = (Key("version", Integer()), Key("seed", Integer()), MAX_CHANGE)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        where: File and line.
        name: ``widen``, ``deepen`` … or ``pass``.
        kind: The pass; None for code of the user's own.
        arguments: For the pass; for own code: ``name`` or ``code``, ``form`` and ``options``.
        max_change: How much this step may change outputs; None to go by the whole recipe's bound.
    """

    where: str
    name: str
    kind: StepKind | None
    arguments: dict[str, Any]
    max_change: float | None = None

    @property
    def title(self) -> str:
        """The name, and that of the code where it is the user's own."""
        code = self.arguments.get("name") or self.arguments.get("code")
        return self.name if self.kind is not None else f"{self.name} {code}"


@dataclass(frozen=True)
class Recipe:
    """Steps in order, and the largest change of outputs that all of them may make together.

    Attributes:
        steps: At least one.
        max_change: Relative to the outputs' scale; None for none.
        folder: Where the recipe lies: modules beside it can be named in steps.
    """

    steps: tuple[Step, ...]
    max_change: float | None = None
    folder: Path | None = None


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        BadInputError, EnvironmentFault: The file cannot be read.
        UsageError: It is no recipe; subject is the file with the line.
    """
    return recipe_of(read_text(path), path.name, path.parent)


def recipe_of(text: str, file: str = "recipe", folder: Path | None = None) -> Recipe:
    """The recipe in a text of YAML 1.2 or JSON.

    Raises:
        UsageError: It is none; subject is ``file`` with the line.
    """
    top = parse(text, file)
    if not isinstance(top.value, dict):
        raise top.fault(f"{top.word()} where a recipe belongs", "it is a mapping with the key steps")
    found = _known(top, TOP, ("steps",), "a recipe")
    if found.get("version", VERSION) != VERSION:
        raise top.value["version"].fault(f"version {found['version']} is unknown", f"this onnxgrow reads {VERSION}")
    if "steps" not in top.value:
        raise top.fault("a recipe needs the key steps", "as in steps: [widen]")
    steps = top.value["steps"]
    if not isinstance(steps.value, list) or not steps.value:
        reason = "there is no step" if steps.value == [] else f"steps is {steps.word()}"
        raise steps.fault(reason, "it is a list, as in steps: [widen]", top.key_lines["steps"])
    return Recipe(tuple(_step(s, found.get("seed")) for s in steps.value), found.get("max_change"), folder)


def _step(given: Located, seed: int | None) -> Step:
    if isinstance(given.value, str):
        name, options, line = given.value, Located({}, given.file, given.line, {}), given.line
    elif isinstance(given.value, dict) and len(given.value) == 1:
        ((name, options),) = given.value.items()
        line = given.key_lines[name]
        if options.value is None:
            options = Located({}, given.file, line, {})
    else:
        word = f"{len(given.value)} keys" if isinstance(given.value, dict) else given.word()
        raise given.fault(f"{word} where one step belongs", "a step is a name, or name: {options}")
    where = f"{given.file}:{line}"
    if name != CUSTOM and name not in STEPS:
        raise given.fault(f"{name!r} is no step", _nearest(name, (*STEPS, CUSTOM), "one of "), line)
    if not isinstance(options.value, dict):
        raise options.fault(f"{options.word()} where the options of {name} belong", "as in widen: {factor: 2}")
    if name == CUSTOM:
        return _custom(options, where)
    kind = STEPS[name]
    arguments = _known(options, (*kind.keys, *((MAX_CHANGE,) if kind.is_inexact else ())), (), name)
    for key in kind.keys:
        if key.required and key.name not in options.value:
            raise given.fault(f"{name} needs the key {key.name}", "", line)
    if seed is not None and any(key.name == "seed" for key in kind.keys):
        arguments.setdefault("seed", seed)
    max_change = arguments.pop("max_change", None)
    try:
        kind.make(arguments)
    except UsageError as e:
        raise given.fault(f"{name}: {e.subject.replace('_', '-')}: {e.reason}", e.hint, line) from e
    return Step(where, name, kind, arguments, max_change)


def _custom(options: Located, where: str) -> Step:
    found = _known(options, (*CUSTOM_KEYS, MAX_CHANGE), (), CUSTOM)
    if ("name" in found) == ("code" in found):
        raise UsageError(where, "a step `pass` needs either name or code", "name an entry point, or module:function")
    if "code" in found and not _CODE.fullmatch(found["code"]):
        raise options.value["code"].fault(f"{found['code']!r} is not of the form module:function")
    max_change = found.pop("max_change", None)
    return Step(where, CUSTOM, None, found, max_change)


def _known(given: Located, keys: Sequence[Key], others: Sequence[str], what: str) -> dict[str, Any]:
    """What is given, read as its keys say; ``others`` are left for the caller."""
    by_name = {key.name: key for key in keys}
    found: dict[str, Any] = {}
    for name, value in given.value.items():
        if name in by_name:
            found[by_name[name].target] = by_name[name].kind.read(value)
        elif name not in others:
            hint = _nearest(name, (*by_name, *others), "its keys are ")
            raise given.fault(f"{what} has no key {name!r}", hint, given.key_lines[name])
    return found


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name.replace("_", "-"), names, 1)
    return f"did you mean {close[0]}?" if close else otherwise + ", ".join(names)


def schema() -> dict[str, Any]:
    """The JSON schema of recipes; ``recipe.schema.json`` beside this file holds it."""

    def options(keys: Iterable[Key]) -> dict[str, Any]:
        keys = tuple(keys)
        required = [key.name for key in keys if key.required]
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {key.name: key.kind.schema() for key in keys},
            **({"required": required} if required else {}),
        }

    steps: list[dict[str, Any]] = [
        {"enum": [n for n, kind in STEPS.items() if not any(key.required for key in kind.keys)]}
    ]
    for name, kind in STEPS.items():
        told = options((*kind.keys, *((MAX_CHANGE,) if kind.is_inexact else ())))
        optional = told if "required" in told else {"oneOf": [told, {"type": "null"}]}
        steps.append(_single(name, kind.about, optional))
    own = options((*CUSTOM_KEYS, MAX_CHANGE)) | {"oneOf": [{"required": ["name"]}, {"required": ["code"]}]}
    steps.append(_single(CUSTOM, "Run a pass of your own: an entry point of onnxgrow.passes, or module:function.", own))
    top = options(TOP)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:onnxgrow:recipe:{VERSION}",
        "title": f"onnxgrow recipe, version {VERSION}",
        "description": "What `onnxgrow run` does with a model, in order; see docs/recipes.md.",
        **top,
        "properties": {
            **top["properties"],
            "version": {"const": VERSION},
            "steps": {"type": "array", "minItems": 1, "items": {"oneOf": steps}},
        },
        "required": ["steps"],
    }


def _single(name: str, about: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": about,
        "additionalProperties": False,
        "properties": {name: options},
        "required": [name],
    }
