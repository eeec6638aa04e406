"""The evidence of one verification: what each tier found, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["AliveResult", "Finding", "GrownOutput", "Report", "TierResult", "TierStatus", "Verdict"]


class Verdict(StrEnum):
    """What a verification may say; only EQUIVALENT (or CHANGED within the bound the user gave) exits with 0."""

    EQUIVALENT = "equivalent"
    CHANGED = "changed"
    UNPROVED = "unproved"
    NOT_EQUIVALENT = "not equivalent"


class TierStatus(StrEnum):
    """A tier that did not run is never counted as passed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Finding:
    """One fault or remark: ``subject`` is the tensor, value or node; ``reason`` says what is wrong."""

    subject: str
    reason: str


@dataclass(frozen=True)
class TierResult:
    """Outcome of one tier.

    Attributes:
        name: ``accounting``, ``certificate``, ``float64`` or ``runtime``.
        status: Passed, failed or not run.
        figures: Measured numbers, JSON data: counts, largest differences, bounds, noise floor, providers, shapes.
        findings: Why it failed or did not run; empty when it passed.
        seconds: Wall time.
    """

    name: str
    status: TierStatus
    figures: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class AliveResult:
    """Whether the new weights of one channel set can learn.

    Attributes:
        name: The channel set.
        channels: Number of new channels.
        alive: Number of them that get a gradient (through their reader or writer weights); None if not measured.
        note: How it was found, or why it could not be.
        hopeless: Whether no input could wake it: both sides are zero. A set that is merely off on these inputs is not.
        unit: What it is about: a channel ``set``, an inserted ``layer``, whose channels are those it reads, or an
            enlarged ``kernel``, whose new taps are counted.
    """

    name: str
    channels: int
    alive: int | None
    note: str = ""
    hopeless: bool = False
    unit: str = "set"


@dataclass(frozen=True)
class GrownOutput:
    """A graph output that grew, by request: a change of the interface.

    Attributes:
        name: The output.
        axis: The axis that grew.
        old, new: Its size before and after.
        allowed: Whether whoever asked for the verification named the output.
    """

    name: str
    axis: int
    old: int
    new: int
    allowed: bool


@dataclass(frozen=True)
class Report:
    """All evidence of one verification. ``to_json`` gives plain data.

    With ``outputs`` the verdict is at best ``changed``; where ``change`` is None then, every tier passed for the old
    entries of these outputs and for all other outputs.
    """

    verdict: Verdict
    tiers: tuple[TierResult, ...] = ()
    alive: tuple[AliveResult, ...] = ()
    change: float | None = None
    max_change: float | None = None
    frozen: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    outputs: tuple[GrownOutput, ...] = ()

    @property
    def ok(self) -> bool:
        """True for a verdict that may be written and exits with 0."""
        if self.verdict is Verdict.EQUIVALENT:
            return True
        if self.verdict is not Verdict.CHANGED or not all(o.allowed for o in self.outputs):
            return False
        if self.change is None:
            return bool(self.outputs) and all(t.status is TierStatus.PASSED for t in self.tiers)
        return self.max_change is not None and self.change <= self.max_change

    def tier(self, name: str) -> TierResult | None:
        return next((t for t in self.tiers if t.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "change": self.change,
            "max_change": self.max_change,
            "tiers": [
                {
                    "name": t.name,
                    "status": t.status.value,
                    "figures": dict(t.figures),
                    "findings": [{"subject": f.subject, "reason": f.reason} for f in t.findings],
                    "seconds": round(t.seconds, 3),
                }
                for t in self.tiers
            ],
            "alive": [
                {
                    "name": a.name,
                    "channels": a.channels,
                    "alive": a.alive,
                    "note": a.note,
                    "hopeless": a.hopeless,
                    "unit": a.unit,
                }
                for a in self.alive
            ],
            "frozen": [dict(f) for f in self.frozen],
            "notes": list(self.notes),
            "outputs": [asdict(o) for o in self.outputs],
        }
