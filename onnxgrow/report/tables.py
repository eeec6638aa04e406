"""Tables for the terminal, from the plain data of plans, reports and inspections.

Names are folded, not cut, so that they can be copied; they are data, never markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from onnxgrow.report.numbers import amount, file_size, share, whole
from onnxgrow.report.words import alive_words, tier_words

__all__ = ["evidence_table", "growth_table", "inspection_lines", "inspection_table", "skipped_lines"]

Data = Mapping[str, Any]

SHOWN_FINDINGS = 5
SHOWN_SKIPPED = 5
SHOWN_NAMES = 3
STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow"}


def growth_table(plan: Data, files: Mapping[str, tuple[int | None, int | None]] | None = None) -> Table:
    """What grows, and totals, before and after.

    Args:
        plan: Data of a plan's ``to_json``, with ``sets``, ``kernels``, ``layers``, ``folds`` or ``steps``;
            totals are shown where they are known.
        files: Further rows: name → bytes before and after; left out where one is unknown.
    """
    titles = {"kernels": "kernel", "layers": "new layer", "folds": "ActiSwitch", "steps": "all steps"}
    table = _table(next((title for key, title in titles.items() if key in plan), "channel set"))
    for header in ("before", "after", "growth"):
        table.add_column(header, justify="right", overflow="fold")
    for s in plan.get("sets", ()):
        table.add_row(_text(s["name"]), whole(s["old"]), whole(s["new"]), share(s["old"], s["new"]))
    for k in plan.get("kernels", ()):
        old, new = ("x".join(map(str, k[which])) for which in ("old", "new"))
        table.add_row(_text(k["name"]), old, new, share(math.prod(k["old"]), math.prod(k["new"])))
    for layer in plan.get("layers", ()):
        table.add_row(_text(layer["name"]), "", _text(_layer_words(layer)), "")
    for fold in plan.get("folds", ()):
        into = f", merged into {fold['merged_into']}" if "merged_into" in fold else ""
        table.add_row(_text(fold["name"]), "a·x + b·f(x)", _text(fold["becomes"] + into), "")
    table.add_section()
    for name, label in (("parameters", "parameters"), ("flops", "FLOPs per run")):
        if name in plan:
            old, new = plan[name]["old"], plan[name]["new"]
            table.add_row(label, amount(old), amount(new), share(old, new))
    for label, (before, after) in (files or {}).items():
        if before is not None and after is not None:
            table.add_row(label, file_size(before), file_size(after), share(before, after))
    return table


def _layer_words(layer: Data) -> str:
    """An inserted layer in a few words: what it is, on how many channels."""
    parts = []
    if "layer" in layer:
        kernel = "x".join(map(str, layer.get("kernel", ())))
        parts.append(" ".join(p for p in ("depthwise" * layer.get("depthwise", False), layer["layer"], kernel) if p))
    if "block" in layer:
        hidden = f"{layer['block']} of {layer['hidden']} channels" if "hidden" in layer else layer["block"]
        parts.append(" ".join(p for p in (hidden, "x".join(map(str, layer.get("kernel", ())))) if p))
    if "activation" in layer:
        a, b = layer["start"]
        parts.append(f"{a:g}x + {b:g}·{layer['activation']}")
    return f"{', '.join(parts)} on {whole(layer['channels'])}"


def skipped_lines(plan: Data) -> list[str]:
    """Why sets stay as they are: the first few, then how many more. Inputs of the network go without saying."""
    skipped = [(name, why) for name, why in plan["skipped"].items() if not _is_input(name)]
    lines = [f"not grown: {name}: {_first(why.split('; '))}" for name, why in skipped[:SHOWN_SKIPPED]]
    if len(skipped) > SHOWN_SKIPPED:
        where = "--report" if any(key in plan for key in ("kernels", "layers", "folds")) else "`onnxgrow inspect`"
        lines.append(f"not grown: {len(skipped) - SHOWN_SKIPPED} more; {where} lists them")
    return lines


def evidence_table(report: Data) -> Table:
    """The tiers of a verification: status, and the figures or faults behind it. Takes data of ``Report.to_json``."""
    table = _table("check")
    table.add_column("status", overflow="fold")
    table.add_column("evidence", overflow="fold")
    for tier in report["tiers"]:
        status = tier["status"]
        lines = [tier_words(tier)] if status == "passed" else list(_findings(tier["findings"]))
        table.add_row(tier["name"], Text(status, STYLES.get(status, "")), _text("\n".join(lines)))
    if report["alive"]:
        dead = any(a["alive"] == 0 for a in report["alive"])
        status = "failed" if dead else "passed" if all(a["alive"] for a in report["alive"]) else "not run"
        words = [alive_words(report["alive"])]
        words += [f"{a['name']}: {a['note']}" for a in report["alive"] if not a["alive"]][:SHOWN_FINDINGS]
        table.add_row("alive", Text(status, STYLES[status]), _text("\n".join(words)))
    return table


def inspection_table(inspection: Data, *, show_all: bool = False) -> Table:
    """Channel sets with their weights and costs. Takes data of ``Inspection.to_json``.

    Args:
        inspection: The data.
        show_all: Also sets that no weight writes.
    """
    table = _table("channel set")
    table.add_column("size", justify="right", overflow="fold")
    for header in ("writers", "readers"):
        table.add_column(header, overflow="fold")
    for header in ("params/ch", "FLOPs/ch"):
        table.add_column(header, justify="right", overflow="fold")
    table.add_column("can grow", overflow="fold")
    for s in inspection["sets"]:
        if not (show_all or s["writers"]):
            continue
        table.add_row(
            _text(s["name"]),
            whole(s["size"]),
            _text(_names(s["writers"])),
            _text(_names(s["readers"])),
            amount(s["parameters_per_channel"]),
            amount(s["flops_per_channel"]),
            _growable(s),
        )
    return table


def _growable(channel_set: Data) -> Text:
    if not channel_set["growable"]:
        return _text(f"no: {_first(channel_set['reasons'])}")
    ways = channel_set.get("residual", ())
    return Text(f"with --residual ({' or '.join(ways)})", "cyan") if ways else Text("yes", "green")


def inspection_lines(inspection: Data, *, show_all: bool = False) -> list[str]:
    """Totals below the table."""
    sets = inspection["sets"]
    written = [s for s in sets if s["writers"]]
    residual = ""
    if any(s.get("residual") for s in sets):
        residual = f", {inspection['growable_weights_with_residual']} with --residual"
    lines = [
        f"{sum(s['growable'] for s in written)} of {len(written)} written channel sets can grow; "
        f"{inspection['growable_weights']} of {inspection['linear_weights']} linear weights growable" + residual,
        f"{amount(inspection['parameters'])} parameters, {amount(inspection['flops'])} FLOPs per run at "
        + (
            ", ".join(f"{n}:{'x'.join(map(str, d)) or 'scalar'}" for n, d in inspection["input_shapes"].items())
            or "no inputs"
        ),
    ]
    hidden = 0 if show_all else sum(not s["writers"] for s in sets)
    if hidden:
        lines.append(f"{hidden} more that no weight writes; --all shows them")
    return lines + [f"note: {note}" for note in inspection.get("notes", ())]


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    return table


def _text(content: str) -> Text:
    """Data as text: no markup, control characters escaped."""
    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in content))


def _findings(findings: Sequence[Data]) -> Iterator[str]:
    yield from (f"{f['subject']}: {f['reason']}" for f in findings[:SHOWN_FINDINGS])
    if len(findings) > SHOWN_FINDINGS:
        yield f"{len(findings) - SHOWN_FINDINGS} more; --report lists them"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown


def _first(reasons: Sequence[str]) -> str:
    """One reason is enough in a table; the data holds all."""
    return reasons[0] + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")


def _is_input(name: str) -> bool:
    return name.startswith("input of ") or "/input of " in name
