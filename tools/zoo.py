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

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxgrow.algebra import grows
from onnxgrow.analysis import ChannelSet
from onnxgrow.analysis.study import Study, study
from onnxgrow.concrete import complete, concretize, load_inputs
from onnxgrow.errors import GrowError, UnsupportedError
from onnxgrow.io import load, save_bytes
from onnxgrow.passes.base import Grown
from onnxgrow.passes.widen import Widen
from onnxgrow.plan import PlannedSet, Target, WidenPlan, WidenRequest, plan_widen
from onnxgrow.plan.residual import chosen_way
from onnxgrow.verify import accounting, certificate
from onnxgrow.verify.bodies import Opened
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import TierResult, TierStatus, Verdict
from onnxgrow.verify.sessions import ModelSource, open_session
from tools.fetch_zoo import default_cache, fetch, load_manifest
from tools.zoo_inputs import ZOO_INPUTS, inputs_for

__all__ = ["Row", "examine", "main"]

HERE = Path(__file__).resolve().parent.parent
LEAST = 10 * float(np.finfo(np.float32).eps)
"""Bound of a single growth where the joint run measured a smaller noise floor: ten machine epsilons, as there."""

REFUSED = ("no weights", "nothing selected can grow")


@dataclass
class Row:
    """What was found of one model; ``seconds`` by stage."""

    model: str
    nodes: int = 0
    weights: int = 0
    growable_weights: int = 0
    sets: int = 0
    singles_ok: int = 0
    singles: int = 0
    dead: list[str] = field(default_factory=list)
    joint: str = ""
    difference: float | None = None
    bound: float | None = None
    float64: float | None = None
    float64_bound: float | None = None
    note: str = ""
    faults: list[str] = field(default_factory=list)
    frozen: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return (
            not self.faults
            and self.singles == self.singles_ok
            and self.joint in ("equivalent", "refused", "unrunnable")
        )


