"""List how far every ONNX operator is covered: its rule, its certificate checker, its float64 evaluation.

    python -m tools.op_coverage [--check]

Writes the table between the markers of ``docs/op-coverage.md``; with ``--check`` writes nothing and exits with 1 when
the document is stale. All of it is read from the registries, for the newest version of each operator of ``ai.onnx``
and ``ai.onnx.ml``, and for operators of other domains that have a rule or a checker. An operator without a rule freezes
every axis at its nodes; why that is so must be said in :data:`REASONS`, and nothing else may be.
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
from onnxgrow.verify.certificate import checkers
from onnxgrow.verify.certificate import registry as certificate_registry
from onnxgrow.verify.float64.control_flow import compile_control_flow
from onnxgrow.verify.float64.kernels import KERNELS, NoFloat64Error, RandomError
from onnxgrow.verify.float64.reference import reference_operator

__all__ = ["REASONS", "Row", "coverage", "main", "onnx_version", "render"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "op-coverage.md"
BEGIN, END = "<!-- op-coverage: begin -->", "<!-- op-coverage: end -->"
PACKAGE = Path(onnxgrow.__file__).resolve().parent
DOMAINS = ("", "ai.onnx.ml")
NEWEST = 1 << 16
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
BY_VALUE = frozenset({"Range", "Shape", "Size"})
"""Their results follow from shapes and constants alone, and are compared as numbers."""

_GROUPS = {
    "its subgraph would have to grow with it; what a subgraph reads or gives is frozen": "If Loop Scan SequenceMap",
    "its value is no tensor: a sequence, map or optional": (
        "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceLength SplitToSequence ai.onnx.ml:CastMap ai.onnx.ml:DictVectorizer "
        "ai.onnx.ml:ZipMap"
    ),
    "it holds strings, which have no channels": (
        "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer ai.onnx.ml:CategoryMapper "
        "ai.onnx.ml:LabelEncoder"
    ),
    "scales and zero points were calibrated for the old range, and integer weights have no exact new values": (
        "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear"
    ),
    "random: its values depend on how many it draws": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "the size of its output depends on data": "Compress NonMaxSuppression NonZero Unique",
    "it computes over positions of an image or region; its channels are not followed yet": (
        "AffineGrid CenterCropPad Col2Im DeformConv GridSample MaxRoiPool MaxUnpool RoiAlign"
    ),
    "it computes over a signal or a whole matrix: every entry enters every result": "DFT Det MelWeightMatrix STFT",
    "it makes a table of a given size from nothing": "BlackmanWindow EyeLike HammingWindow HannWindow",
    "fused: heads, states or gates lie inside its axes, which are not followed yet": (
        "Attention CausalConvWithState LinearAttention RotaryEmbedding SwiGLU"
    ),
    "it moves entries to positions that are data; not followed yet": "ReverseSequence TensorScatter",
    "a loss: it reduces over the classes": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it decodes a file": "ImageDecoder",
    "it reads the bits of its input": "BitCast",
    "classical machine learning: its weights are attributes, one per named feature or class": (
        "ai.onnx.ml:ArrayFeatureExtractor ai.onnx.ml:Binarizer ai.onnx.ml:FeatureVectorizer ai.onnx.ml:Imputer "
        "ai.onnx.ml:LinearClassifier ai.onnx.ml:LinearRegressor ai.onnx.ml:Normalizer ai.onnx.ml:OneHotEncoder "
        "ai.onnx.ml:SVMClassifier ai.onnx.ml:SVMRegressor ai.onnx.ml:Scaler ai.onnx.ml:TreeEnsemble "
        "ai.onnx.ml:TreeEnsembleClassifier ai.onnx.ml:TreeEnsembleRegressor"
    ),
}

REASONS: dict[tuple[str, str], str] = {
    (domain, op_type): reason
    for reason, names in _GROUPS.items()
    for domain, _, op_type in (name.rpartition(":") for name in names.split())
}
"""(domain, operator) → why it has no rule."""

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
    for domain, op_type in sorted({*schemas, *ruled, *certificate_registry._CHECKERS}):
        schema = schemas.get((domain, op_type))
        since = schema.since_version if schema is not None else 0
        key = (domain, op_type)
        rows.append(Row(domain, op_type, since, _rule(key), _checker(key), _float64(domain, op_type, schema)))
    return rows


def _rule(key: tuple[str, str]) -> str:
    if key == CONSTANT:
        return "a constant"
    rule = find_rule(*key, NEWEST)
    return _file(rule) if rule else f"frozen: {REASONS.get(key, 'not an ONNX operator')}"


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
        "neither a rule nor a reason": known - ruled - set(REASONS),
        "both a rule and a reason": ruled & set(REASONS),
        "a reason, but ONNX does not know it": set(REASONS) - known,
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
