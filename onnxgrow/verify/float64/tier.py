"""The float64 tier: the lockstep comparison over several inputs, as evidence for the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.lockstep import Comparison, GrownError, Measured, lockstep
from onnxgrow.verify.float64.prepared import Prepared, prepare
from onnxgrow.verify.float64.rerandomise import SCALE, rerandomise
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["run_tier"]

REPORTED = 20
"""Findings listed; the number of all is a figure."""
REDRAWN = 4
"""Noisy originals of the second look."""


def run_tier(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap,
    feeds_list: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TierResult:
    """Evaluate both models in float64 on every feed and compare all values that they share.

    Args:
        original, grown: The models.
        growth_map: What the result claims about its values.
        feeds_list: One mapping of input name → array per run; small batches are enough.
        overrides: Tensors of the result that follow a formula, before they were rounded to their dtype (float64).
        seed: Of the noise.

    Returns:
        The tier ``float64``: NOT_RUN with the operator named where something cannot be evaluated. In its figures
        ``native_nodes`` ran in the model's own precision, by the original's names of their outputs; where there are
        ``single_precision_nodes`` among them, whose rounding widened bounds, the tier proves something only
        together with the runtime tier.
    """
    start = time.perf_counter()
    name, exact = "float64", growth_map.exact

    def result(
        status: TierStatus, findings: Sequence[Finding] = (), figures: Mapping[str, Any] | None = None
    ) -> TierResult:
        return TierResult(name, status, figures or {}, tuple(findings), time.perf_counter() - start)

    if not feeds_list:
        return result(TierStatus.NOT_RUN, [Finding("inputs", "no inputs to run on")])
    runs: list[Comparison] = []
    try:
        old, new = prepare(original), prepare(grown, overrides)
        runs.extend(_compared(old, new, growth_map, feeds, seed) for feeds in feeds_list)
        larger = _rerandomised(old, grown, growth_map, feeds_list[0], overrides, seed) if exact else None
    except NoFloat64Error as e:
        return result(TierStatus.NOT_RUN, [Finding(e.op, e.reason)])
    except EvaluationError as e:
        return result(TierStatus.NOT_RUN, [Finding(e.node, e.reason)])
    except MemoryError:
        return result(TierStatus.NOT_RUN, [Finding("memory", "not enough for a float64 evaluation")])
    except GrownError as e:
        return result(TierStatus.FAILED, [Finding("result", f"cannot be evaluated where the original can: {e}")])
    faults = {m.name: m for found in runs for m in found.faults}
    unmatched = sorted({value for found in runs for value in found.unmatched})
    findings = [Finding(m.name, _reason(m)) for m in faults.values()]
    figures = _figures(runs)
    if larger is not None:
        figures["larger_new_weights"] = _larger_figures(larger)
        findings += [
            Finding(m.name, f"with new weights {SCALE:g} times as large: {_reason(m)}")
            for m in larger.faults
            if m.name not in faults and not m.fault
        ]
    findings += [Finding(value, "the result has no such value and does not list it") for value in unmatched]
    if not any(found.outputs for found in runs):
        findings.append(Finding("graph outputs", "there is none to compare"))
    figures["faults"] = len(findings)
    return result(TierStatus.FAILED if findings else TierStatus.PASSED, findings[:REPORTED], figures)


def _compared(old: Prepared, new: Prepared, growth_map: GrowthMap, feeds: Mapping[str, Any], seed: int) -> Comparison:
    """One draw of noise may be lucky: before anything is called a fault, the floor is that of several.

    What is chaotic even then is compared locally.
    """
    found = lockstep(old, new, growth_map, feeds, (seed,))
    seeds = range(seed, seed + REDRAWN)
    if any(m.may_be_noise or m.chaotic for m in found.faults):
        found = lockstep(old, new, growth_map, feeds, seeds)
    if found.chaotic:
        names = [m.name for m in found.faults]
        found = lockstep(old, new, growth_map, feeds, seeds, local=True)
        found.reset = names
    return found


def _rerandomised(
    old: Prepared,
    grown: ir.Model,
    growth_map: GrowthMap,
    feeds: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    seed: int,
) -> Comparison | None:
    """The comparison with larger new weights; None where there are none to enlarge."""
    larger = rerandomise(grown, growth_map, SCALE, seed)
    if not larger:
        return None
    return _compared(old, prepare(grown, larger | dict(overrides or {})), growth_map, feeds, seed)


def _larger_figures(found: Comparison) -> dict[str, Any]:
    values = [m.difference for m in (*found.values, *found.outputs) if not m.fault]
    # a fault here is a NaN or an infinity: nothing is promised for activations that leave the finite numbers
    not_finite = sum(bool(m.fault) for m in (*found.values, *found.outputs))
    return {"scale": SCALE, "largest_difference": max(values, default=0.0), "not_finite": not_finite}


def _reason(m: Measured) -> str:
    if m.fault:
        return m.fault
    return f"old entries differ by {m.difference:.3g} of the scale; bound {m.bound:.3g}, noise floor {m.floor:.3g}"


def _figures(runs: Sequence[Comparison]) -> dict[str, Any]:
    values = [m for found in runs for m in (*found.values, *found.outputs)]
    worst = max(values, key=lambda m: m.difference, default=None)
    outputs = max((m.difference for found in runs for m in found.outputs), default=0.0)
    figures: dict[str, Any] = {
        "runs": len(runs),
        "values_compared": sum(len(found.values) for found in runs),
        "values_judged_by_shape": sum(found.by_shape for found in runs),
        "outputs_difference": _plain(outputs),
        "chaotic_values": sorted({name for found in runs for name in found.reset}),
        "native_nodes": sorted({name for found in runs for name in found.native}),
        "single_precision_nodes": sorted({name for found in runs for name in found.rounded}),
    }
    if worst is not None:
        figures |= {
            "largest_difference": _plain(worst.difference),
            "at": worst.name,
            "floor": _plain(worst.floor),
            "bound": _plain(worst.bound),
        }
    return figures


def _plain(x: float) -> float | str:
    """JSON knows no infinity."""
    return float(x) if x < float("inf") else "inf"
