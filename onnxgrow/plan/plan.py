"""What will be done, before it is done: pure, printable, weights untouched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxgrow.algebra import Growth, Term
from onnxgrow.analysis import Analysis, ChannelSet, find_patches
from onnxgrow.analysis.demand import grants
from onnxgrow.analysis.network import has_graph
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.init import scheme_names
from onnxgrow.plan.select import select
from onnxgrow.plan.sizes import ADVISED_FACTOR, Target
from onnxgrow.plan.zero_path import zero_path_problem

__all__ = ["METHODS", "PlannedSet", "WidenPlan", "WidenRequest", "plan_widen"]

METHODS = ("zero-fan-out", "zero-fan-in", "near-zero", "net2wider")
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
    """

    layers: tuple[str, ...] | None = None
    target: Target = field(default_factory=Target)
    method: str = "zero-fan-out"
    scale: float | None = None
    init: str = "kaiming"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError("method", f"{self.method!r} is unknown", f"one of {', '.join(METHODS)}")
        if self.scale is not None and self.method != "near-zero":
            raise UsageError("scale", f"it has no meaning with {self.method}", "use --method near-zero")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError("scale", f"{self.scale} is not a positive number")
        if self.init not in scheme_names():
            raise UsageError("init", f"{self.init!r} is unknown", f"one of {', '.join(scheme_names())}")
        if self.init == "zeros" and self.exact:
            raise UsageError("init", "with zeros on both sides of a new channel it would never learn")
        if not 0 <= self.seed < 2**63:
            raise UsageError("seed", f"{self.seed} is not between 0 and 2^63 - 1")

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
        return out


@dataclass(frozen=True)
class PlannedSet:
    """One set and its size after the widening."""

    channel_set: ChannelSet
    new: int

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

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.request.to_json(),
            "seed": self.request.seed,
            "sets": [{"name": p.channel_set.name, "old": p.channel_set.size, "new": p.new} for p in self.sets],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "parameters": {"old": self.parameters[0], "new": self.parameters[1]},
            "flops": {"old": self.flops[0], "new": self.flops[1]},
        }


def plan_widen(analysis: Analysis, request: WidenRequest) -> WidenPlan:
    """Decide what grows, and to what size.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: Nothing that was selected can grow; the reasons are named.
    """
    chosen = select(analysis, request.layers)
    planned: list[PlannedSet] = []
    skipped: dict[str, str] = {}
    for channel_set in chosen:
        if not channel_set.growable:
            skipped[channel_set.name] = "; ".join(str(r) for r in channel_set.reasons[:3])
            continue
        new = request.target.size(channel_set.size)
        if new <= channel_set.size:
            skipped[channel_set.name] = f"it has {channel_set.size} channels already"
            continue
        problem = _method_problem(analysis, channel_set, request.method)
        if problem:
            skipped[channel_set.name] = problem
            continue
        planned.append(PlannedSet(channel_set, new))
    if not planned:
        raise _nothing_grows(analysis, request, skipped)
    growth = {p.channel_set.atom: p.added for p in planned}
    stuck = [u.reason for u in find_patches(analysis.dims, growth).unsolved]
    stuck += [r.reason for r in grants(analysis.dims, growth)[1]]
    if stuck:
        raise UnsupportedError(stuck[0].node, stuck[0].why, "select fewer layers")
    return WidenPlan(request, tuple(planned), skipped, tuple(_notes(request, planned)), *_totals(analysis, growth))


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
    bodies = sorted({n.op_type for n in analysis.network.nodes if has_graph(n)})
    if bodies:
        return f"it has no weights that could grow outside of {' and '.join(bodies)}, whose bodies stay as they are"
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
    cost = analysis.cost
    return (
        (cost.total_parameters({}), cost.total_parameters(growth)),
        (cost.total_flops({}), cost.total_flops(growth)),
    )
