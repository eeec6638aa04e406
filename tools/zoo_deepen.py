"""Insert identity layers into real networks at every legal place, prove each, and print a table.

    python -m tools.zoo_deepen [--only GLOB]... [--models DIR]... [--cache DIR] [--report FILE] [--places N] [--fast]

Models as for ``tools/zoo.py``. A layer goes behind every value where one is legal (``--places``: about so many,
spread over the network), each time alone: accounting, certificate at two sizes, and the outputs in ONNX Runtime without
optimisations. Those of Gemm, MatMul and 1x1 or 3x3 Conv are expected to be equal in value; what is not is counted, and
has to stay inside the noise floor. Then layers with ActiSwitches go behind all hidden activations together, and all
tiers run (not with ``--fast``). Exit code 1 when anything was not equivalent, invalid or crashed.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import GrowError, UnsupportedError
from onnxgrow.io import load, save_bytes
from onnxgrow.passes.deepen import InsertIdentity
from onnxgrow.passes.deepen.places import Illegal, Places
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import Verdict
from onnxgrow.verify.sessions import ModelSource, open_session
from tools import zoo

__all__ = ["Row", "examine", "legal_places", "main"]

KERNELS = (1, 3, 2, 5)
"""Kernels of convolutions, in turn."""
EXACT_KERNELS = (1, 3)


@dataclass
class Row(zoo.Row):
    """What was found of one model.

    Attributes:
        places: Legal places.
        values: All values that nodes compute from data.
        tried, proved: Layers inserted singly, and those that were proved.
        exact, inexact: Layers expected to leave outputs equal in value, and those of them that did not.
        kinds: Layers by kind.
        illegal: Reasons, counted.
    """

    places: int = 0
    values: int = 0
    tried: int = 0
    proved: int = 0
    exact: int = 0
    inexact: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    illegal: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.faults and self.tried == self.proved and self.joint in ("equivalent", "none", "unrunnable", "")


def legal_places(found: Study) -> tuple[list[str], Counter[str]]:
    """Values behind which a layer is legal, and the reasons against all others, counted without their details."""
    places = Places(found)
    legal: list[str] = []
    reasons: Counter[str] = Counter()
    for node in found.analysis.network.nodes:
        for name in (o.name for o in node.outputs if o.name and o.name not in found.analysis.network.derived):
            try:
                places.behind(name)
                legal.append(name)
            except Illegal as e:
                reasons[str(e).split(":")[0].replace(name, "it")] += 1
    return legal, reasons


def examine(name: str, path: Path, feeds: Mapping[str, Any] | None, most: int, fast: bool) -> Row:
    """Run everything on one model; never raises."""
    row = Row(name)
    try:
        _examine(row, path, feeds, most, fast)
    except UnsupportedError as e:
        row.joint = row.joint or "unrunnable"
        row.note = str(e)
    except GrowError as e:
        row.faults.append(str(e))
    except Exception as e:  # a crash is a finding of this tool
        row.faults.append(f"crash: {e!r}")
        row.note = traceback.format_exc(limit=-3)
    return row


def _examine(row: Row, path: Path, feeds: Mapping[str, Any] | None, most: int, fast: bool) -> None:
    clock = zoo.Clock(row)
    model = load(path).model
    found = study(model, inputs=feeds)
    clock.mark("analysis")
    legal, reasons = legal_places(found)
    row.nodes, row.places, row.values = len(found.analysis.network.nodes), len(legal), len(legal) + reasons.total()
    row.illegal = dict(reasons.most_common())
    clock.mark("places")
    if legal and not fast:
        _together(row, found, feeds)
        clock.mark("verify")
    _singly(row, found, legal[:: max(1, len(legal) // most)] if most else legal)
    clock.mark("singles")


def _together(row: Row, found: Study, feeds: Mapping[str, Any] | None) -> None:
    try:
        grown = InsertIdentity(kernel=3, depthwise=False).carry_out(found)
    except UnsupportedError as e:
        row.joint, row.note = "none", e.reason
        return
    report = verify(found.model, grown.model, inputs=feeds, provider="cpu")
    row.joint, row.sets = report.verdict.value, len(grown.plan["layers"])
    row.dead = [a.name for a in report.alive if not a.alive]
    runtime, exact = report.tier("runtime"), report.tier("float64")
    if runtime:
        row.difference, row.bound = runtime.figures.get("outputs_difference"), runtime.figures.get("outputs_bound")
    if exact:
        row.float64 = exact.figures.get("largest_difference")
    if report.verdict is not Verdict.EQUIVALENT:
        row.faults += [f"{t.name}: {f.subject}: {f.reason}" for t in report.tiers for f in t.findings[:3]]
        row.faults += list(report.notes[:3])


def _singly(row: Row, found: Study, chosen: Sequence[str]) -> None:
    before = [found.analysis.network.concrete, found.analysis.network.other]
    session = open_session(ModelSource.of(save_bytes(found.model)), "cpu", optimised=False)
    references = [session.run(f) for f in found.feeds]
    kinds: Counter[str] = Counter()
    for i, place in enumerate(chosen):
        kernel = KERNELS[i % len(KERNELS)]
        grown = InsertIdentity(at=place, kernel=kernel, actiswitch=False).carry_out(found)
        layer = grown.plan["layers"][0]
        kinds[" ".join([layer["layer"], "x".join(map(str, layer.get("kernel", ())))]).strip()] += 1
        row.tried += 1
        faults = list(zoo.check(found, grown, before, references, row.bound or 0.0))
        row.faults += [f"{place} alone: {f}" for f in faults[:2]]
        row.proved += not faults
        if kernel in EXACT_KERNELS or "kernel" not in layer:
            row.exact += 1
            after = open_session(ModelSource.of(save_bytes(grown.model)), "cpu", optimised=False)
            row.inexact += not all(
                _equal(reference[name], value)
                for feeds, reference in zip(found.feeds, references, strict=True)
                for name, value in after.run(feeds).items()
            )
    row.kinds = dict(kinds)


def _equal(old: Any, new: Any) -> bool:
    """Whether two outputs are equal in value; −0 equals 0."""
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    return repr(old) == repr(new)


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    out = Table(
        "model", "values", "legal", "singly", "not exact", "together", "layers", "difference", "float64", "kinds"
    )
    out.add_column("note")
    for r in rows:
        out.add_row(
            r.model,
            str(r.values),
            str(r.places),
            f"{r.proved}/{r.tried}",
            f"{r.inexact}/{r.exact}",
            r.joint,
            str(r.sets),
            *("" if x is None else f"{x:.1e}" for x in (r.difference, r.float64)),
            ", ".join(f"{n} {k}" for k, n in r.kinds.items()),
            "; ".join(r.faults[:2]) or r.note[:90],
        )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Insert identity layers into real networks and prove every one.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models by name")
    parser.add_argument("--models", action="append", metavar="DIR", help="a folder of models, instead of the manifest")
    parser.add_argument("--cache", help="where fetched models are kept")
    parser.add_argument("--report", help="write all figures as JSON")
    parser.add_argument(
        "--places", type=int, default=20, help="about so many places a model, never fewer of them (0: all)"
    )
    parser.add_argument("--fast", action="store_true", help="single layers only")
    args = parser.parse_args(argv)
    rows = []
    for name, path, feeds in zoo.jobs(args):
        row = examine(name, path, feeds, args.places, args.fast)
        rows.append(row)
        print(
            f"{name}: {row.proved}/{row.tried}, {row.joint}", *row.faults[:3], sep="\n  ", file=sys.stderr, flush=True
        )
    Console(width=220).print(table(rows))
    bad = [r.model for r in rows if not r.good]
    print(
        f"{len(rows)} models, {sum(r.proved for r in rows)} of {sum(r.tried for r in rows)} layers proved singly, "
        f"{sum(r.inexact for r in rows)} of {sum(r.exact for r in rows)} not equal in value, "
        f"{len(bad)} models with faults{': ' + ', '.join(bad) if bad else ''}"
    )
    if args.report:
        Path(args.report).write_text(json.dumps([asdict(r) for r in rows], indent=1, default=str), encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
