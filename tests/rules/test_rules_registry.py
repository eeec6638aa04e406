"""The registry of rules, and what a rule sees of its node."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from support import analysis_of, model_of

from onnxgrow.algebra import Forest
from onnxgrow.rules import NodeContext, Reason, Unsuitable, covered, find_rule, register
from onnxgrow.rules import registry as home


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "_rules", {})


def context(op_type: str = "Test", name: str | None = None, **attributes: object) -> NodeContext:
    forest = Forest()
    node = ir.node(op_type, [ir.val("x"), None], attributes, name=name)  # type: ignore[arg-type]  # plain values
    node.outputs[0].name = "y"
    return NodeContext(
        node,
        17,
        forest,
        [[forest.atom(4), forest.atom(6)], None],
        [(4, 6), None],
        [(4, 6)],
        lambda _: None,
        lambda _: False,
    )


@pytest.mark.usefixtures("empty_registry")
def test_the_rule_of_the_highest_version_that_is_not_too_new_is_found() -> None:
    def old(op: NodeContext) -> list[None]:
        return [None]

    def new(op: NodeContext) -> list[None]:
        return [None]

    register("Op", since_version=13)(new)
    register("Op")(old)
    assert find_rule("", "Op", 12) is old
    assert find_rule("ai.onnx", "Op", 13) is new
    assert find_rule("", "Op", 99) is new
    assert find_rule("custom", "Op", 13) is None
    assert list(covered()) == [("", "Op")]
    with pytest.raises(ValueError, match="two rules for ::Op from version 13"):
        register("Op", since_version=13)(old)


@pytest.mark.usefixtures("empty_registry")
def test_a_rule_is_not_found_before_its_first_version() -> None:
    register("Op", since_version=13)(lambda op: [None])
    assert find_rule("", "Op", 12) is None


def test_every_rule_is_for_an_op_that_exists() -> None:
    """A rule under a misspelt name would silently leave its op frozen."""
    known = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    # ONNX Runtime's optimiser writes it without a domain.
    known.add(("", "SimplifiedLayerNormalization"))
    standard = [key for key in covered() if key[0] in ("", "ai.onnx", "ai.onnx.ml")]
    assert len(standard) > 120
    assert [key for key in standard if key not in known] == []


def test_a_node_is_called_by_its_operator_and_name_or_output() -> None:
    assert context(name="block/one").label == "Test block/one"
    assert context().label == "Test y"
    assert str(Reason("Test y", 1, "it is padded")) == "it is padded (Test y, axis 1)"
    assert str(Reason("Test y", None, "it is padded")) == "it is padded (Test y)"


def test_attributes_come_with_their_defaults_and_as_plain_text() -> None:
    op = context(mode="linear", axis=2)
    assert op.attr("mode") == "linear"
    assert op.attr("axis") == 2
    assert op.attr("axes", (1,)) == (1,)
    assert op.ints("axes", 1) is None


@pytest.mark.parametrize("axis", [2, -3, 7])
def test_an_axis_out_of_range_is_not_guessed(axis: int) -> None:
    with pytest.raises(Unsuitable, match="rank 2"):
        context().axis(axis, 2)


def test_what_is_missing_makes_a_rule_unsuitable() -> None:
    op = context()
    for ask in (lambda: op.terms(1), lambda: op.terms(9), lambda: op.shape(1), lambda: op.shape(9)):
        with pytest.raises(Unsuitable):
            ask()
    assert not op.has(1)
    assert op.constant(1) is None


def test_integers_computed_from_data_are_not_known() -> None:
    with pytest.raises(Unsuitable, match="axes is computed from data"):
        context().ints("axes", 0)


@pytest.mark.parametrize("fault", [Unsuitable("odd form"), None])
@pytest.mark.usefixtures("empty_registry")
def test_a_form_that_a_rule_does_not_cover_freezes_every_axis_at_the_node(fault: Unsuitable | None) -> None:
    """Without a rule, and with one that gives up half way, nothing that touches the node can grow."""
    register("MatMul")(lambda op: _matmul(op))
    if fault is not None:

        @register("Relu")
        def gives_up(op: NodeContext) -> list[None]:
            op.fill(0, 1.0)
            raise fault

    model = model_of(
        "g (float[2,6] x) => (float[2,3] y) { h = MatMul(x, wa) a = Relu(h) y = MatMul(a, wb) }",
        {"wa": (6, 4), "wb": (4, 3)},
    )
    analysis = analysis_of(model)
    assert not analysis.growable
    why = "Relu: odd form" if fault else "no rule for Relu"
    assert f"{why} (Relu a, axis 1)" in [str(r) for r in analysis.dims.forest.reasons(analysis.dims.values["h"][1])]
    assert f"{why} (Relu a, axis 1)" in [str(r) for r in analysis.dims.forest.reasons(analysis.dims.values["a"][1])]
    assert not any(analysis.dims.declared[n].fills for n in analysis.dims.network.nodes if n.op_type == "Relu")


def _matmul(op: NodeContext) -> list[list[object]]:
    from onnxgrow.rules.linear import matmul

    return list(matmul(op))  # type: ignore[arg-type]  # the plain rule, registered anew
