"""Write ``docs/architectures.md``: how much of which architecture grows, from reports of the zoo run.

    python -m tools.make_exports --out DIR
    python -m tools.zoo --models DIR --residual --report EXPORTS.json      # may be run in slices, by --only
    python -m tools.zoo --residual --report REAL.json
    python -m tools.architectures EXPORTS.json REAL.json...

A model that several reports name counts as the last of them says. Exit code 1, and nothing is written, when a report
holds a fault: a document is no place for one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "merge", "render"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "architectures.md"
LITTLE = 90
"""Percentage of growable linear weights below which the reasons are listed."""
SILENT = ("it is an input of the network", "size 1", "no weight writes it", "no weight reads it")
"""Reasons that tell nothing of an architecture."""

TEXTS = ("architecture", "exporter", "together", "dead")
COLUMNS = (
    *("architecture", "exporter", "weights", "growable", "grown", "sets", "alone", "together", "difference"),
    *("float64", "seconds", "dead"),
)
STAGES = ("analysis", "grow", "verify", "singles")

HEAD = """# Architectures

Written by `python -m tools.architectures`; do not edit. The *real* networks are those of public packages
(`tools/zoo_manifest.json`) and of `models/`. The others are those of `tools/exports`, small, with random weights and
randomised norms, written by the exporters of PyTorch (`legacy`: TorchScript, `kept`: the same with names of parameters
and batch normalisation kept, `dynamo`: the newer one) and by quantisers and converters (`qdq`, `dynamic`, `fp16`,
`bf16`). A network that has no line for an exporter was not tried in that form, and nothing is said of it; of quantised
files with integer operators (QLinearConv and the like) there are only the `dynamic` ones.

Every growable channel set, residual streams included (`--residual`), grew together with all others, each by another
number of channels, and so many of them grew alone as *alone* says. *Growable* counts linear weights of which a channel
axis can grow, *grown* the ones with more channels in the result. *Difference* is the largest one of any output in ONNX
Runtime, in parts of the bound: ten times the measured noise floor, at least ten machine epsilons. *float64* is the
largest one of any old entry of any value in double precision, in parts of the bound there. *Seconds* are those of
analysis, growth of everything, its verification by all tiers, and growing sets alone; each run shared its machine with
others. *Dead* sets grew exactly, and are named because nothing in them learns on the inputs tried. *Refused* files
hold no linear weight that can grow, *unrunnable* ones do not run in ONNX Runtime on a CPU; nothing is written for
them. Weights that integer operators multiply, and those of unrunnable files, are in no column: the percentages would
be lower with them. The reasons at the end are the last one of each set that stays, without those that say nothing of
the architecture.
"""

Row = Mapping[str, Any]


def merge(reports: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of all reports by model; later ones replace earlier ones."""
    rows: dict[str, Row] = {row["model"]: row for report in reports for row in report}
    return [rows[name] for name in sorted(rows)]


def problems(rows: Sequence[Row]) -> list[str]:
    """What a document may not hold: faults, sets that failed alone, and verdicts that are none."""
    found = []
    for row in rows:
        if row["faults"] or row["singles_ok"] != row["singles"]:
            found.append(f"{row['model']}: {'; '.join(row['faults'][:2]) or 'a set failed alone'}")
        elif row["joint"] not in ("equivalent", "refused", "unrunnable"):
            found.append(f"{row['model']}: {row['joint'] or 'no verdict'}")
    return found


def render(rows: Sequence[Row]) -> str:
    """The document."""
    verdicts = Counter(row["joint"] for row in rows)
    counts = {key: sum(row[key] for row in rows) for key in ("weights", "growable_weights", "grown_weights", "singles")}
    names = {_parts(row["model"])[0] for row in rows}
    lines = [
        HEAD,
        f"{len(rows)} files of {len(names)} architectures: {counts['growable_weights']} of {counts['weights']} linear"
        f" weights can grow, {counts['grown_weights']} grew together; {counts['singles']} sets grew alone. Verdicts: "
        + ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
        + ".",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'|'.join('---' if c in TEXTS else '--:' for c in COLUMNS)}|",
        *map(_line, rows),
        "",
        f"## What stays where less than {LITTLE} % can grow",
        "",
        *_little(rows),
        "",
    ]
    return "\n".join(lines)


def _parts(model: str) -> tuple[str, str]:
    name, _, form = model.rpartition(".")
    return (name, form) if name else (model, "real")


def _share(row: Row) -> int:
    return int(100 * row["growable_weights"] // max(1, row["weights"]))


def _line(row: Row) -> str:
    name, form = _parts(row["model"])
    cells = [
        name,
        form,
        row["weights"],
        f"{row['growable_weights']} ({_share(row)} %)",
        row["grown_weights"],
        row["sets"],
        f"{row['singles_ok']}/{row['singles']}",
        row["joint"],
        _parts_of(row["difference"], row["bound"]),
        _parts_of(row["float64"], row["float64_bound"]),
        " + ".join(f"{row['seconds'].get(stage, 0):.1f}" for stage in STAGES),
        ", ".join(row["dead"]),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _parts_of(difference: float | None, bound: float | None) -> str:
    return "" if difference is None or not bound else f"{difference / bound:.2f}"


def _little(rows: Sequence[Row]) -> list[str]:
    """A line for each architecture of which little can grow, with the reasons."""
    reasons: dict[str, dict[str, None]] = {}
    shares: dict[str, list[str]] = {}
    for row in rows:
        if _share(row) >= LITTLE:
            continue
        name, form = _parts(row["model"])
        shares.setdefault(name, []).append(f"{form} {_share(row)} %")
        mine = reasons.setdefault(name, {})
        if row["joint"] != "equivalent" and row["note"]:
            mine[_plain(row["note"])] = None
        for frozen in row["frozen"]:
            last = str(frozen["reasons"][-1])
            if not last.startswith(SILENT):
                mine[_plain(last)] = None
    return [f"- **{n}** ({', '.join(shares[n])}): {'; '.join(reasons[n]) or 'no linear weight'}" for n in shares]


def _plain(reason: str) -> str:
    """A reason on one line, with the operator in place of the whole name of a node."""
    line = reason.splitlines()[0]
    return re.sub(r"\((\w+) [^(),]*(, axis \d+)?\)$", lambda m: f"({m[1]}{m[2] or ''})", line)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/architectures.md from reports of the zoo run.")
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="where to write it")
    args = parser.parse_args(argv)
    rows = merge(json.loads(path.read_text(encoding="utf-8")) for path in args.reports)
    found = problems(rows)
    if found:
        print(*found, sep="\n", file=sys.stderr)
        return 1
    args.out.write_text(render(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
