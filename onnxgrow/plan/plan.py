"""What will be done, before it is done: pure, printable, weights untouched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from onnxgrow.algebra import Growth, Term
from onnxgrow.analysis import Analysis, ChannelSet, find_patches
from onnxgrow.analysis.demand import grants
from onnxgrow.analysis.stream import Residual
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.init import scheme_names
from onnxgrow.names import METHODS
from onnxgrow.plan.outputs import OutputRequest, output_notes, output_problem, select_outputs
from onnxgrow.plan.randomness import refuse_random
from onnxgrow.plan.residual import chosen_way, residual_problem
from onnxgrow.plan.select import select
from onnxgrow.plan.sizes import ADVISED_FACTOR, Target
from onnxgrow.plan.zero_path import zero_path_problem
from onnxgrow.rules import find_rule
from onnxgrow.rules.refusals import REFUSALS

__all__ = ["METHODS", "PlannedSet", "WidenPlan", "WidenRequest", "plan_widen"]

EXACT = ("zero-fan-out", "zero-fan-in")
DEFAULT_SCALE = 0.01


@dataclass(frozen=True)
class WidenRequest:
    """What the user wants of a widening.

    Attributes:
        layers: Selectors; None for every growable set.
        target: Wanted sizes.
        method: One of ``METHODS``: which side of the new channels is zero, or how they are split.
        scale: For ``near-zero``: standard deviation of the new reader entries relative to that of the old ones.
        init: Scheme for the new writer (or, with ``zero-fan-in``, reader) entries.
        seed: Of the random values.
        residual: Whether residual-stream widths grow too when no layers are named.
        outputs: Graph outputs that grow, each by its own size; without ``layers`` nothing else does.
    """

    layers: tuple[str, ...] | None = None
    target: Target = field(default_factory=Target)
    method: str = "zero-fan-out"
    scale: float | None = None
    init: str = "kaiming"
    seed: int = 0
    residual: bool = False
    outputs: tuple[OutputRequest, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError("method", f"{self.method!r} is unknown", f"one of {', '.join(METHODS)}")
        if self.scale is not None and self.method != "near-zero":
            raise UsageError("scale", f"it has no meaning with {self.method}", "use --method near-zero")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError("scale", f"{self.scale} is not a positive number")
        if self.init not in scheme_names():
            raise UsageError("init", f"{self.init!r} is unknown", f"one of {', '.join(scheme_names())}")
        if self.outputs:
            self._check_outputs()
        elif self.init == "zeros" and self.exact:
            raise UsageError("init", "with zeros on both sides of a new channel it would never learn")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", f"{self.seed} is not between 0 and 2^63 - 1")

    def _check_outputs(self) -> None:
        if self.method != "zero-fan-out":
            raise UsageError("outputs", f"they cannot grow by {self.method}", "use zero-fan-out")
        if self.layers is None and (self.target != Target() or self.residual):
            raise UsageError("outputs", "without layers only they grow, each to its own size", "name layers, too")
        if self.layers is not None and self.init == "zeros":
            raise UsageError("init", "with zeros on both sides a new channel of the layers would never learn")

    @property
    def exact(self) -> bool:
        """Whether the method keeps the function exactly."""
        return self.method in EXACT

    @property
    def draws(self) -> bool:
        """Whether writers of new channels get random values."""
        return self.method in ("zero-fan-out", "near-zero") and self.init != "copy"

    @property
    def noise(self) -> float:
        """The scale, with its default."""
        return self.scale if self.scale is not None else DEFAULT_SCALE

    def to_json(self) -> dict[str, Any]:
        """The recipe that the growth map keeps."""
        out: dict[str, Any] = {"pass": "widen", "method": self.method, "init": self.init}
        if self.layers is not None:
            out["layers"] = list(self.layers)
        out.update({k: v for k, v in asdict(self.target).items() if v is not None and (k, v) != ("multiple_of", 1)})
        if self.method == "near-zero":
            out["scale"] = self.noise
        if self.residual:
            out["residual"] = True
        if self.outputs:
            out["outputs"] = [str(request) for request in self.outputs]
        return out


@dataclass(frozen=True)
class PlannedSet:
    """One set and its size after the widening.

    Attributes:
        channel_set: The set.
        new: Its new size.
        way: What its new channels hold, for the width of a residual stream; else None.
    """

    channel_set: ChannelSet
    new: int
    way: Residual | None = None

    @property
    def added(self) -> int:
        return self.new - self.channel_set.size


@dataclass(frozen=True)
class WidenPlan:
    """Sets that grow, and those that were meant but stay as they are, with the reason.

    Attributes:
        request: What was asked for.
        sets: Sets that grow.
        skipped: Set name → why it stays.
        notes: Advice for the user.
        parameters, flops: (before, after) of the network's weights and of its linear ops, for the analysed shapes.
    """

    request: WidenRequest
    sets: tuple[PlannedSet, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]

    @property
    def growth(self) -> dict[Term, int]:
        """The growth of the algebra."""
        return {p.channel_set.atom: p.added for p in self.sets}

    def of(self, part: Analysis) -> WidenPlan:
        """The plan for one graph: the main one, or a body."""
        own = {s.atom for s in part.own_sets}
        return replace(self, sets=tuple(p for p in self.sets if p.channel_set.atom in own))

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.request.to_json(),
            "seed": self.request.seed,
            "sets": [
                {"name": p.channel_set.name, "old": p.channel_set.size, "new": p.new}
                | ({"residual": p.way.mode} if p.way is not None else {})
                for p in self.sets
            ],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "parameters": {"old": self.parameters[0], "new": self.parameters[1]},
            "flops": {"old": self.flops[0], "new": self.flops[1]},
        }


def plan_widen(analysis: Analysis, request: WidenRequest) -> WidenPlan:
    """Decide what grows, and to what size.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: Nothing that was selected can grow; the reasons are named. Or the network is random.
    """
    for part in analysis.parts:
        refuse_random(part.network)
    ends = {s.atom: size for s, size in select_outputs(analysis, request.outputs)}
    chosen = [] if request.outputs and request.layers is None else select(analysis, request.layers)
    chosen = [s for s in analysis.sets if s.atom in ends or s in chosen]
    asked = request.residual or request.layers is not None
    homes = {s.atom: part for part in analysis.parts for s in part.own_sets}
    planned: list[PlannedSet] = []
    skipped: dict[str, str] = {}
    for channel_set in chosen:
        if not channel_set.growable:
            skipped[channel_set.name] = "; ".join(str(r) for r in channel_set.reasons[:3])
            continue
        if channel_set.outputs and channel_set.atom not in ends:
            skipped[channel_set.name] = output_problem(channel_set)
            continue
        new = ends.get(channel_set.atom) or request.target.size(channel_set.size)
        if new <= channel_set.size:
            skipped[channel_set.name] = f"it has {channel_set.size} channels already"
            continue
        problem = _method_problem(homes[channel_set.atom], channel_set, request.method)
        if problem:
            skipped[channel_set.name] = problem
            continue
        way = None
        if channel_set.residual:
            way = chosen_way(channel_set, new)
            named = asked or channel_set.atom in ends
            problem = residual_problem(channel_set, new, request.method, request.init, asked=named)
            if problem:
                skipped[channel_set.name] = problem
                continue
        planned.append(PlannedSet(channel_set, new, way))
    if not planned:
        raise _nothing_grows(analysis, request, skipped)
    _check_planned(planned, ends, skipped)
    growth = {p.channel_set.atom: p.added for p in planned}
    grown = [part for part in analysis.parts if any(s.atom in growth for s in part.own_sets)]
    stuck = [u.reason for part in grown for u in find_patches(part.dims, growth).unsolved]
    stuck += [r.reason for part in grown for r in grants(part.dims, growth)[1]]
    if stuck:
        raise UnsupportedError(stuck[0].node, stuck[0].why, "select fewer layers")
    notes = (*output_notes(analysis, growth), *_notes(request, planned), *analysis.notes)
    return WidenPlan(request, tuple(planned), skipped, notes, *_totals(analysis, growth))


def _check_planned(planned: Sequence[PlannedSet], ends: Mapping[Term, int], skipped: Mapping[str, str]) -> None:
    """An output that was asked for grows, or nothing does. Raises UnsupportedError."""
    if len(ends) > len([p for p in planned if p.channel_set.atom in ends]):
        name, reason = next(iter(skipped.items()))
        raise UnsupportedError(name, reason)


def _method_problem(analysis: Analysis, channel_set: ChannelSet, method: str) -> str:
    """Why a growable set cannot grow by this method; empty when it can."""
    if method == "zero-fan-in":
        return zero_path_problem(analysis, channel_set)
    if method == "net2wider" and channel_set.atom in analysis.dims.contracted:
        return "two computed values are multiplied over it: channels that are copied on both sides would count twice"
    return ""


def _no_weights(analysis: Analysis) -> str:
    """Why there is no channel set at all."""
    uses = analysis.dims.linears()
    if uses:
        node = uses[0].node
        value = node.inputs[uses[0].index]
        maker = value.producer() if value is not None else None
        how = f" ({maker.op_type})" if maker is not None else ""
        return f"it has no weights whose channels could grow: {node.op_type} reads a weight that is computed{how}"
    if analysis.notes:
        return f"it has no weights whose channels could grow: {analysis.notes[0]}"
    for node in analysis.network.nodes:
        why = REFUSALS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if why and find_rule(node.domain, node.op_type, analysis.network.version(node)) is None:
            return f"it has no weights whose channels could grow; {node.op_type} has no rule: {why}"
    return "it has no weights whose channels could grow"


def _nothing_grows(analysis: Analysis, request: WidenRequest, skipped: Mapping[str, str]) -> UnsupportedError:
    subject = ", ".join(request.layers) if request.layers else "the network"
    if not skipped:
        return UnsupportedError(subject, _no_weights(analysis))
    name, reason = next(iter(skipped.items()))
    more = f" (and {len(skipped) - 1} more; `onnxgrow inspect` lists them)" if len(skipped) > 1 else ""
    return UnsupportedError(subject, f"nothing selected can grow: {name}: {reason}{more}")


def _notes(request: WidenRequest, planned: Sequence[PlannedSet]) -> list[str]:
    notes = []
    if any(p.new > ADVISED_FACTOR * p.channel_set.size for p in planned):
        notes.append("growing by more than 4 in one step did not pay off in training; consider several steps")
    if not request.exact:
        notes.append(f"{request.method} changes the function; the change is measured")
    return notes


def _totals(analysis: Analysis, growth: Growth) -> tuple[tuple[int, int], tuple[int, int]]:
    costs = [part.cost for part in analysis.parts]
    return (
        (sum(c.total_parameters({}) for c in costs), sum(c.total_parameters(growth) for c in costs)),
        (sum(c.total_flops({}) for c in costs), sum(c.total_flops(growth) for c in costs)),
    )
