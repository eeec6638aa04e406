"""One result of a tier from those of several graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["merged"]

COUNTS = (
    *("nodes_compared", "nodes_inserted", "nodes_removed", "tensors_equal", "tensors_listed", "values_listed"),
    *("tensors_compared", "entries_bit_compared", "entries_proved_zero", "outputs_proved"),
    *("values_compared", "values_judged_by_shape", "outputs_compared", "faults"),
)
LISTS = ("native_nodes", "single_precision_nodes")
LARGEST = (
    ("outputs_difference", ("outputs_difference", "outputs_floor", "outputs_bound")),
    ("largest_difference", ("largest_difference", "at", "floor", "bound")),
)


def merged(name: str, results: Sequence[tuple[str, TierResult]]) -> TierResult:
    """All results as one: failed when any failed, passed only when all passed.

    Args:
        name: The tier.
        results: (graph, its result); the main graph first, with an empty name. Counts are added up, differences are
            the largest, and ``bodies`` holds the figures of each body.
    """
    parts = [result for _, result in results]
    status = next(
        (s for s in (TierStatus.FAILED, TierStatus.NOT_RUN) if any(p.status is s for p in parts)), TierStatus.PASSED
    )
    findings = [Finding(_said(label, f.subject), f.reason) for label, p in results for f in p.findings]
    worst = [
        Finding(_said(label, f.subject), f.reason) for label, p in results if p.status is status for f in p.findings
    ]
    figures = dict(parts[0].figures)
    for label, part in results[1:]:
        _add(figures, part.figures, label)
    if len(results) > 1:
        figures["bodies"] = {label: dict(part.figures) for label, part in results[1:] if label}
    ordered = list(dict.fromkeys([*worst, *findings]))
    return TierResult(name, status, figures, tuple(ordered), sum(p.seconds for p in parts))


def _said(label: str, subject: str) -> str:
    return f"{label}/{subject}" if label else subject


def _add(figures: dict[str, Any], more: Mapping[str, Any], label: str) -> None:
    for key in COUNTS:
        if key in more:
            figures[key] = figures.get(key, 0) + more[key]
    for key in LISTS:
        if key in more:
            figures[key] = [*figures.get(key, ()), *(_said(label, name) for name in more[key])]
    ways = [x.get("nodes", {}) for x in (figures, more)]
    if any(ways) and all(isinstance(n, int) for found in ways for n in found.values()):
        figures["nodes"] = dict(sorted((Counter(ways[0]) + Counter(ways[1])).items()))
    for key, together in LARGEST:
        if key in more and (key not in figures or float(more[key]) > float(figures[key])):
            figures.update({k: _said(label, more[k]) if k == "at" else more[k] for k in together if k in more})
