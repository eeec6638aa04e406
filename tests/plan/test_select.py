"""Which sets a selector means."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from support import analysis_of, model_of

from onnxgrow.analysis import Analysis
from onnxgrow.errors import UsageError
from onnxgrow.plan import select

GRAPH = (
    "g (float[N,3,4,4] x) => (float[N,5] y) { c = Conv(x, wa) r = Relu(c) d = Conv(r, wb) p = GlobalAveragePool(d)"
    " f = Flatten(p) h = MatMul(f, wc) q, v = Split <axis = 1> (h) m = Mul(q, v) y = MatMul(m, wd) }"
)
WEIGHTS = {"wa": (4, 3, 1, 1), "wb": (6, 4, 1, 1), "wc": (6, 8), "wd": (4, 5)}


def renamed(model: ir.Model, names: dict[str, str], nodes: dict[str, str]) -> ir.Model:
    for old, new in names.items():
        model.graph.initializers[old].name = new
    for node in model.graph:
        node.name = nodes.get(node.outputs[0].name or "", node.name)
    return model


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    model = renamed(
        model_of(GRAPH, WEIGHTS), {"wa": "stem.weight", "wb": "body*.weight"}, {"c": "/stem/Conv", "h": "fc"}
    )
    return analysis_of(model)


def chosen(analysis: Analysis, *selectors: str) -> list[str]:
    return [s.name for s in select(analysis, selectors)]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("stem", ["stem"]),
        ("stem.weight", ["stem"]),
        ("/stem/Conv", ["stem"]),
        ("c", ["stem"]),
        ("st*", ["stem"]),
        ("/stem/*", ["stem"]),
        ("op:Conv", ["stem", "body*"]),
        ("Conv", ["stem", "body*"]),
        ("op:C*", ["stem", "body*"]),
        ("op:MatMul", ["wc[0:4]", "wd"]),
        ("wc[0:4]", ["wc[0:4]"]),
        ("wc", ["wc[0:4]"]),
        ("wc*", ["wc[0:4]"]),
        ("fc", ["wc[0:4]"]),
        ("w[cd]*", ["wc[0:4]", "wd"]),
        ("body*", ["body*"]),
        ("?tem", ["stem"]),
    ],
)
def test_names_globs_and_operators(analysis: Analysis, selector: str, names: list[str]) -> None:
    assert chosen(analysis, selector) == names


def test_several_selectors_choose_their_union_in_network_order(analysis: Analysis) -> None:
    assert chosen(analysis, "fc", "stem", "st*") == ["stem", "wc[0:4]"]


def test_no_selector_means_everything(analysis: Analysis) -> None:
    assert select(analysis, None) == analysis.sets
    assert select(analysis, ()) == analysis.sets


def test_a_literal_name_goes_before_the_glob_that_it_is_too() -> None:
    model = renamed(model_of(GRAPH, WEIGHTS), {"wa": "block*", "wb": "block1"}, {})
    assert chosen(analysis_of(model), "block*") == ["block*"]


@pytest.mark.parametrize(
    ("selector", "hint"), [("stme", "did you mean stem?"), ("op:Gemm", "inspect"), ("", "inspect")]
)
def test_what_matches_nothing_is_a_usage_error_with_a_suggestion(analysis: Analysis, selector: str, hint: str) -> None:
    with pytest.raises(UsageError, match="no channel set matches") as caught:
        select(analysis, ["stem", selector])
    assert caught.value.subject == selector
    assert hint in caught.value.hint
