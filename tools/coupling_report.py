"""What the coupling oracle found, as a document. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tools.coupling import CLASSES, Difference

__all__ = ["Result", "passed", "render"]


@dataclass(frozen=True)
class Result:
    """What was found of one network.

    Attributes:
        parameters: Parameters that the export has.
        roots: Axes asked for.
        pairs: Axes that changed with some root, summed over the roots, in the oracle's answer or ours.
        frozen: Roots of which ours can grow no part; compared all the same.
        differences: Where the answers differ.
    """

    name: str
    parameters: int
    roots: int
    pairs: int
    frozen: int
    differences: tuple[Difference, ...]

    @property
    def unexplained(self) -> list[Difference]:
        return [d for d in self.differences if not d.explained]


def passed(results: Sequence[Result]) -> bool:
    """Whether something was compared in every network, and every difference is explained."""
    return bool(results) and all(r.roots and not r.unexplained for r in results)


def render(results: Sequence[Result], versions: Sequence[str]) -> str:
    """The document; the same text for the same results."""
    roots, pairs = sum(r.roots for r in results), sum(r.pairs for r in results)
    differing = sum(len(r.differences) for r in results)
    lines = [
        "# Which channels change together: checked against Torch-Pruning",
        "",
        "Written by `python -m tools.coupling_oracle --write`; do not edit. Versions: " + ", ".join(versions) + ".",
        "",
        "Torch-Pruning's dependency graph is built from autograd, ours from the ONNX export. For every input and",
        "output axis of every layer (a *root*) both say which indices of which parameters change with it. Frozen axes",
        "are compared too: they are coupled, whether or not they may grow.",
        "",
        f"{len(results)} networks, {roots} roots, {pairs} pairs of axes: {pairs - differing} equal index by index,"
        f" {differing} different, of which {sum(len(r.unexplained) for r in results)} without an explanation.",
        "",
        "| network | parameters | roots | of them frozen | pairs | equal | explained | unexplained |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in results:
        explained = len(r.differences) - len(r.unexplained)
        equal = r.pairs - len(r.differences)
        lines.append(
            f"| {r.name} | {r.parameters} | {r.roots} | {r.frozen} | {r.pairs} | {equal} | {explained} |"
            f" {len(r.unexplained)} |"
        )
    lines += ["", "## Differences", ""]
    lines += [f"- **{key}**: {text}." for key, text in CLASSES.items()]
    lines += ["", "| network | class | only Torch-Pruning | only ours | other indices |", "|---|---|--:|--:|--:|"]
    for r in results:
        counts = Counter((d.explained or "unexplained", d.kind) for d in r.differences)
        for key in [*CLASSES, "unexplained"]:
            row = [counts[key, kind] for kind in ("only oracle", "only ours", "places")]
            if any(row):
                lines.append(f"| {r.name} | {key} | {row[0]} | {row[1]} | {row[2]} |")
    return "\n".join(lines) + "\n"
