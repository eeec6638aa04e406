"""What the runs over real networks share: which models, what is checked of one growth, tables, reports, exit codes."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxgrow.analysis.study import Study
from onnxgrow.concrete import complete, concretize, load_inputs
from onnxgrow.errors import GrowError, UnsupportedError
from onnxgrow.io import load, save_bytes
from onnxgrow.passes.base import Grown
from onnxgrow.verify import accounting, certificate
from onnxgrow.verify.bodies import Opened
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import Report, TierResult, TierStatus, Verdict
from onnxgrow.verify.sessions import ModelSource, open_session
from tools.fetch_zoo import default_cache, fetch, load_manifest
from tools.zoo_inputs import ZOO_INPUTS, inputs_for

__all__ = ["LEAST", "BaseRow", "Clock", "Job", "Singles", "guarded", "jobs", "parser", "run"]

HERE = Path(__file__).resolve().parent.parent
LEAST = 10 * float(np.finfo(np.float32).eps)
"""Bound of a single growth where no noise floor was measured, or a smaller one: ten machine epsilons."""

Feeds = Mapping[str, Any]
Job = tuple[str, Path, Feeds | None]
R = TypeVar("R", bound="BaseRow")


@dataclass
class BaseRow:
    """What was found of one model.

    Attributes:
        joint: Verdict of what was done all together; ``refused`` or ``unrunnable`` where nothing was.
        difference, bound, float64, float64_bound: Of the runtime and the float64 tier of that.
        dead: What cannot learn.
        faults: Anything that was not equivalent, invalid or crashed.
        seconds: By stage.
    """

    model: str
    nodes: int = 0
    joint: str = ""
    dead: list[str] = field(default_factory=list)
    difference: float | None = None
    bound: float | None = None
    float64: float | None = None
    float64_bound: float | None = None
    note: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def judge(self, report: Report) -> None:
        """Note what a verification of everything together found."""
        self.joint = report.verdict.value
        self.dead += [a.name for a in report.alive if not a.alive]
        runtime, exact = report.tier("runtime"), report.tier("float64")
        if runtime:
            self.difference = runtime.figures.get("outputs_difference")
            self.bound = runtime.figures.get("outputs_bound")
        if exact:
            self.float64, self.float64_bound = exact.figures.get("largest_difference"), exact.figures.get("bound")
        if report.verdict is not Verdict.EQUIVALENT:
            self.faults += [f"{t.name}: {f.subject}: {f.reason}" for t in report.tiers for f in t.findings[:3]]
            self.faults += list(report.notes[:3])


class Clock:
    """Adds up seconds by stage."""

    def __init__(self, row: BaseRow) -> None:
        self.row = row
        self.last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.row.seconds[stage] = round(self.row.seconds.get(stage, 0.0) + now - self.last, 3)
        self.last = now


def guarded(row: BaseRow, work: Callable[[], None], refused: Sequence[str] = ()) -> None:
    """Do the work on one model; whatever it raises is noted in its row.

    Args:
        row: What is found goes there.
        work: The work.
        refused: Parts of the reasons for which a model is refused and not unrunnable.
    """
    try:
        work()
    except UnsupportedError as e:
        row.joint = row.joint or ("refused" if any(r in e.reason for r in refused) else "unrunnable")
        row.note = str(e)
    except GrowError as e:
        row.faults.append(str(e))
    except Exception as e:  # a crash is a finding of these tools
        row.faults.append(f"crash: {e!r}")
        row.note = traceback.format_exc(limit=-3)


class Singles:
    """Checks growths of one model one after the other, cheaply.

    Args:
        found: The model.
        bound: What the joint run measured; 0 where there was none.
    """

    def __init__(self, found: Study, bound: float) -> None:
        self.found = found
        self.bound = max(bound, LEAST)
        self.references = outputs_of(found.given, found.feeds)
        self._before = [found.analysis.network.concrete, found.analysis.network.other]

    def faults(self, grown: Grown) -> list[str]:
        """Accounting, certificate at two sizes, and the outputs in ONNX Runtime without optimisations."""
        faults = [
            f"{tier.name}: {f.subject}: {f.reason}"
            for tier in self._proofs(grown)
            if tier.status is not TierStatus.PASSED
            for f in tier.findings
        ]
        for reference, outputs in zip(self.references, outputs_of(grown.model, self.found.feeds), strict=True):
            for name, value in outputs.items():
                problem = _compare(reference[name], value, self.bound)
                if problem:
                    faults.append(f"runtime: {name}: {problem}")
        return faults

    def is_same(self, grown: Grown) -> bool:
        """Whether all outputs are equal in value in ONNX Runtime without optimisations; −0 equals 0."""
        pairs = zip(self.references, outputs_of(grown.model, self.found.feeds), strict=True)
        return all(_equal(reference[name], value) for reference, made in pairs for name, value in made.items())

    def _proofs(self, grown: Grown) -> Iterator[TierResult]:
        """Accounting and certificate; the verifier takes apart what is in bodies of control flow and functions."""
        found, growth_map = self.found, grown.growth_map
        if found.inlined or growth_map.calls or Opened(found.model, grown.model, growth_map):
            report = verify(found.given, grown.model, inputs=found.feeds[0], tiers=("accounting", "certificate"))
            yield from report.tiers[:2]
            return
        yield accounting.account(found.model, grown.model, growth_map)
        for concrete, feeds in zip(self._before, found.feeds, strict=False):
            after = complete(grown.model, concretize(grown.model, concrete.input_shapes), feeds)
            yield certificate.certify(found.model, grown.model, growth_map, concrete, after)


def outputs_of(model: Any, feeds: Sequence[Feeds]) -> list[Feeds]:
    """Outputs on the CPU without optimisations."""
    session = open_session(ModelSource.of(save_bytes(model)), "cpu", optimised=False)
    return [session.run(f) for f in feeds]


def _compare(old: Any, new: Any, bound: float) -> str:
    if not isinstance(old, np.ndarray) or old.dtype.kind not in "fc":
        return "" if _equal(old, new) else "it differs"
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


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    return repr(old) == repr(new)


def parser(about: str) -> argparse.ArgumentParser:
    """The options that all runs have."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--only", action="append", metavar="GLOB", help="models by name")
    made.add_argument("--models", action="append", metavar="DIR", help="a folder of models, instead of the manifest")
    made.add_argument("--cache", help="where fetched models are kept")
    made.add_argument("--report", help="write all figures as JSON")
    return made


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The models that were asked for: name, file, inputs."""
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


def run(
    args: argparse.Namespace,
    examine: Callable[[str, Path, Feeds | None], R],
    is_good: Callable[[R], bool],
    brief: Callable[[R], str],
    table: Callable[[Sequence[R]], Table],
    total: Callable[[Sequence[R]], str],
) -> int:
    """Examine all models, print a line for each and a table in the end, write the report; returns the exit code.

    Args:
        args: As :func:`parser` reads them.
        examine: Examines one model; never raises.
        is_good: Whether nothing is wrong with it.
        brief, table, total: What is said of one model, of all, and of all in one line.
    """
    rows: list[R] = []
    for name, path, feeds in jobs(args):
        row = examine(name, path, feeds)
        rows.append(row)
        line = f"{name}: {brief(row)}, {sum(row.seconds.values()):.1f} s"
        print(line, *row.faults[:3], sep="\n  ", file=sys.stderr, flush=True)
        if args.report:
            Path(args.report).write_text(json.dumps([asdict(r) for r in rows], indent=1, default=str), encoding="utf-8")
    Console(width=220).print(table(rows))
    bad = [r.model for r in rows if not is_good(r)]
    print(f"{len(rows)} models, {total(rows)}, {len(bad)} models with faults{': ' + ', '.join(bad) if bad else ''}")
    return 1 if bad else 0
