"""What will be inserted where: decided from the graph and from shapes; no weight is read, but for masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxgrow.analysis.study import Study
from onnxgrow.errors import UnsupportedError
from onnxgrow.passes.deepen.called import OLDEST_IR
from onnxgrow.passes.deepen.functions import AUTO, FUNCTIONS
from onnxgrow.passes.deepen.layer import Layer, planned_layer
from onnxgrow.passes.deepen.places import Illegal, Place, Places, collect
from onnxgrow.passes.deepen.signs import never_negative
from onnxgrow.passes.deepen.switch import LINEAR, Start, Switch, is_factor
from onnxgrow.passes.deepen.unary import ACTIVATIONS
from onnxgrow.passes.left_out import left_out

__all__ = ["InsertionPlan", "Part", "SwitchRequest", "Where", "plan_layers", "plan_switches"]

NEAR_RELU = ("leaky-relu", "relu")


@dataclass(frozen=True)
class Where:
    """Places asked for.

    Attributes:
        at: Selectors of values or of the nodes that make them: for all that read the value.
        after: Selectors of nodes, the same.
        before: Selectors of nodes: in front of the first computed input, for that node only.
        every: Of the automatic places, where no selector is given, every n-th.
    """

    at: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    every: int = 1

    @property
    def named(self) -> bool:
        return bool(self.at or self.after or self.before)

    def notes(self, found: Study) -> tuple[str, ...]:
        """What the automatic places leave out."""
        return () if self.named else left_out(found, ACTIVATIONS, "activations", bodies=True)

    def to_json(self) -> dict[str, Any]:
        given = {"at": list(self.at), "after": list(self.after), "before": list(self.before)}
        return {k: v for k, v in given.items() if v} or {"every": self.every}

    def chosen(self, places: Places) -> Iterator[tuple[str, Callable[[], Place], bool]]:
        """(label, how to find the place, whether it was named literally), those in front of single nodes last."""
        values = [] if self.named else [(v, False) for v in places.automatic()[:: self.every]]
        if self.at:
            values += places.values(self.at)
        if self.after:
            values += [(n.outputs[0].name or "", literal) for n, literal in places.nodes(self.after)]
        for value, literal in values:
            yield value, _behind(places, value), literal
        for node, literal in places.nodes(self.before) if self.before else ():
            label = node.name or node.outputs[0].name or node.op_type
            yield label, _before(places, node), literal


def _behind(places: Places, value: str) -> Callable[[], Place]:
    return lambda: places.behind(value)


def _before(places: Places, node: Any) -> Callable[[], Place]:
    return lambda: places.before(node)


@dataclass(frozen=True)
class SwitchRequest:
    """The ActiSwitches asked for.

    Attributes:
        function: A name of ``FUNCTIONS``, or ``auto``: SiLU where values have both signs, tanh where they have one.
        start: a and b at the start.
        per_channel: Whether each channel has its own.
        as_function: Whether each is one call of a local function.
    """

    function: str = AUTO
    start: Start = LINEAR
    per_channel: bool = False
    as_function: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"activation": self.function, **self.shared()}

    def shared(self) -> dict[str, Any]:
        """What switches around existing activations can be told, too."""
        told = {"start": list(self.start), "per_channel": self.per_channel}
        return told | ({"as_function": True} if self.as_function else {})

    def check(self, model: ir.Model) -> None:
        """Raises UnsupportedError where the model cannot hold functions."""
        if self.as_function and model.ir_version < OLDEST_IR:
            reason = f"the model's IR version is {model.ir_version}; local functions need {OLDEST_IR}"
            raise UnsupportedError("--as-function", reason, "leave it out")


@dataclass(frozen=True)
class Part:
    """What goes to one place: a layer, a switch, or a switch behind a layer."""

    layer: Layer | None
    switch: Switch | None

    @property
    def place(self) -> Place:
        part = self.layer or self.switch
        assert part is not None
        return part.place

    def to_json(self) -> dict[str, Any]:
        layer, switch = self.layer, self.switch
        found: dict[str, Any] = {"place": self.place.value, "channels": self.place.channels}
        if layer is not None:
            found["name"] = f"{self.place.base}.identity"
            found["layer"] = layer.op_type
            if layer.kernel:
                found |= {"kernel": list(layer.kernel), "depthwise": layer.depthwise}
        if switch is not None:
            found.setdefault("name", f"{self.place.base}.actiswitch")
            found |= {"activation": switch.function, "start": list(switch.start), "per_channel": switch.per_channel}
        return found


@dataclass(frozen=True)
class InsertionPlan:
    """Parts to insert, and places that were meant but are not legal, with the reason.

    Attributes:
        recipe: What was asked for, JSON data.
        parts: In the order of insertion.
        skipped: Place → why nothing is inserted there.
        notes: Remarks.
        parameters, flops: (before, after).
    """

    recipe: Mapping[str, Any]
    parts: tuple[Part, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]

    @property
    def exact(self) -> bool:
        return all(p.switch is None or p.switch.exact for p in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": dict(self.recipe),
            "layers": [p.to_json() for p in self.parts],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "parameters": {"old": self.parameters[0], "new": self.parameters[1]},
            "flops": {"old": self.flops[0], "new": self.flops[1]},
        }


def plan_layers(
    found: Study,
    where: Where,
    kernel: int | tuple[int, ...],
    depthwise: bool,
    bias: bool,
    switch: SwitchRequest | None,
) -> InsertionPlan:
    """Identity layers, each with an ActiSwitch behind it where ``switch`` says so.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: A place that was named is not legal, or no place is.
    """
    if switch is not None:
        switch.check(found.given)
    places = Places(found)
    layers: dict[tuple[str, tuple[tuple[str, int], ...]], Layer] = {}

    def with_layer(find: Callable[[], Place]) -> Callable[[], Place]:
        def place() -> Place:
            made = find()
            layers.setdefault((made.value, made.readers), planned_layer(made, kernel, depthwise, bias))
            return made

        return place

    chosen = [(label, with_layer(find), literal) for label, find, literal in where.chosen(places)]
    nothing = "it has no hidden activations to insert layers behind"
    legal, skipped = collect(chosen, "the network", "; ".join((nothing, *where.notes(found))))
    chooser = _Chooser(places)
    parts = tuple(
        Part(layers[p.value, p.readers], None if switch is None else chooser.switch(p, switch)) for p in legal
    )
    recipe: dict[str, Any] = {"pass": "deepen", **where.to_json(), "depthwise": depthwise, "bias": bias}
    recipe["kernel"] = kernel if isinstance(kernel, int) else list(kernel)
    recipe["actiswitch"] = None if switch is None else switch.to_json()
    return _priced(found, recipe, parts, skipped, (*chooser.notes, *where.notes(found)))


def plan_switches(found: Study, where: Where, switch: SwitchRequest) -> InsertionPlan:
    """ActiSwitches around existing activations.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: A place that was named is not legal, or no place is.
    """
    switch.check(found.given)
    places = Places(found)
    wrapped: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[str, str]] = {}

    def around(find: Callable[[], Place]) -> Callable[[], Place]:
        def place() -> Place:
            made = find()
            activation = places.activations.of(made.value)
            if activation is None:
                raise Illegal("it is not the result of an activation", "`onnxgrow deepen` adds new ones")
            read = {v.name for n in activation.nodes for v in n.inputs if v is not None and v.name}
            if any(is_factor(places.network, name) for name in read):
                raise Illegal("it is an ActiSwitch already")
            if not places.holds(activation.input):
                raise Illegal("it is made of an activation inside a local function")
            places.finite(activation.input)
            if places.network.shape(activation.input) != made.shape:
                raise Illegal(f"it and {activation.input}, which the activation reads, differ in shape")
            ops = [n.op_type for n in places.network.nodes if n in activation.nodes]
            wrapped[made.value, made.readers] = (activation.input, "+".join(ops))
            return made

        return place

    chosen = [(label, around(find), literal) for label, find, literal in where.chosen(places)]
    legal, skipped = collect(chosen, "the network", "; ".join(("it has no hidden activations", *where.notes(found))))
    notes = []
    parts = []
    for place in legal:
        source, ops = wrapped[place.value, place.readers]
        if source in never_negative(found.analysis.network) and ops == "Relu":
            notes.append(f"{place.value}: its ReLU reads no negative values, so a and b do the same")
        made = Switch(place, ops, switch.start, switch.per_channel, source, switch.as_function)
        parts.append(Part(None, made))
    recipe = {"pass": "actiswitch", **where.to_json(), **switch.shared()}
    return _priced(found, recipe, tuple(parts), skipped, (*notes, *where.notes(found)))


class _Chooser:
    """Picks the function of a new ActiSwitch, and remarks on odd ones."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._positive = never_negative(places.network)
        self.notes: list[str] = []

    def switch(self, place: Place, request: SwitchRequest) -> Switch:
        one_sided = place.value in self._positive
        function = request.function if request.function != AUTO else "tanh" if one_sided else "silu"
        opset, since = self._places.network.opsets.get("", 1), FUNCTIONS[function].since
        if opset < since:
            raise UnsupportedError(function, f"the model's opset is {opset}; it needs {since}", "choose --activation")
        if one_sided and function in NEAR_RELU:
            self.notes.append(f"{place.value} is never negative: {function} there starts as the same as a·x, try tanh")
        return Switch(place, function, request.start, request.per_channel, as_function=request.as_function)


def _priced(
    found: Study,
    recipe: Mapping[str, Any],
    parts: tuple[Part, ...],
    skipped: Mapping[str, str],
    notes: Sequence[str],
) -> InsertionPlan:
    cost = found.analysis.cost
    parameters, flops = cost.total_parameters({}), cost.total_flops({})
    added = [p for part in parts for p in (part.layer, part.switch) if p is not None]
    return InsertionPlan(
        recipe,
        parts,
        skipped,
        tuple(notes),
        (parameters, parameters + sum(p.parameters for p in added)),
        (flops, flops + sum(p.flops for p in added)),
    )
