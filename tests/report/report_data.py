"""Data as plans and reports give it."""

from __future__ import annotations

from typing import Any

PLAN: dict[str, Any] = {
    "recipe": {"pass": "widen"},
    "seed": 0,
    "sets": [{"name": "stem", "old": 16, "new": 32}],
    "skipped": {"head": "it is an output", "input of stem": "it is an input"},
    "notes": [],
    "parameters": {"old": 3466, "new": 8970},
    "flops": {"old": 33_920, "new": 88_320},
}


def tier(name: str, figures: dict[str, Any], status: str = "passed", *findings: tuple[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "figures": figures,
        "findings": [{"subject": s, "reason": r} for s, r in findings],
        "seconds": 0.1,
    }


def evidence(verdict: str = "equivalent", **changes: Any) -> dict[str, Any]:
    """The data of a report, of a success unless changed."""
    numbers = {"largest_difference": 2.5e-16, "bound": 4e-15, "floor": 4e-16}
    outputs = {"outputs_difference": 1e-7, "outputs_floor": 2e-7, "outputs_bound": 2e-6}
    return {
        "verdict": verdict,
        "change": None,
        "max_change": None,
        "tiers": [
            tier("accounting", {"nodes_compared": 6, "tensors_equal": 1, "tensors_listed": 5, "nodes_inserted": 2}),
            tier(
                "certificate",
                {
                    "nodes": {"constant": 4, "rule Gemm": 3},
                    "entries_proved_zero": 1024,
                    "entries_bit_compared": 3466,
                    "outputs_proved": 1,
                },
            ),
            tier("float64", {"runs": 4, "values_compared": 24, **numbers}),
            tier(
                "runtime",
                {
                    "provider": "cuda",
                    "nodes": {"all": {"CUDAExecutionProvider": 5, "CPUExecutionProvider": 1}},
                    "outputs_compared": 8,
                    "values_compared": 20,
                    **outputs,
                },
            ),
        ],
        "alive": [
            {"name": "stem", "channels": 32, "alive": 31, "note": "measured"},
            {"name": "mid", "channels": 8, "alive": 8, "note": "measured"},
        ],
        "frozen": [],
        "notes": [],
    } | changes