class Clock:
    """Adds up seconds by stage."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.row.seconds[stage] = round(self.row.seconds.get(stage, 0.0) + now - self.last, 3)
        self.last = now


def examine(name: str, path: Path, feeds: Mapping[str, Any] | None, most_sets: int = 0, residual: bool = False) -> Row:
    """Run everything on one model; never raises."""
    row = Row(name)
    try:
        _examine(row, path, feeds, most_sets, residual)
    except UnsupportedError as e:
        row.joint = row.joint or ("refused" if any(r in e.reason for r in REFUSED) else "unrunnable")
        row.note = str(e)
    except GrowError as e:
        row.faults.append(str(e))
    except Exception as e:  # a crash is a finding of this tool
        row.faults.append(f"crash: {e!r}")
        row.note = traceback.format_exc(limit=-3)
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
        uses = list({w.use: w for w in part.weights}.values())
        forest = part.dims.forest
        row.weights += len({(u.node, u.index) for u in part.dims.linears()})
        row.growable_weights += sum(any(grows(forest, t, atoms) for _, t in part.channel_axes(w)) for w in uses)
    row.sets = len(growable)
    row.frozen = [
        {"name": s.name, "size": s.size, "reasons": [str(r) for r in s.reasons]} for s in analysis.sets if s.reasons
    ]
    step = Widen(factor=2.0, residual=residual)  # all of them; the sizes follow
    base = plan_widen(analysis, step.request)
    joint = _different(base, [1 + (3 * i + 2) % 7 for i in range(len(base.sets))])
    grown = step.carry_out(found, joint)
    clock.mark("grow")
    report = verify(model, grown.model, inputs=feeds, provider="cpu")
    clock.mark("verify")
    row.joint = report.verdict.value
    row.dead = [a.name for a in report.alive if not a.alive]
    runtime, exact = report.tier("runtime"), report.tier("float64")
    if runtime:
        row.difference, row.bound = runtime.figures.get("outputs_difference"), runtime.figures.get("outputs_bound")
    if exact:
        row.float64, row.float64_bound = exact.figures.get("largest_difference"), exact.figures.get("bound")
    if report.verdict is not Verdict.EQUIVALENT:
        row.faults += [f"{t.name}: {f.subject}: {f.reason}" for t in report.tiers for f in t.findings[:3]]
        row.faults += list(report.notes[:3])
    _singles(row, clock, found, step, growable[:: max(1, len(growable) // most_sets)] if most_sets else growable)


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
    model = found.model
    before = [found.analysis.network.concrete, found.analysis.network.other]
    session = open_session(ModelSource.of(save_bytes(model)), "cpu", optimised=False)
    references = [session.run(f) for f in found.feeds]
    clock.mark("singles")
    for i, channel_set in enumerate(chosen):
        row.singles += 1
        request = WidenRequest((channel_set.name,), Target(to=_size(channel_set, 1 + i % 5)))
        grown = step.carry_out(found, plan_widen(found.analysis, request))
        faults = list(check(found, grown, before, references, row.bound or 0.0))
        row.faults += [f"{channel_set.name} alone: {f}" for f in faults[:2]]
        row.singles_ok += not faults
    clock.mark("singles")


def check(
    found: Study, grown: Grown, before: Sequence[Any], references: Sequence[Mapping[str, Any]], bound: float
) -> Iterator[str]:
    for tier in _proofs(found, grown, before):
        if tier.status is not TierStatus.PASSED:
            yield from (f"{tier.name}: {f.subject}: {f.reason}" for f in tier.findings)
    session = open_session(ModelSource.of(save_bytes(grown.model)), "cpu", optimised=False)
    for feeds, reference in zip(found.feeds, references, strict=True):
        for name, value in session.run(feeds).items():
            problem = _compare(reference[name], value, max(bound, LEAST))
            if problem:
                yield f"runtime: {name}: {problem}"


def _proofs(found: Study, grown: Grown, before: Sequence[Any]) -> Iterator[TierResult]:
    """Accounting and certificate; the verifier takes growth inside bodies of control flow apart."""
    if found.inlined or Opened(found.model, grown.model, grown.growth_map):
        report = verify(found.given, grown.model, inputs=found.feeds[0], tiers=("accounting", "certificate"))
        yield from report.tiers[:2]
        return
    yield accounting.account(found.model, grown.model, grown.growth_map)
    for concrete, feeds in zip(before, found.feeds, strict=False):
        after = complete(grown.model, concretize(grown.model, concrete.input_shapes), feeds)
        yield certificate.certify(found.model, grown.model, grown.growth_map, concrete, after)


def _compare(old: Any, new: Any, bound: float) -> str:
    if not isinstance(old, np.ndarray) or old.dtype.kind not in "fc":
        same = repr(old) == repr(new) if not isinstance(old, np.ndarray) else np.array_equal(old, new)
        return "" if same else "it differs"
    if old.shape != new.shape:
        return f"shape {old.shape} became {new.shape}"
    if not old.size:
        return ""
    if not np.array_equal(np.isfinite(old), np.isfinite(new)):
        return "it is finite at other places"
    finite = np.isfinite(old)
    scale = float(np.abs(old[finite]).max(initial=0.0)) or 1.0
    gap = float(np.abs(old[finite].astype(np.float64) - new[finite].astype(np.float64)).max(initial=0.0)) / scale
    return "" if gap <= bound else f"it differs by {gap:.3g} of its scale, bound {bound:.3g}"


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, Path, Mapping[str, Any] | None]]:
    patterns = args.only or ["*"]

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, p) for p in patterns)

    for folder in args.models or []:
        for path in sorted(Path(folder).glob("*.onnx")):
            if wanted(path.stem):
                npz = path.with_suffix(".io.npz")
                yield path.stem, path, load_inputs(npz, load(path).model) if npz.exists() else None
    if args.models:
        return
    for path in sorted((HERE / "models").glob("*.onnx")):
        if wanted(path.stem):
            yield path.stem, path, None
    names = [e.name for e in load_manifest() if wanted(e.name)]
    fetched = fetch(names, Path(args.cache) if args.cache else default_cache())
    for name in names:
        yield name, fetched[name], inputs_for(name) if name in ZOO_INPUTS else None


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    out = Table("model", "nodes", "weights", "growable", "sets", "singly", "together", "difference", "bound", "float64")
    for column in ("analysis s", "grow s", "verify s", "singles s", "note"):
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
            str(r.sets),
            f"{r.singles_ok}/{r.singles}",
            r.joint,
            *("" if x is None else f"{x:.1e}" for x in (r.difference, r.bound, r.float64)),
            *seconds,
            note,
        )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Widen real networks and prove every result.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models by name")
    parser.add_argument("--models", action="append", metavar="DIR", help="a folder of models, instead of the manifest")
    parser.add_argument("--cache", help="where fetched models are kept")
    parser.add_argument("--report", help="write all figures as JSON")
    parser.add_argument("--sets", type=int, default=0, help="at most about so many sets singly per model (0: all)")
    parser.add_argument("--residual", action="store_true", help="grow the widths of residual streams, too")
    args = parser.parse_args(argv)
    rows = []
    for name, path, feeds in jobs(args):
        row = examine(name, path, feeds, args.sets, args.residual)
        rows.append(row)
        print(
            f"{name}: {row.joint or 'fault'}, {row.singles_ok}/{row.singles} singly, {sum(row.seconds.values()):.1f} s",
            *row.faults[:3],
            sep="\n  ",
            file=sys.stderr,
            flush=True,
        )
    Console(width=220).print(table(rows))
    weights, growable = sum(r.weights for r in rows), sum(r.growable_weights for r in rows)
    bad = [r.model for r in rows if not r.good]
    print(
        f"{len(rows)} models, {growable} of {weights} linear weights growable,"
        f" {sum(r.singles for r in rows)} sets singly,"
        f" {len(bad)} models with faults{': ' + ', '.join(bad) if bad else ''}"
    )
    if args.report:
        Path(args.report).write_text(json.dumps([asdict(r) for r in rows], indent=1, default=str), encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
