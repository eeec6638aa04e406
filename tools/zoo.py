"""Widen real networks, every channel set singly and all together, prove each result, and print a table.

    python -m tools.zoo [--only GLOB]... [--models DIR]... [--cache DIR] [--report FILE.json] [--sets N] [--residual]

Without ``--models`` the models of the manifest are fetched (see ``tools/fetch_zoo.py``) and the samples in ``models/``
are taken; with it, every ``*.onnx`` of the folders (inputs beside them in ``NAME.io.npz``, arrays ``in_<input>``).

Each growable set is grown alone, each by another number of channels: accounting, certificate at two sizes, and the
outputs in ONNX Runtime without optimisations, within the bound that the joint run measured. Then all sets grow
together, by different numbers, and all tiers run. Exit code 1 when anything was not equivalent, invalid or crashed.
With ``--residual`` the widths of residual streams grow too; those that only grow by copies get twice their size.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from onnxgrow.algebra import grows
from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.analysis.study import Study, study
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import load
from onnxgrow.passes.widen import Widen
from onnxgrow.plan import PlannedSet, Target, WidenPlan, WidenRequest, plan_widen
from onnxgrow.plan.residual import chosen_way
from onnxgrow.verify.judge import verify
from tools.zoo_run import BaseRow, Clock, Singles, guarded, parser, run

__all__ = ["Row", "examine", "main"]

REFUSED = ("no weights", "nothing selected can grow")


@dataclass
class Row(BaseRow):
    """What was found of one model.

    Attributes:
        weights, growable_weights, grown_weights: Linear weights, those of which a channel axis can grow, and those that
            have more channels in the model in which everything grew.
        sets: Growable channel sets; ``singles`` of them were grown alone, ``singles_ok`` without a fault.
        frozen: The other sets, with the reasons.
    """

    weights: int = 0
    growable_weights: int = 0
    grown_weights: int = 0
    sets: int = 0
    singles_ok: int = 0
    singles: int = 0
    frozen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return (
            not self.faults
            and self.singles == self.singles_ok
            and self.joint in ("equivalent", "refused", "unrunnable")
        )


def examine(name: str, path: Path, feeds: Mapping[str, Any] | None, most_sets: int = 0, residual: bool = False) -> Row:
    """Run everything on one model; never raises."""
    row = Row(name)
    guarded(row, lambda: _examine(row, path, feeds, most_sets, residual), REFUSED)
    return row


def _examine(row: Row, path: Path, feeds: Mapping[str, Any] | None, most_sets: int, residual: bool) -> None:
    clock = Clock(row)
    model = load(path).model
    clock.mark("load")
    found = study(model, inputs=feeds, inline=None)
    clock.mark("analysis")
    analysis = found.analysis
    growable = [s for s in analysis.growable if residual or not s.residual]
    atoms = dict.fromkeys((s.atom for s in growable), 1)
    for part in analysis.parts:
        row.nodes += len(part.network.nodes)
        forest = part.dims.forest
        row.weights += len({(u.node, u.index) for u in part.dims.linears()})
        able = [w.use for w in part.weights if any(grows(forest, t, atoms) for _, t in part.channel_axes(w))]
        row.growable_weights += len({(u.node, u.index) for u in able})
    row.sets = len(growable)
    row.frozen = [
        {"name": s.name, "size": s.size, "reasons": [str(r) for r in s.reasons]} for s in analysis.sets if s.reasons
    ]
    step = Widen(factor=2.0, residual=residual)  # all of them; the sizes follow
    base = plan_widen(analysis, step.request)
    joint = _different(base, [1 + (3 * i + 2) % 7 for i in range(len(base.sets))])
    grown = step.carry_out(found, joint)
    row.grown_weights = _grown(analysis, grown.growth_map)
    clock.mark("grow")
    report = verify(model, grown.model, inputs=feeds, provider="cpu")
    clock.mark("verify")
    row.judge(report)
    _singles(row, clock, found, step, growable[:: max(1, len(growable) // most_sets)] if most_sets else growable)


def _grown(analysis: Analysis, growth_map: GrowthMap) -> int:
    """How many linear weights have an axis that grew."""
    grew = {t.of or name for name, t in growth_map.tensors.items() if t.axes}
    weights = [w for part in analysis.parts for w in part.weights]
    return len({(w.use.node, w.use.index) for w in weights if w.root in grew})


def _different(plan: WidenPlan, added: Sequence[int]) -> WidenPlan:
    """The plan with another number of new channels for each set."""
    sizes = [_size(p.channel_set, k) for p, k in zip(plan.sets, added, strict=True)]
    ways = [chosen_way(p.channel_set, n) for p, n in zip(plan.sets, sizes, strict=True)]
    sets = [PlannedSet(p.channel_set, n, way) for p, n, way in zip(plan.sets, sizes, ways, strict=True)]
    return replace(plan, sets=tuple(sets))


def _size(channel_set: ChannelSet, added: int) -> int:
    """A size with so many new channels, or twice the old one where only that is possible."""
    possible = not channel_set.residual or chosen_way(channel_set, channel_set.size + added)
    return channel_set.size + added if possible else 2 * channel_set.size


def _singles(row: Row, clock: Clock, found: Study, step: Widen, chosen: Sequence[ChannelSet]) -> None:
    singles = Singles(found, row.bound or 0.0)
    clock.mark("singles")
    for i, channel_set in enumerate(chosen):
        row.singles += 1
        request = WidenRequest((channel_set.name,), Target(to=_size(channel_set, 1 + i % 5)))
        grown = step.carry_out(found, plan_widen(found.analysis, request))
        faults = singles.faults(grown)
        row.faults += [f"{channel_set.name} alone: {f}" for f in faults[:2]]
        row.singles_ok += not faults
    clock.mark("singles")


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    out = Table("model", "nodes", "weights", "growable", "grown", "sets", "singly", "together", "difference", "bound")
    for column in ("float64", "its bound", "analysis s", "grow s", "verify s", "singles s", "note"):
        out.add_column(column)
    for r in rows:
        share = f"{r.growable_weights} ({100 * r.growable_weights // max(1, r.weights)} %)"
        seconds = [f"{r.seconds.get(k, 0):.1f}" for k in ("analysis", "grow", "verify", "singles")]
        note = "; ".join(r.faults[:2]) or (
            f"dead: {', '.join(r.dead)}" if r.dead else r.note.splitlines()[0][:90] if r.note else ""
        )
        out.add_row(
            r.model,
            str(r.nodes),
            str(r.weights),
            share,
            str(r.grown_weights),
            str(r.sets),
            f"{r.singles_ok}/{r.singles}",
            r.joint,
            *("" if x is None else f"{x:.1e}" for x in (r.difference, r.bound, r.float64, r.float64_bound)),
            *seconds,
            note,
        )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parser("Widen real networks and prove every result.")
    options.add_argument("--sets", type=int, default=0, help="at most about so many sets singly per model (0: all)")
    options.add_argument("--residual", action="store_true", help="grow the widths of residual streams, too")
    args = options.parse_args(argv)
    return run(
        args,
        lambda name, path, feeds: examine(name, path, feeds, args.sets, args.residual),
        lambda row: row.good,
        lambda row: f"{row.joint or 'fault'}, {row.singles_ok}/{row.singles} singly",
        table,
        _total,
    )


def _total(rows: Sequence[Row]) -> str:
    weights, growable = sum(r.weights for r in rows), sum(r.growable_weights for r in rows)
    return f"{growable} of {weights} linear weights growable, {sum(r.singles for r in rows)} sets singly"


if __name__ == "__main__":
    sys.exit(main())
