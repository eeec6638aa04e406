"""The steps that a recipe can have: one entry each.

To add a pass, add its :class:`StepKind` to :data:`STEPS`. Its keys are the options of its command. The growth map that
it makes has to keep them in ``recipe`` under the names of its arguments, with the step's name as ``pass``, so that the
step can be done again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxgrow.errors import UsageError
from onnxgrow.names import ACTIVATIONS, BLOCKS, INITS, METHODS
from onnxgrow.recipe.kinds import Choice, Data, Flag, Integer, Kind, Number, Sizes, Start, Text, Texts

if TYPE_CHECKING:
    from onnxgrow.passes.base import GrowthPass

__all__ = ["CUSTOM", "CUSTOM_KEYS", "FORMS", "STEPS", "Key", "StepKind", "arguments_of"]


@dataclass(frozen=True)
class Key:
    """A key of a step.

    Attributes:
        name: As users write it: the option of the command, without dashes in front.
        kind: What its value may be.
        argument: Name of the pass's argument, where that is another one.
        required: Whether it has to be given.
    """

    name: str
    kind: Kind
    argument: str = ""
    required: bool = False

    @property
    def target(self) -> str:
        """Name of the pass's argument."""
        return self.argument or self.name.replace("-", "_")


def _as_it_is(recorded: dict[str, Any]) -> dict[str, Any]:
    return recorded


@dataclass(frozen=True)
class StepKind:
    """A pass as a step.

    Attributes:
        name: That of its command.
        target: Module and class, imported when the step is made.
        about: What it does.
        keys: What it can be told.
        recorded: Turns what its growth map keeps as ``recipe`` into arguments.
        is_inexact: Whether it may change the function on request, which needs ``max-change``.
        records: What its growth maps call it; its name where nothing is given.
    """

    name: str
    target: str
    about: str
    keys: tuple[Key, ...]
    recorded: Callable[[dict[str, Any]], dict[str, Any]] = _as_it_is
    is_inexact: bool = False
    records: tuple[str, ...] = ()

    def make(self, arguments: Mapping[str, Any]) -> GrowthPass:
        """The pass. Raises UsageError where it refuses its arguments."""
        module, _, name = self.target.partition(":")
        made: GrowthPass = getattr(importlib.import_module(module), name)(**arguments)
        return made


def _deepened(recorded: dict[str, Any]) -> dict[str, Any]:
    """A growth map keeps the switch as a record of its own."""
    switch = recorded.pop("actiswitch", None)
    return recorded | ({"actiswitch": False} if switch is None else dict(switch))


_AT = (Key("at", Texts()), Key("after", Texts()), Key("every", Integer(1)))
_SWITCH = (Key("start", Start()), Key("per-channel", Flag()), Key("as-function", Flag()))

STEPS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind(
            "widen",
            "onnxgrow.passes:Widen",
            "Give layers more channels.",
            (
                Key("layer", Texts(), "layers"),
                Key("outputs", Texts()),
                Key("factor", Number()),
                Key("add", Integer(1)),
                Key("to", Integer(1)),
                Key("multiple-of", Integer(1)),
                Key("method", Choice(METHODS)),
                Key("scale", Number()),
                Key("init", Choice(INITS)),
                Key("residual", Flag()),
                Key("seed", Integer()),
            ),
            is_inexact=True,
        ),
        StepKind(
            "deepen",
            "onnxgrow.passes:InsertIdentity",
            "Insert layers that start as identities.",
            (
                *_AT,
                Key("before", Texts()),
                Key("kernel", Sizes()),
                Key("depthwise", Flag()),
                Key("bias", Flag()),
                Key("actiswitch", Flag()),
                Key("activation", Choice(ACTIVATIONS)),
                *_SWITCH,
            ),
            _deepened,
            is_inexact=True,
        ),
        StepKind(
            "blocks",
            "onnxgrow.recipe.steps:make_blocks",
            "Insert residual blocks that start as zero, new ones or copies.",
            (
                Key("block", Choice(BLOCKS)),
                Key("copy", Texts(numbers=True)),
                Key("at", Texts()),
                Key("after", Texts(numbers=True)),
                Key("before", Texts()),
                Key("every", Integer(1)),
                Key("ratio", Number()),
                Key("kernel", Sizes()),
                Key("activation", Choice(ACTIVATIONS)),
                Key("seed", Integer()),
            ),
            records=("add-blocks", "copy-blocks"),
        ),
        StepKind(
            "actiswitch",
            "onnxgrow.passes:AddActiSwitch",
            "Let activations blend into linear paths: a·x + b·f(x).",
            (*_AT, *_SWITCH),
            is_inexact=True,
        ),
        StepKind(
            "enlarge-kernel",
            "onnxgrow.passes:EnlargeKernel",
            "Give convolutions larger kernels.",
            (Key("to", Sizes(), required=True), Key("layer", Texts(), "layers")),
        ),
        StepKind(
            "fold",
            "onnxgrow.passes:Fold",
            "Take out ActiSwitches that converged.",
            (Key("tolerance", Number()), Key("merge", Flag())),
            is_inexact=True,
        ),
    )
}
"""Name → step."""


def make_blocks(*, block: str | None = None, copy: tuple[str, ...] = (), every: int = 1, **told: Any) -> GrowthPass:
    """The pass of a step ``blocks``: new blocks of a kind, or copies of layers.

    Raises:
        UsageError: Options of both.
    """
    from onnxgrow.passes import AddBlocks, CopyBlocks

    if block is not None and copy:
        raise UsageError("copy", "it excludes block", "make two steps for both")
    if block is not None:
        return AddBlocks(block, every=every, **told)
    told.pop("seed", None)  # copies draw nothing
    after = told.pop("after", ())
    if told:
        raise UsageError(next(iter(told)), "it is an option of new blocks", "name their kind with block")
    return CopyBlocks(copy, every=every, after=single(after))


def single(after: Sequence[str] | str) -> str | None:
    """The one place where copies go; None where none is named. Raises UsageError for several."""
    named = (after,) if isinstance(after, str) else tuple(after)
    if len(named) > 1:
        raise UsageError("after", "copies go to one place", "make a step for each place")
    return named[0] if named else None


CUSTOM = "pass"
"""The step that runs code of the user's own."""
FORMS = ("graphsurgeon", "onnx-ir", "onnx")
"""What such code is given: a ``onnx_graphsurgeon.Graph``, an ``onnx_ir.Model`` or an ``onnx.ModelProto``."""
CUSTOM_KEYS = (Key("name", Text()), Key("code", Text()), Key("form", Choice(FORMS)), Key("options", Data()))


def arguments_of(recipe: Mapping[str, Any], seed: int) -> tuple[StepKind, dict[str, Any]]:
    """The step and the arguments behind the ``recipe`` of a growth map.

    Raises:
        KeyError: No known step made it.
    """
    recorded = dict(recipe)
    name = recorded.pop("pass", None)
    kind = {made: kind for kind in STEPS.values() for made in kind.records or (kind.name,)}[name]
    if any(key.name == "seed" for key in kind.keys):
        recorded["seed"] = seed
    return kind, kind.recorded(recorded)
