"""Several growths in a row: each is proved against the model before it, and the last model is run against the first.

That f₀ = f₁ and f₁ = f₂ proves f₀ = f₂, whoever made the models between. What is run from end to end adds nothing to
that proof; it would show a fault that all steps overlooked, and it measures what inexact steps change together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import MEAN, AxisMap
from onnxgrow.growth_map import SCALED, GrowthMap, ValueGrowth
from onnxgrow.io.copy import copy_model
from onnxgrow.verify import float64, runtime
from onnxgrow.verify.inputs import variants
from onnxgrow.verify.judge import TIERS, model_source
from onnxgrow.verify.merge import merged
from onnxgrow.verify.report import Finding, GrownOutput, Report, TierResult, TierStatus, Verdict

__all__ = ["Link", "conclude", "end_to_end", "unproved"]

Path = str | os.PathLike[str]
END = "end to end"


@dataclass(frozen=True)
class Link:
    """One growth of the chain.

    Attributes:
        label: What it is called in the report, as in ``step 2 (widen)``.
        growth_map: What grew.
        report: The evidence for it.
    """

    label: str
    growth_map: GrowthMap
    report: Report


def end_to_end(
    original: ir.Model,
    result: ir.Model,
    growth_maps: Sequence[GrowthMap] = (),
    *,
    original_path: Path | None = None,
    result_path: Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    provider: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[TierResult, TierResult]:
    """Run the first and the last model on the same inputs and compare their outputs, in float64 and in ONNX Runtime.

    Args:
        original, result: The models; not modified.
        growth_maps: Those between them, the first growth first: for outputs whose axes grew.
        original_path, result_path, inputs, input_shapes, provider, seed: See :func:`onnxgrow.verify.judge.verify`.
        progress: Told what is being done.

    Returns:
        The tiers ``float64`` and ``runtime``; where the first is NOT_RUN, a finding says why.

    Raises:
        GrowError: As :func:`onnxgrow.verify.judge.verify`.
    """
    say = progress or (lambda _: None)
    source = model_source(original, original_path)
    found = variants(original, source, inputs, input_shapes, seed)
    longest = max(len(variant.few) for variant in found)
    feeds = [v.few[i] for i in range(longest) for v in found if i < len(v.few)]
    outputs = _grown_outputs(result, growth_maps)
    say("float64")
    inner = {name for node in original.graph for v in node.outputs if (name := v.name)}
    kept = {v.name for v in original.graph.outputs}
    quiet = GrowthMap(values=outputs, removed=tuple(sorted(inner - kept)), exact=False, outputs=tuple(outputs))
    exact = float64.run_tier(original, _outputs_only(result), quiet, feeds[:2], seed=seed)
    say("runtime")
    ran = runtime.run_tier(source, model_source(result, result_path), feeds, provider, quiet, (), seed)
    return exact, ran


def conclude(
    links: Sequence[Link],
    ends: tuple[TierResult, TierResult],
    max_change: float | None = None,
    frozen: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """One report of a chain in which every link was proved, or measured as its method promises.

    ``equivalent`` only when every link is, and the outputs agree from end to end; ``changed`` where one is inexact, by
    as much as the outputs moved from end to end, or where outputs grew. The comparison from end to end in
    float64 says nothing, and is left out with a note, where it could not be run, where a step stores rounded numbers
    (each is proved before rounding), or where the network is chaotic; it is never what the proof rests on.
    """
    exact, ran = ends
    notes = [f"{link.label}: {note}" for link in links for note in link.report.notes]
    verdicts = [link.report.verdict for link in links]
    inexact = not all(link.growth_map.exact for link in links)
    outputs = _interface(links)
    mute = "" if inexact else _mute(links, exact)
    if mute:
        notes.append(f"{END} in float64: not counted, {mute}; every step was compared in float64 by itself")
    notes.append(f"{len(links)} growths, each proved against the model before it; the outputs compared {END}")
    counted = [ran] if mute else [exact, ran]
    tiers = [_tier(name, links, [t for t in counted if t.name == name]) for name in TIERS]
    living = tuple(replace(a, name=f"{link.label}: {a.name}") for link in links for a in link.report.alive)
    change = None
    worst = next((v for v in (Verdict.NOT_EQUIVALENT, Verdict.UNPROVED) if v in verdicts), None)
    verdict = Verdict.EQUIVALENT
    if worst is not None:
        verdict = worst
    elif inexact:
        change = _change(counted)
        verdict = Verdict.UNPROVED if change is None else Verdict.CHANGED
    elif any(t.status is TierStatus.FAILED for t in counted):
        verdict = Verdict.NOT_EQUIVALENT
    elif ran.status is not TierStatus.PASSED:
        verdict = Verdict.UNPROVED
    elif outputs:
        verdict = Verdict.CHANGED
    said = tuple(dict.fromkeys(notes))
    return Report(verdict, tuple(tiers), living, change, max_change, tuple(frozen), said, outputs)


def unproved(ends: tuple[TierResult, TierResult], reason: str) -> Report:
    """What can be said of two models where what lies between them is not known: both were run, nothing was proved."""
    said = tuple(TierResult(name, TierStatus.NOT_RUN, {}, (_finding(reason),)) for name in TIERS[:2])
    faulty = any(t.status is TierStatus.FAILED for t in ends)
    verdict = Verdict.NOT_EQUIVALENT if faulty else Verdict.UNPROVED
    return Report(verdict, (*said, *ends), notes=("the outputs were compared on samples, which proves nothing",))


def _finding(reason: str) -> Finding:
    return Finding("growth map", reason)


def _tier(name: str, links: Sequence[Link], ends: Sequence[TierResult]) -> TierResult:
    parts = [(END, tier) for tier in ends]
    for link in links:
        missing = TierResult(name, TierStatus.NOT_RUN, {}, (Finding(link.label, "this tier was not run"),))
        parts.append((link.label, link.report.tier(name) or missing))
    found = merged(name, parts)
    figures = {key: value for key, value in found.figures.items() if key != "bodies"}
    if "outputs_proved" in figures:  # the same outputs each time
        figures["outputs_proved"] = min(tier.figures.get("outputs_proved", 0) for _, tier in parts)
    return replace(found, figures=figures | {"steps": {label: dict(tier.figures) for label, tier in parts}})


def _mute(links: Sequence[Link], exact: TierResult) -> str:
    """Why the comparison in float64 from end to end says nothing; empty where it does."""
    for link in links:
        tensors = link.growth_map.tensors.values()
        rounded = any(t.formula == SCALED or any(MEAN in m.facts() for m in t.axes.values()) for t in tensors)
        if rounded or any("epsilon" in change.attributes for change in link.growth_map.nodes.values()):
            return f"because {link.label} stores numbers that are rounded"
        tier = link.report.tier("float64")
        if tier is not None and tier.figures.get("chaotic_values"):
            return "because noise alone moves the outputs as far as a fault"
    if exact.status is TierStatus.NOT_RUN:
        first = exact.findings[0] if exact.findings else None
        return f"because it could not be run ({first.subject}: {first.reason})" if first else "it was not run"
    return ""


def _change(ends: Sequence[TierResult]) -> float | None:
    """How far the outputs moved from end to end; None unless that is known and finite."""
    found = [t.figures.get("outputs_difference") for t in ends if t.status is not TierStatus.NOT_RUN]
    known = [float(x) for x in found if isinstance(x, float) and np.isfinite(x)]
    ran = any(t.name == "runtime" and t.status is not TierStatus.NOT_RUN for t in ends)
    return max(known) if ran and known and len(known) == len(found) else None


def _interface(links: Sequence[Link]) -> tuple[GrownOutput, ...]:
    """Outputs that grew in any step, from the first size to the last."""
    found: dict[tuple[str, int], GrownOutput] = {}
    for grown in (o for link in links for o in link.report.outputs):
        key = (grown.name, grown.axis)
        before = found.get(key, grown)
        found[key] = replace(grown, old=before.old, allowed=grown.allowed and before.allowed)
    return tuple(found.values())


def _outputs_only(result: ir.Model) -> ir.Model:
    """A copy whose inner values have names that nothing of the original has."""
    copied = copy_model(result)
    kept = {v.name for v in copied.graph.outputs}
    for node in copied.graph:
        for value in node.outputs:
            if value.name and value.name not in kept:
                value.name = f"result/{value.name}"
    return copied


def _grown_outputs(result: ir.Model, growth_maps: Sequence[GrowthMap]) -> dict[str, ValueGrowth]:
    """Axes of the graph's outputs that grew, over all steps."""
    found: dict[str, ValueGrowth] = {}
    for value in result.graph.outputs:
        name, axes = value.name or "", dict[int, AxisMap]()
        for growth_map in reversed(growth_maps):
            growth = growth_map.values.get(name)
            for axis, before in (growth.axes if growth is not None else {}).items():
                axes[axis] = _composed(before, axes.get(axis))
        if axes:
            found[name] = ValueGrowth(axes)
    return found


def _composed(first: AxisMap, then: AxisMap | None) -> AxisMap:
    if then is None:
        return first
    if then.old_size != first.new_size:
        return then  # one of the two does not fit its models: its own proof says so, and the shapes at the ends will
    source, later = first.source(), then.source()
    return AxisMap.from_source(np.where(later >= 0, source[np.maximum(later, 0)], -1))
