"""Comparing couplings: our own answers, and what is told from what when an oracle answers otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.numpy_helper import from_array

from onnxgrow.analysis import Network, analyse
from onnxgrow.concrete import concretize
from onnxgrow.rules import registry
from onnxgrow.rules.context import NodeContext, Terms
from tools.coupling import Answer, Axis, Coupling, Difference, compare
from tools.coupling_report import Result, passed, render

SHAPES = {"a": (4, 3), "b": (4, 3), "c": (5, 4), "d": (2, 9)}
TEXT = """<ir_version: 8, opset_import: ["": 17]> net (float[7,3] x) => (float[7,2] y) {
    p = Gemm<transB: int = 1>(x, a)
    q = Gemm<transB: int = 1>(x, b)
    s = Add(p, q)
    t = Gemm<transB: int = 1>(s, c)
    u = Concat<axis: int = 1>(t, s)
    y = Gemm<transB: int = 1>(u, d)
}"""


def coupling(text: str = TEXT, shapes: Mapping[str, Sequence[int]] = SHAPES, untrained: str = "") -> Coupling:
    """Our answers about a model whose parameters are random."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    )
    model = ir.from_proto(proto)
    concrete = concretize(model, {v.name or "": [int(d) for d in v.shape or ()] for v in model.graph.inputs})
    names = {name: name for name in shapes}
    return Coupling(analyse(Network(model, concrete, concrete)), names, set(shapes) - set(untrained.split()))


def reach(**axes: Sequence[tuple[int, range]]) -> dict[Axis, frozenset[int]]:
    return {(name, axis): frozenset(places) for name, found in axes.items() for axis, places in found}


HIDDEN = reach(a=[(0, range(4))], b=[(0, range(4))], c=[(1, range(4))], d=[(1, range(5, 9))])
INNER = reach(c=[(0, range(5))], d=[(1, range(5))])
FROM_A = Answer("a (out)", (("a", 0),), HIDDEN)
FROM_C = Answer("c (out)", (("c", 0),), INNER)


def only(found: Sequence[Difference]) -> list[tuple[Axis, str, str]]:
    return [(d.axis, d.kind, d.explained) for d in found]


def test_a_root_reaches_the_places_behind_sums_and_in_concatenations() -> None:
    ours = coupling()
    assert ours.reach(("a", 0)) == HIDDEN
    assert ours.reach(("c", 0)) == INNER
    assert len(ours.reach(("d", 1))) == 5


def test_equal_answers_leave_no_difference() -> None:
    assert compare([FROM_A, FROM_C], coupling()) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("a", (("a", 0),), {k: v for k, v in HIDDEN.items() if k[0] != "b"}), (("b", 0), "only ours", "")),
        (Answer("a", (("a", 0),), {**HIDDEN, ("d", 0): frozenset({0})}), (("d", 0), "only oracle", "")),
        (Answer("a", (("a", 0),), {**HIDDEN, ("d", 1): frozenset(range(4))}), (("d", 1), "places", "")),
    ],
)
def test_a_difference_that_no_class_covers_stays_unexplained(answer: Answer, expected: tuple[Axis, str, str]) -> None:
    assert only(compare([answer, FROM_C], coupling())) == [expected]


def test_a_rule_that_forgets_a_tie_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def untied(op: NodeContext) -> Sequence[Terms | None]:
        return [[op.fresh(n) for n in op.out_shape()]]

    monkeypatch.setitem(registry._rules, ("", "Add"), [(1, untied)])
    found = compare([FROM_A, FROM_C], coupling())
    assert found
    assert not any(d.explained for d in found)


def test_an_answer_with_indices_past_the_end_says_nothing() -> None:
    wrong = Answer("a (out)", (("a", 0),), {**HIDDEN, ("c", 1): frozenset(range(8))})
    part = Answer("c (in)", (("c", 1),), {**HIDDEN, ("a", 0): frozenset(range(2))})
    none = Answer("c (in)", (("c", 1),), {k: v for k, v in HIDDEN.items() if k[0] != "a"})
    refused = (("c", 1), "places", "impossible")
    assert only(compare([wrong, part], coupling())) == [refused, (("a", 0), "places", "impossible-back")]
    assert only(compare([part], coupling())) == [(("a", 0), "places", "")]
    assert only(compare([wrong, none], coupling())) == [refused, (("a", 0), "only ours", "")]


def test_a_parameter_without_gradient_may_be_missing() -> None:
    without = Answer("a", (("a", 0),), {k: v for k, v in HIDDEN.items() if k[0] != "b"})
    assert only(compare([without], coupling(untrained="b"))) == [(("b", 0), "only ours", "constant")]


def test_a_tie_through_values_without_trained_parameters_may_be_missing() -> None:
    shared = """<ir_version: 8, opset_import: ["": 17]> net (float[7,3] x, float[7,4] angle) => (float[7,2] y) {
        table = Cos(angle)
        p = Gemm<transB: int = 1>(x, a)
        pt = Mul(p, table)
        q = Gemm<transB: int = 1>(x, b)
        qt = Mul(q, table)
        r = Gemm<transB: int = 1>(pt, e)
        s = Gemm<transB: int = 1>(qt, f)
        y = Add(r, s)
    }"""
    ours = coupling(shared, {"a": (4, 3), "b": (4, 3), "e": (2, 4), "f": (2, 4)})
    apart = Answer("a", (("a", 0),), reach(a=[(0, range(4))], e=[(1, range(4))]))
    assert only(compare([apart], ours)) == [
        (("b", 0), "only ours", "constant-tie"),
        (("f", 1), "only ours", "constant-tie"),
    ]


def test_a_tie_through_an_expand_may_be_missing() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[7,3] x) => (float[6,7,2] y)
    <int64[3] three = {6, 7, 4}> {
        p = Gemm<transB: int = 1>(x, a)
        e = Expand(p, three)
        y = MatMul(e, w)
    }"""
    ours = coupling(text, {"a": (4, 3), "w": (4, 2)})
    apart = Answer("a", (("a", 0),), reach(a=[(0, range(4))]))
    assert only(compare([apart], ours)) == [(("w", 0), "only ours", "expand")]
    straight = Coupling(ours.analysis, {"a": "a", "w": "w"}, ["a", "w"])
    straight.__dict__["expanded_atoms"] = frozenset()
    assert only(compare([apart], straight)) == [(("w", 0), "only ours", "")]


def test_the_verdict_needs_a_comparison_in_every_network_and_an_explanation_for_every_difference() -> None:
    def result(roots: int, *explained: str) -> Result:
        differences = tuple(Difference("r", ("a", 0), "places", why) for why in explained)
        return Result("net", 4, roots, 9, 0, differences)

    assert passed([result(2), result(2, "impossible")])
    assert not passed([])
    assert not passed([result(2), result(0)])
    assert not passed([result(2, "impossible", "")])
    text = render([result(2, "impossible", "")], ["torch-pruning 1"])
    assert "| net | 4 | 2 | 0 | 9 | 7 | 1 | 1 |" in text
    assert "| net | unexplained | 0 | 0 | 1 |" in text
