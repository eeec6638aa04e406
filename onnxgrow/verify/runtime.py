"""The runtime tier: both models in ONNX Runtime, in their own dtype, on the provider they will run on.

First without graph optimisations, where every computed value is compared (a saturated output hides a fault in front of
it), then fully optimised, where the outputs are. The bound of each value is ten times the noise floor, measured by
moving the original's float inputs by one unit in the last place; at least ten machine epsilons of the value's scale.
Where there are no such inputs, and for a second look at what is out of bounds, its weights move, and its sums are
regrouped (:mod:`onnxgrow.verify.regroup`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.level import GrownFault, InnerRefused, Level, Measured, Pair, shares
from onnxgrow.verify.memory import give_back_freed
from onnxgrow.verify.report import Finding, TierResult, TierStatus
from onnxgrow.verify.sessions import ModelSource, resolve_provider

__all__ = ["Pair", "run_tier"]

INNER_LIMIT = 1_000_000_000
"""Bytes of all intermediate values above which only outputs are compared."""
REPORTED = 20


def run_tier(
    original: bytes | str | os.PathLike[str] | ModelSource,
    grown: bytes | str | os.PathLike[str] | ModelSource,
    feeds_list: Sequence[Mapping[str, Any]],
    provider: str = "auto",
    growth_map: GrowthMap | None = None,
    pairs: Sequence[Pair] = (),
    seed: int = 0,
) -> TierResult:
    """Run both models on every feed and compare outputs and intermediate values.

    Args:
        original, grown: Serialized models, or paths (needed above 2 GB).
        feeds_list: One mapping of input name → array per run, in the model's own dtypes.
        provider: ``auto``, ``cpu`` or ``cuda``; ``cuda`` is strict: every node has to run there.
        growth_map: Maps of the graph outputs' axes; normally no output grew.
        pairs: Intermediate values to compare as well.
        seed: Of the noise.

    Raises:
        EnvironmentFault: A provider asked for is not usable, or onnxruntime is damaged.
        UnsupportedError: ONNX Runtime refuses the original.
    """
    start = time.perf_counter()
    strict = provider == "cuda"
    used = resolve_provider(provider)
    if not feeds_list:
        return TierResult("runtime", TierStatus.NOT_RUN, {}, (Finding("inputs", "no inputs to run on"),))
    old, new = ModelSource.of(original), ModelSource.of(grown)
    inner, skipped = _inner(pairs, feeds_list)
    measured: list[Measured] = []
    findings: list[Finding] = []
    nodes: dict[str, dict[str, int]] = {}
    for level, values in (("disabled", inner), ("all", [])):
        compare = partial(Level, old, new, used, strict, level, growth_map, seed)
        try:
            for number, share in enumerate(shares(values, feeds_list)):
                try:
                    found = compare(share, outputs=not number)
                except InnerRefused as e:
                    skipped = f"ONNX Runtime does not give them out: {e}"
                    if number:
                        continue
                    found = compare([])
                measured += found.run(feeds_list)
                nodes[level] = dict(found.new.nodes)
                del found  # before the next sessions are opened
                give_back_freed()
        except GrownFault as e:
            findings.append(Finding("result", f"ONNX Runtime ({level}): {e}"))
    faults: dict[tuple[str, str], Measured] = {(m.level, m.name): m for m in measured if not m.passed}
    findings += [Finding(m.name, _reason(m)) for m in faults.values()]
    if not findings and not any(m.is_output for m in measured):
        findings.append(Finding("graph outputs", "there is none to compare"))
    figures = _figures(measured, used, nodes, skipped, len(feeds_list)) | {"faults": len(findings)}
    status = TierStatus.FAILED if findings else TierStatus.PASSED
    return TierResult("runtime", status, figures, tuple(findings[:REPORTED]), time.perf_counter() - start)


def _inner(pairs: Sequence[Pair], feeds_list: Sequence[Mapping[str, Any]]) -> tuple[list[Pair], str]:
    total = sum(p.nbytes for p in pairs)
    if total > INNER_LIMIT:
        return [], f"{total / 1e9:.1f} GB of intermediate values are above the limit of {INNER_LIMIT / 1e9:.0f} GB"
    return list(pairs), ""


def _reason(m: Measured) -> str:
    if m.fault:
        return f"{m.fault} (optimisations: {m.level})"
    return (
        f"differs by {m.difference:.3g} of its scale; bound {m.bound:.3g}, noise floor {m.floor:.3g} "
        f"(optimisations: {m.level})"
    )


def _figures(
    measured: Sequence[Measured],
    provider: str,
    nodes: Mapping[str, Mapping[str, int]],
    skipped: str,
    runs: int,
) -> dict[str, Any]:
    worst = max(measured, key=lambda m: (m.difference, m.bound), default=None)
    outputs = [m for m in measured if m.is_output]
    largest = max(outputs, key=lambda m: m.difference, default=None)
    figures: dict[str, Any] = {
        "provider": provider,
        "nodes": {level: dict(counts) for level, counts in nodes.items()},
        "runs": runs,
        "outputs_compared": len(outputs),
        "values_compared": len(measured) - len(outputs),
    }
    if largest is not None:
        figures["outputs_difference"] = _plain(largest.difference)
        figures["outputs_floor"] = _plain(largest.floor)
        figures["outputs_bound"] = _plain(largest.bound)
    if worst is not None:
        figures |= {"largest_difference": _plain(worst.difference), "at": worst.name}
        figures |= {"floor": _plain(worst.floor), "bound": _plain(worst.bound)}
    if skipped:
        figures["intermediate_values_skipped"] = skipped
    return figures


def _plain(x: float) -> float | str:
    """JSON knows no infinity."""
    return float(x) if np.isfinite(x) else "inf"
