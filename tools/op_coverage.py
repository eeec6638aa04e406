"""List how far every ONNX operator is covered: its rule, its certificate checker, its float64 evaluation.

    python -m tools.op_coverage [--check]

Writes the table between the markers of ``docs/op-coverage.md``; with ``--check`` writes nothing and exits with 1 when
the document is stale. All of it is read from the registries, for the newest version of each operator of ``ai.onnx``
and ``ai.onnx.ml``, and for operators of other domains that have a rule or a checker. An operator without a rule freezes
every axis at its nodes; why must be said in :data:`onnxgrow.rules.refusals.REFUSALS`, and nothing else may be there.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

import onnxgrow
from onnxgrow.rules import covered, find_rule
from onnxgrow.rules.refusals import REFUSALS
from onnxgrow.verify.certificate import checkers
from onnxgrow.verify.certificate import registry as certificate_registry
from onnxgrow.verify.float64.control_flow import compile_control_flow
from onnxgrow.verify.float64.kernels import KERNELS, NoFloat64Error, RandomError
from onnxgrow.verify.float64.reference import reference_operator

__all__ = ["Row", "coverage", "main", "onnx_version", "render"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "op-coverage.md"
BEGIN, END = "<!-- op-coverage: begin -->", "<!-- op-coverage: end -->"
PACKAGE = Path(onnxgrow.__file__).resolve().parent
DOMAINS = ("", "ai.onnx.ml")
NEWEST = 1 << 16
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
BY_VALUE = frozenset({"Range", "Shape", "Size"})
"""Their results follow from shapes and constants alone, and are compared as numbers."""

CONSTANT = ("", "Constant")
"""Its output is a weight or an operand like an initializer: it needs neither rule nor checker."""


@dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        since: Opset version of its newest form; 0 where ``onnx.defs`` does not know the operator.
        rule, checker, float64: File of the package that covers it, or what is the case instead.
    """

    domain: str
    op_type: str
    since: int
    rule: str
    checker: str
    float64: str


def coverage() -> list[Row]:
    """All rows, by domain and name.

    Raises:
        ValueError: An operator has neither a rule nor a reason, or both, or a reason is about no known operator.
    """
    if not checkers.LOADED:
        raise ValueError("no checkers are registered")
    schemas: dict[tuple[str, str], onnx.defs.OpSchema] = {
        (s.domain, s.name): s for s in onnx.defs.get_all_schemas() if s.domain in DOMAINS
    }
    ruled = set(covered())
    _complete(set(schemas), ruled)
    rows = []
    for domain, op_type in sorted({*schemas, *ruled, *certificate_registry._CHECKERS, *REFUSALS}):
        schema = schemas.get((domain, op_type))
        since = schema.since_version if schema is not None else 0
        key = (domain, op_type)
        rows.append(Row(domain, op_type, since, _rule(key), _checker(key), _float64(domain, op_type, schema)))
    return rows


def _rule(key: tuple[str, str]) -> str:
    if key == CONSTANT:
        return "a constant"
    rule = find_rule(*key, NEWEST)
    return _file(rule) if rule else f"frozen: {REFUSALS.get(key, 'not an ONNX operator')}"


def _checker(key: tuple[str, str]) -> str:
    if key == CONSTANT:
        return "a constant"
    checker = certificate_registry.checker_for(*key)
    if checker is not None:
        return _file(checker)
    if not key[0] and key[1] in BY_VALUE:
        return "compared by value"
    return "none" if find_rule(*key, NEWEST) is None else "none: a growth through it is not proved"


def _complete(known: set[tuple[str, str]], ruled: set[tuple[str, str]]) -> None:
    """Every operator has a rule or a reason, and only one of them."""
    faults = {
        "neither a rule nor a reason": known - ruled - set(REFUSALS),
        "both a rule and a reason": ruled & set(REFUSALS),
        "a reason, but ONNX does not know it": {key for key in REFUSALS if key[0] in DOMAINS} - known,
    }
    faults["neither a rule nor a reason"] -= {CONSTANT}
    for fault, names in faults.items():
        if names:
            listed = ", ".join(f"{d}::{o}" if d else o for d, o in sorted(names))
            raise ValueError(f"{fault}: {listed}")


def _file(function: Callable[..., Any]) -> str:
    """Where a function stands, relative to the package."""
    return f"`{Path(inspect.getfile(inspect.unwrap(function))).resolve().relative_to(PACKAGE).as_posix()}`"


def _float64(domain: str, op_type: str, schema: onnx.defs.OpSchema | None) -> str:
    """Who evaluates the operator in float64."""
    if (domain, op_type) == CONSTANT:
        return "a constant"
    found = KERNELS.get((domain, op_type))
    if found is not None:
        return _file(found)
    if not domain and op_type in CONTROL_FLOW:
        return _file(compile_control_flow)
    count = schema.min_input if schema is not None else 1
    inputs = [ir.Value(name=f"x{i}") for i in range(count)]
    outputs = max(1, schema.min_output) if schema is not None else 1
    node = ir.Node(domain, op_type, inputs, num_outputs=outputs)
    for i, output in enumerate(node.outputs):
        output.name = f"y{i}"
    try:
        reference_operator(node, schema.since_version if schema is not None else 1)
    except RandomError:
        return "none: random"
    except NoFloat64Error:
        return "none: evaluated in the model's own precision"
    return "onnx.reference"


def onnx_version() -> str:
    """Major and minor version of the installed ``onnx``, whose operators the table lists."""
    return ".".join(onnx.__version__.split(".")[:2])


def render(rows: Sequence[Row]) -> str:
    """The generated part of the document."""
    lines = [f"Made with onnx {onnx_version()}.", ""]
    for domain in dict.fromkeys(r.domain for r in rows):
        mine = [r for r in rows if r.domain == domain]
        ruled = sum(not r.rule.startswith("frozen") for r in mine)
        proved = sum(not r.checker.startswith("none") for r in mine)
        exact = sum(not r.float64.startswith("none") for r in mine)
        lines += [
            f"## {domain or 'ai.onnx'}",
            "",
            f"{len(mine)} operators: {ruled} with a rule, {proved} with a checker, {exact} evaluated in float64.",
            "",
            "| operator | since | rule | checker | float64 |",
            "|---|--:|---|---|---|",
            *(f"| {r.op_type} | {r.since or ''} | {r.rule} | {r.checker} | {r.float64} |" for r in mine),
            "",
        ]
    return "\n".join(lines)


def _document(text: str, table: str) -> str:
    """``text`` with the generated part replaced; raises ValueError where the markers are missing."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{DOCUMENT.name} has no markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write or check docs/op-coverage.md.")
    parser.add_argument("--check", action="store_true", help="fail when the document is stale; write nothing")
    args = parser.parse_args(argv)
    text = DOCUMENT.read_text(encoding="utf-8")
    try:
        wanted = _document(text, render(coverage()))
    except ValueError as e:
        print(e, file=sys.stderr)
        return 1
    if args.check:
        if text != wanted:
            print(f"{DOCUMENT.name} is stale: run python -m tools.op_coverage", file=sys.stderr)
        return int(text != wanted)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
