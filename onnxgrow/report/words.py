"""The evidence of a verification in words. Takes the data of ``Report.to_json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxgrow.report.numbers import figure, whole

__all__ = ["alive_words", "conclusion", "refusal", "tier_words"]

Data = Mapping[str, Any]
NOUNS = {"set": "new channel", "layer": "channel", "kernel": "new tap"}
"""What is counted of each unit that can learn."""


def tier_words(tier: Data) -> str:
    """What one tier measured, in a line; empty when it measured nothing."""
    describe = {"accounting": _accounting, "certificate": _certificate, "float64": _float64, "runtime": _runtime}
    figures = tier["figures"]
    return describe[tier["name"]](figures) if figures and tier["name"] in describe else ""


def alive_words(alive: Sequence[Data]) -> str:
    """How many channel sets, and how many of their new channels, were seen to get a gradient."""
    measured = [a for a in alive if a["alive"] is not None]
    parts = []
    if measured:
        living = sum(1 for a in measured if a["alive"] > 0)
        channels = sum(a["channels"] for a in measured)
        parts.append(f"{living} of {_several(len(measured), _unit(measured))} can learn")
        noun = NOUNS.get(_unit(measured), "channel")
        parts.append(f"{whole(sum(a['alive'] for a in measured))} of {_several(channels, noun)} get a gradient")
    if len(measured) < len(alive):
        parts.append(f"not measured whether {_several(len(alive) - len(measured), _unit(alive))} can learn")
    return ", ".join(parts)


def _unit(alive: Sequence[Data]) -> str:
    """What the results are about: channel sets, inserted layers, or enlarged kernels."""
    units = {a.get("unit", "set") for a in alive}
    return units.pop() if len(units) == 1 else "set"


def conclusion(report: Data, name: str) -> str:
    """The last line of a success: the verdict, what it is about, and why it can be believed."""
    if report["verdict"] == "changed" and report["change"] is not None:
        return (
            f"changed: {name}: outputs change by {figure(report['change'])} of their scale, "
            f"{figure(report['max_change'])} was allowed"
        )
    figures = {t["name"]: t["figures"] for t in report["tiers"]}
    parts = []
    certificate, runtime = figures.get("certificate", {}), figures.get("runtime", {})
    if "entries_proved_zero" in certificate:
        parts.append(
            f"{_several(certificate['outputs_proved'], 'output')} proved, "
            f"{whole(certificate['entries_proved_zero'])} entries proved zero"
        )
    if "outputs_difference" in runtime:
        parts.append(f"in ONNX Runtime on {runtime.get('provider', '?')} {_outputs(runtime)}")
    if report["alive"]:
        parts.append(alive_words(report["alive"]))
    if report["verdict"] == "changed":
        name += f": the interface, by request: {_grown_outputs(report)}; old entries are unchanged"
    return f"{report['verdict']}: {name}" + (f": {'; '.join(parts)}" if parts else "")


def refusal(report: Data) -> tuple[str, str]:
    """Reason and hint for a verdict that is not good enough."""
    if report["verdict"] == "changed" and not all(o["allowed"] for o in report.get("outputs", ())):
        named = next(o["name"] for o in report.get("outputs", ()) if not o["allowed"])
        return f"the interface changed: {_grown_outputs(report)}", f"where that is wanted, name it: --outputs {named}"
    if report["verdict"] == "changed" and report["change"] is not None:
        change = f"outputs change by {figure(report['change'])} of their scale"
        if report["max_change"] is None:
            return change, "the growth was inexact by request; say with --max-change how much is allowed"
        return f"{change}, {figure(report['max_change'])} was allowed", ""
    for tier in report["tiers"]:
        if tier["status"] != "passed":
            first = tier["findings"][0] if tier["findings"] else None
            detail = f": {first['subject']}: {first['reason']}" if first else ""
            note = f" ({report['notes'][0]})" if report["notes"] else ""
            return f"{report['verdict']}; {tier['name']} {tier['status']}{detail}{note}", ""
    return report["verdict"] + (f": {report['notes'][0]}" if report["notes"] else ""), ""


def _grown_outputs(report: Data) -> str:
    outputs = report.get("outputs", ())
    return ", ".join(f"output {o['name']}, axis {o['axis']}, {o['old']} to {o['new']}" for o in outputs)


def _accounting(f: Data) -> str:
    parts = [
        f"{_several(f.get('nodes_compared', 0), 'node')} compared",
        f"{_several(f.get('tensors_equal', 0), 'tensor')} equal",
        f"{whole(f.get('tensors_listed', 0))} grown",
    ]
    parts += [f"{_several(f[key], 'node')} {word}" for key, word in _NODES if f.get(key)]
    return ", ".join(parts)


_NODES = (("nodes_inserted", "inserted"), ("nodes_removed", "removed"))


def _certificate(f: Data) -> str:
    nodes = f.get("nodes", {})
    parts = [
        f"{_several(f.get('outputs_proved', 0), 'output')} proved",
        f"{whole(f.get('entries_proved_zero', 0))} entries proved zero",
        f"{whole(f.get('entries_bit_compared', 0))} compared bit by bit",
    ]
    if isinstance(nodes, Mapping):
        parts.append(f"{_several(sum(n for way, n in nodes.items() if way != 'constant'), 'node')}")
    return ", ".join(parts)


def _float64(f: Data) -> str:
    compared = f"{_several(f.get('values_compared', 0), 'value')} in {_several(f.get('runs', 0), 'run')}"
    return f"{compared}, {_difference(f)}" if "largest_difference" in f else compared


def _runtime(f: Data) -> str:
    parts = [f"on {f.get('provider', '?')}"]
    assigned = f.get("nodes")
    placed = assigned.get("all") if isinstance(assigned, Mapping) else None
    if placed:
        parts[0] += f" ({', '.join(f'{name} ' + _several(n, 'node') for name, n in placed.items())})"
    parts.append(
        f"{_several(f.get('outputs_compared', 0), 'output')} and {_several(f.get('values_compared', 0), 'inner value')}"
    )
    if "outputs_difference" in f:
        parts.append(_outputs(f))
    return ", ".join(parts)


def _outputs(f: Data) -> str:
    return (
        f"outputs differ by {figure(f['outputs_difference'])} of their scale "
        f"(bound {figure(f.get('outputs_bound'))}, noise floor {figure(f.get('outputs_floor'))})"
    )


def _difference(f: Data) -> str:
    return (
        f"largest difference {figure(f['largest_difference'])} "
        f"(bound {figure(f.get('bound'))}, noise floor {figure(f.get('floor'))})"
    )


def _several(n: int, noun: str) -> str:
    return f"{whole(n)} {noun}" if n == 1 else f"{whole(n)} {noun}s"
