"""A user's own pass as a step: a growth pass, an ``onnx_ir`` pass, or a function over a graph.

What such code does to a model is believed no more than what a pass of this package does: the result is proved by the
growth map that it declares. What changes a model and declares nothing is refused, since nothing can be proved then.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxgrow.errors import GrowError, NotEquivalentError, UsageError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io import Loaded, copy_model, give_back, load, save_bytes
from onnxgrow.io.carry import model_carried
from onnxgrow.passes.base import Grown, GrowthPass, lineage
from onnxgrow.recipe.recipe import Step
from onnxgrow.verify.report import TierStatus

__all__ = ["GROUP", "CustomPass", "find_pass"]

GROUP = "onnxgrow.passes"
"""Entry points of installed packages under which a recipe finds passes by name."""
HINT = "return (model, onnxgrow.GrowthMap(...)) that lists what is new, or derive from onnxgrow.GrowthPass"


def find_pass(step: Step, folder: Path | None, allow_code: bool) -> GrowthPass:
    """The pass that a step ``pass`` names, told its options.

    Args:
        step: The step.
        folder: Modules in it can be named, after all that is installed.
        allow_code: Whether ``code`` may be imported and run.

    Raises:
        UsageError: There is no such pass, it cannot be made, or code is not allowed; subject is the recipe's line.
    """
    name, code = step.arguments.get("name"), step.arguments.get("code")
    options: dict[str, Any] = step.arguments.get("options", {})
    if code is not None and not allow_code:
        raise UsageError(step.where, f"the recipe runs code of its own, {code}", "look at it, then use --allow-code")
    found = _installed(step, name) if name is not None else _imported(step, str(code), folder)
    if isinstance(found, type) and issubclass(found, ir.passes.PassBase):
        with _blamed(step, "it cannot be made"):
            found = found(**options)
        options = {}
    if isinstance(found, ir.passes.PassBase) and options:
        raise UsageError(step.where, f"{step.title} is made already and takes no options")
    if isinstance(found, GrowthPass):
        return found
    if not callable(found):
        raise UsageError(step.where, f"{step.title} is no pass and no function", "see docs/recipes.md")
    form = "onnx-ir" if isinstance(found, ir.passes.PassBase) else "graphsurgeon"
    return CustomPass(step, found, step.arguments.get("form", form), options)


def _installed(step: Step, name: str) -> Any:
    known = entry_points(group=GROUP)
    if name not in known.names:
        others = (
            f"there are {', '.join(sorted(known.names))}" if known.names else "no package that is installed has one"
        )
        raise UsageError(step.where, f"no entry point of {GROUP} is called {name!r}", others)
    with _blamed(step, "it cannot be imported"):
        return known[name].load()


def _imported(step: Step, code: str, folder: Path | None) -> Any:
    module, _, attribute = code.partition(":")
    added = [] if folder is None else [str(folder.resolve())]
    sys.path.extend(added)  # behind everything else: a recipe's folder replaces no installed module
    try:
        with _blamed(step, "it cannot be imported"):
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            return found
    finally:
        for entry in added:
            sys.path.remove(entry)


@contextmanager
def _blamed(step: Step, what: str) -> Iterator[None]:
    """Whatever code of a user raises, as one error about the step."""
    try:
        yield
    except GrowError:
        raise
    except Exception as e:
        text = " ".join(str(e).split())[:200]
        reason = f"{step.title}: {what}: {type(e).__name__}" + (f": {text}" if text else "")
        raise UsageError(step.where, reason, "--debug shows the traceback") from e


class CustomPass(GrowthPass):
    """A function, or a pass of ``onnx_ir``, as a growth pass.

    It gets a model that it may change, in the form it wants, and gives back a model of any kind, None for the one it
    was given, a :class:`onnxgrow.GrowthMap` that goes with that one, or (model, growth map). The map lists what is new
    or changed; digests, original, generation, versions and history are filled in here.

    Args:
        step: What the recipe says.
        function: The code.
        form: What it wants: ``graphsurgeon``, ``onnx-ir`` or ``onnx``.
        options: Its keyword arguments.

    Raises:
        UsageError: When called: the code failed, or gave back something else.
        UnsupportedError: When called: a ``onnx_graphsurgeon.Graph`` cannot hold the model.
        NotEquivalentError: When called: it changed the model and declared nothing.
    """

    def __init__(self, step: Step, function: Callable[..., Any], form: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.step, self.function, self.form, self.options = step, function, form, dict(options)

    def grow(self, model: ir.Model) -> Grown:
        """Run the code on a copy of ``model``."""
        self.proof.say(f"running {self.step.title}")
        past = lineage(model)
        given = self._given(model)
        with _blamed(self.step, "it failed"):
            returned = self.function(given, **self.options)
        result, declared = self._taken(given, returned)
        for key, value in model.metadata_props.items():
            result.metadata_props.setdefault(key, value)  # a graphsurgeon.Graph has no place for them
        result.metadata_props.pop(METADATA_KEY, None)
        if declared is None:
            self._refuse_change(model, result)
            declared = GrowthMap()
        told = {k: v for k, v in self.step.arguments.items() if k != "options"}
        listed = replace(
            declared,
            original=past.original,
            generation=past.generation,
            versions=past.versions,
            history=past.history,
            recipe={"pass": self.step.name, **told, "options": self.options},
            tensors={name: replace(tensor, sha256="") for name, tensor in declared.tensors.items()},
        )
        self._check_listed(result, listed)
        return Grown(result, listed, _plan(self.step, listed))

    def _given(self, model: ir.Model) -> Any:
        if self.form == "onnx-ir":
            return copy_model(model)
        if self.form == "onnx":
            return onnx.ModelProto.FromString(save_bytes(model))
        return give_back(Loaded(model, "graphsurgeon", None, model_carried(model), None), model)

    def _taken(self, given: Any, returned: Any) -> tuple[ir.Model, GrowthMap | None]:
        if isinstance(returned, ir.passes.PassResult):
            returned = returned.model
        declared: Any = None
        if isinstance(returned, tuple) and len(returned) == 2:
            returned, declared = returned
        elif isinstance(returned, GrowthMap):
            returned, declared = None, returned
        if declared is not None and not isinstance(declared, GrowthMap):
            raise UsageError(self.step.where, f"{self.step.title} gave back no growth map beside the model", HINT)
        model = given if returned is None else returned
        if isinstance(model, str | os.PathLike):
            raise UsageError(self.step.where, f"{self.step.title} gave back a path, which is no model", HINT)
        return load(model).model, declared

    def _refuse_change(self, model: ir.Model, result: ir.Model) -> None:
        from onnxgrow.verify.judge import verify

        before = copy_model(model)
        before.metadata_props.pop(METADATA_KEY, None)
        report = verify(before, result, tiers=("accounting",))
        accounting = report.tier("accounting")
        if accounting is None or accounting.status is TierStatus.PASSED:
            return
        first = accounting.findings[0]
        reason = f"unproved: {self.step.title} changed the model and declared no growth map: "
        raise NotEquivalentError(self.step.where, f"{reason}{first.subject}: {first.reason}", HINT, report)

    def _check_listed(self, result: ir.Model, listed: GrowthMap) -> None:
        """Refuse a map of tensors that the result does not have: they have no digest."""
        from onnxgrow.concrete.bodies import Scopes
        from onnxgrow.concrete.values import constants

        held = Scopes(result).named_constants().keys() | constants(result).keys()
        for name in listed.tensors:
            if name not in held:
                reason = f"{self.step.title} declared a tensor {name!r} that its result does not have"
                raise UsageError(self.step.where, reason)


def _plan(step: Step, listed: GrowthMap) -> dict[str, Any]:
    """What can be said of code in advance: what its growth map lists."""
    return {
        "recipe": dict(listed.recipe),
        "layers": [],
        "skipped": {},
        "notes": [
            f"{step.title} declares {len(listed.inserted)} nodes inserted, {len(listed.removed)} removed, "
            f"{len(listed.nodes)} changed, and {len(listed.tensors)} tensors new or changed"
        ],
    }
