"""Accounting: nothing is lost, changed or added in silence, and the growth map lists neither more nor less."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.growth_map import METADATA_KEY, GrowthMap, NodeChange, TensorGrowth, ValueGrowth
from onnxgrow.io import Carried, copy_model
from onnxgrow.verify.accounting import MAX_FINDINGS, account
from onnxgrow.verify.report import TierResult, TierStatus

sys.path.insert(0, str(Path(__file__).parent / "certificate"))

from certificate_case import Case, grow, more, reasons, rnd

A = more(4, 2)


def case() -> Case:
    """A network with all kinds of documentation, a grouped convolution, a body and a model function."""
    text = """(float[1,4,6,6] x, bool c) => (float[1,2,4,4] y, float[1,4,6,6] z) {{
        h = Conv<group={}>(x2, w) x2 = Conv(x, w0) y = Conv(h, w2) k = Constant<value=float[1] {{1}}>()
        z = If(c) <then_branch = a () => (float[1,4,6,6] t) {{ t = Mul(x, k) }},
                   else_branch = b () => (float[1,4,6,6] e) {{ e = Neg(x) }}>
    }}"""
    made = grow(
        text.format(4),
        {"w0": rnd(4, 4, 1, 1), "w": rnd(4, 1, 3, 3), "w2": rnd(2, 4, 1, 1), "free": rnd(3), "last": rnd(2)},
        {"w0": {0: A}, "w": {0: A}, "w2": {1: A}},
        {"h": {1: A}, "x2": {1: A}},
        zero={"w2": (0, 1)},
        text2=text.format(6),
        like={"z": "x"},
    )
    for model in (made.original, made.grown):
        function = onnx.helper.make_function(
            "own",
            "Twice",
            ["a"],
            ["b"],
            [onnx.helper.make_node("Add", ["a", "a"], ["b"])],
            [onnx.helper.make_opsetid("", 17)],
        )
        document(model)
        model.functions.update({(f := ir.serde.deserialize_function(function)).identifier(): f})
    return made.sealed()


def document(model: ir.Model) -> None:
    """Put something into every field that can get lost."""
    model.producer_name, model.producer_version, model.domain = "trainer", "1", "lab"
    model.model_version, model.doc_string = 3, "the model"
    model.metadata_props["licence"] = "mine"
    model.opset_imports["unused"] = 2
    graph = model.graph
    graph.doc_string = "the graph"
    graph.metadata_props["graph"] = "kept"
    for node in graph:
        node.name, node.doc_string = f"node {node.outputs[0].name}", "a node"
        node.metadata_props["source"] = "file.py"
    for value in (*graph.inputs, *graph.outputs, node_of(model, "h").outputs[0], *graph.initializers.values()):
        value.doc_string = "a value"
        value.metadata_props["unit"] = "volt"
    node_of(model, "h").outputs[0].meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "free"}
    h = node_of(model, "h").outputs[0]
    h.type, h.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, graph.initializers["w"].shape[0], "H", 4])


def node_of(model: ir.Model, output: str) -> ir.Node:
    return next(n for n in model.graph if n.outputs[0].name == output)


def test_a_correct_growth_passes_and_says_what_was_looked_at() -> None:
    made = case()
    result = made.account()
    assert result.status is TierStatus.PASSED, reasons(result)
    assert made.certify().status is TierStatus.PASSED, reasons(made.certify())
    assert result.figures["nodes_compared"] == 5
    assert result.figures["tensors_equal"] == 2
    assert result.figures["tensors_listed"] == 3


def test_a_model_is_accounted_for_by_itself_with_an_empty_map() -> None:
    made = case()
    for other in (made.original, copy_model(made.original), ir.from_proto(ir.to_proto(made.original))):
        result = account(made.original, other, GrowthMap())
        assert result.status is TierStatus.PASSED, reasons(result)
    assert account(made.original, made.grown, GrowthMap()).status is TierStatus.FAILED


def set_(path: str, value: Any) -> Callable[[ir.Model], None]:
    def fault(model: ir.Model) -> None:
        setattr(model if not path.startswith("graph.") else model.graph, path.removeprefix("graph."), value)

    return fault


def tensor(name: str, **changes: Any) -> Callable[[ir.Model], None]:
    def fault(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = np.array(value.const_value.numpy())
        value.const_value = ir.tensor(changes.pop("array", array), name=changes.pop("name", name))
        for key, change in changes.items():
            setattr(value.const_value, key, change)

    return fault


def reorder(model: ir.Model) -> None:
    items = list(model.graph.initializers.items())
    for name, _ in items:
        model.graph.initializers.pop(name)
    for name, value in reversed(items):
        model.graph.initializers[name] = value


def body(model: ir.Model) -> ir.Graph:
    return node_of(model, "z").attributes["then_branch"].as_graph()


def remove_node(model: ir.Model) -> None:
    node = node_of(model, "h")
    node.outputs[0].replace_all_uses_with(node.inputs[0])
    model.graph.remove(node)


def add_node(model: ir.Model) -> None:
    model.graph.append(ir.Node("", "Neg", [model.graph.inputs[0]], outputs=[ir.Value(name="extra")]))


def move_node(model: ir.Model) -> None:
    node = node_of(model, "x2")
    model.graph.remove(node)
    model.graph.insert_before(node_of(model, "h"), node)


FAULTS: dict[str, tuple[Callable[[ir.Model], Any], str]] = {
    "ir version": (set_("ir_version", 10), "ir version"),
    "producer": (set_("producer_name", ""), "producer name"),
    "producer version": (set_("producer_version", "2"), "producer version"),
    "domain": (set_("domain", ""), "domain"),
    "model version": (set_("model_version", 4), "model version"),
    "doc string": (set_("doc_string", None), "doc string"),
    "metadata": (lambda m: m.metadata_props.pop("licence"), "licence"),
    "added metadata": (lambda m: m.metadata_props.update({"ours": "1"}), "ours"),
    "opset": (lambda m: m.opset_imports.update({"": 18}), "opset imports"),
    "unused opset": (lambda m: m.opset_imports.pop("unused"), "opset imports"),
    "function": (lambda m: m.functions.clear(), "functions"),
    "function body": (lambda m: next(iter(m.functions.values()))[0].metadata_props.update(a="b"), "function Twice"),
    "graph name": (set_("graph.name", "other"), "graph name"),
    "graph doc string": (set_("graph.doc_string", "other"), "graph doc string"),
    "graph metadata": (lambda m: m.graph.metadata_props.clear(), "graph metadata"),
    "input order": (lambda m: m.graph.inputs.reverse(), "graph inputs"),
    "output order": (lambda m: m.graph.outputs.reverse(), "graph outputs"),
    "lost output": (lambda m: m.graph.outputs.pop(), "graph outputs"),
    "input name": (lambda m: setattr(m.graph.inputs[0], "name", "other"), "graph inputs"),
    "input shape": (lambda m: setattr(m.graph.inputs[0], "shape", ir.Shape([1, 4, 6, "W"])), "x: shape"),
    "output type": (lambda m: setattr(m.graph.outputs[0], "type", ir.TensorType(ir.DataType.FLOAT16)), "y: type"),
    "output doc string": (lambda m: setattr(m.graph.outputs[0], "doc_string", ""), "y: its doc string"),
    "value metadata": (lambda m: node_of(m, "h").outputs[0].metadata_props.clear(), "h: its metadata"),
    "quantisation": (lambda m: node_of(m, "h").outputs[0].meta.clear(), "h: its quantisation annotation"),
    "value shape": (lambda m: setattr(node_of(m, "h").outputs[0], "shape", ir.Shape([1, 6, 4, 4])), "h: shape"),
    "value grew otherwise": (
        lambda m: setattr(node_of(m, "h").outputs[0], "shape", ir.Shape([1, 7, "H", 4])),
        "h: axis 1 is written",
    ),
    "value lost its shape": (lambda m: setattr(node_of(m, "h").outputs[0], "shape", None), "h: shape"),
    "node name": (lambda m: setattr(node_of(m, "h"), "name", "other"), "h: name"),
    "node doc string": (lambda m: setattr(node_of(m, "h"), "doc_string", None), "h: doc string"),
    "node metadata": (lambda m: node_of(m, "y").metadata_props.clear(), "y: its metadata"),
    "node domain": (lambda m: setattr(node_of(m, "y"), "domain", "own"), "y: domain"),
    "node overload": (lambda m: setattr(node_of(m, "y"), "overload", "o"), "y: overload"),
    "op type": (lambda m: setattr(node_of(m, "y"), "op_type", "ConvTranspose"), "y: op type"),
    "attribute added": (
        lambda m: node_of(m, "y").attributes.update(pads=ir.AttrInt64s("pads", [0, 0, 0, 0])),
        "y: attribute 'pads': it was added",
    ),
    "attribute of another value": (
        lambda m: node_of(m, "h").attributes.update(group=ir.AttrInt64("group", 5)),
        "h: attribute 'group' is 4 → 5, listed as 4 → 6",
    ),
    "node gone": (remove_node, "h: the node that makes it is gone"),
    "node added": (add_node, "extra: a new node makes it"),
    "node moved": (move_node, "nodes: their order"),
    "input": (lambda m: node_of(m, "y").replace_input_with(1, m.graph.initializers["w"]), "y: input 1"),
    "body op": (lambda m: setattr(body(m)[0], "op_type", "Add"), "then_branch"),
    "body name": (lambda m: setattr(body(m), "name", "other"), "then_branch"),
    "constant node": (
        lambda m: node_of(m, "k").attributes.update(value=ir.AttrTensor("value", ir.tensor(np.float32([2]), name=""))),
        "k: attribute 'value'",
    ),
    "tensor bytes": (tensor("free", array=rnd(3, seed=7)), "free: its bytes differ"),
    "tensor dtype": (tensor("free", array=rnd(3).astype(np.float64)), "free: dtype"),
    "tensor shape": (tensor("free", array=rnd(3, 1)), "free: shape"),
    "tensor doc string": (tensor("free", doc_string="x"), "free: its doc string"),
    "tensor gone": (lambda m: m.graph.initializers.pop("free"), "free: the tensor is gone"),
    "tensor order": (reorder, "initializers: their order"),
    "listed tensor bytes": (tensor("w2", array=rnd(2, 6, 1, 1)), "w2: its bytes are not those"),
    "listed tensor dtype": (tensor("w2", array=rnd(2, 6, 1, 1).astype(np.float64)), "w2: dtype"),
    "listed tensor shape": (tensor("w2", array=rnd(2, 7, 1, 1)), "w2: axis 1 went from 4 to 7"),
    "new tensor": (
        lambda m: m.graph.initializers.update(
            {"more": ir.Value(name="more", const_value=ir.tensor(rnd(2), name="more"))}
        ),
        "more: a new tensor",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_change_that_is_not_listed_is_found(name: str) -> None:
    made = case()
    fault, reason = FAULTS[name]
    fault(made.grown)
    result = made.account()
    assert result.status is TierStatus.FAILED
    assert reason in reasons(result)


def edited(edit: Callable[[GrowthMap], GrowthMap]) -> TierResult:
    made = case()
    return replace(made, map=edit(made.map)).account()


def with_tensor(name: str, growth: TensorGrowth | None) -> Callable[[GrowthMap], GrowthMap]:
    def edit(m: GrowthMap) -> GrowthMap:
        tensors = {k: v for k, v in m.tensors.items() if k != name}
        return replace(m, tensors=tensors if growth is None else {**tensors, name: growth})

    return edit


def with_value(name: str, growth: ValueGrowth) -> Callable[[GrowthMap], GrowthMap]:
    return lambda m: replace(m, values={**m.values, name: growth})


def with_node(name: str, change: NodeChange | None) -> Callable[[GrowthMap], GrowthMap]:
    def edit(m: GrowthMap) -> GrowthMap:
        nodes = {k: v for k, v in m.nodes.items() if k != name}
        return replace(m, nodes=nodes if change is None else {**nodes, name: change})

    return edit


TWICE = AxisMap((Segment(4, 0), Segment(4, 0)))
EDITS: dict[str, tuple[Callable[[GrowthMap], GrowthMap], str]] = {
    "another original": (lambda m: replace(m, original="0" * 64), "another original"),
    "tensor left out": (with_tensor("w2", None), "w2: "),
    "tensor without digest": (lambda m: m.with_digests({"w2": ""}), "w2: its bytes are not those"),
    "tensor with another digest": (lambda m: m.with_digests({"w2": "0" * 64}), "w2: its bytes are not those"),
    "tensor of nothing": (with_tensor("w2", TensorGrowth({1: A}, "nothing")), "stands for 'nothing'"),
    "tensor that does not exist": (with_tensor("more", TensorGrowth({0: A})), "more: the growth map lists a tensor"),
    "tensor that did not grow": (
        with_tensor("free", TensorGrowth()),
        "free: the growth map lists a tensor that did not",
    ),
    "tensor axes left out": (with_tensor("w2", TensorGrowth()), "w2: axis 1 went from 4 to 6"),
    "map of another size": (with_tensor("w2", TensorGrowth({1: more(4, 3)})), "w2: axis 1 went from 4 to 6"),
    "map that keeps an entry twice": (with_tensor("w2", TensorGrowth({1: TWICE})), "not each kept exactly once"),
    "axis that does not exist": (with_tensor("w2", TensorGrowth({1: A, 9: A})), "do not fit"),
    "value that does not exist": (with_value("more", ValueGrowth({1: A})), "more: the growth map lists a value"),
    "value of nothing": (with_value("h", ValueGrowth({1: A}, "nothing")), "stands for 'nothing'"),
    "value that did not grow": (with_value("y", ValueGrowth({})), "y: the growth map lists a value that did not grow"),
    "both value and tensor": (with_value("w2", ValueGrowth({1: A})), "both as a value and as a tensor"),
    "node change left out": (with_node("h", None), "h: attribute 'group'"),
    "node change from another value": (with_node("h", NodeChange({"group": (3, 6)})), "listed as 3 → 6"),
    "node change that is none": (
        with_node("y", NodeChange({"group": (None, None)})),
        "y: attribute 'group' is None → None",
    ),
    "input change that is none": (with_node("y", NodeChange(inputs={1: ("w2", "w2")})), "y: input 1"),
    "input change to another": (with_node("y", NodeChange(inputs={1: ("w2", "w")})), "y: input 1"),
    "input change at no index": (with_node("y", NodeChange(inputs={-1: ("w2", "w")})), "negative input index"),
    "change of no node": (with_node("more", NodeChange({"group": (1, 2)})), "more: the growth map lists a change"),
    "insertion that is none": (lambda m: replace(m, inserted=("h",)), "h: listed as inserted"),
    "insertion of nothing": (lambda m: replace(m, inserted=("more",)), "more: listed as inserted"),
    "removal that is none": (lambda m: replace(m, removed=("h",)), "h: listed as removed"),
    "removal twice": (lambda m: replace(m, removed=("h", "h")), "listed twice"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_map_that_lists_more_or_less_is_found(name: str) -> None:
    edit, reason = EDITS[name]
    result = edited(edit)
    assert result.status is TierStatus.FAILED
    assert reason in reasons(result)


def test_the_map_in_the_metadata_must_be_the_one_that_is_checked() -> None:
    made = case()
    made.grown.metadata_props[METADATA_KEY] = made.map.dumps()
    assert made.account().status is TierStatus.PASSED
    made.grown.metadata_props[METADATA_KEY] = replace(made.map, seed=5).dumps()
    assert "another one" in reasons(made.account())
    made.grown.metadata_props[METADATA_KEY] = "{"
    assert "damaged" in reasons(made.account())


def test_what_onnx_ir_cannot_hold_is_compared_when_given() -> None:
    made = case()
    training = Carried(training_info=(onnx.TrainingInfoProto(),))
    for extras in ((training, None), (None, training)):
        result = account(made.original, made.grown, made.map, original_extra=extras[0], grown_extra=extras[1])
        assert "training info" in reasons(result)
    same = account(made.original, made.grown, made.map, original_extra=training, grown_extra=training)
    assert same.status is TierStatus.PASSED


@pytest.mark.parametrize(("name", "passes"), [("w", False), ("h", False), ("free", True)])
def test_what_training_information_names_may_not_grow(name: str, passes: bool) -> None:
    made, info = case(), onnx.TrainingInfoProto()
    info.algorithm.node.append(onnx.helper.make_node("Neg", [name], ["next"]))
    extra = Carried(training_info=(info,))
    result = account(made.original, made.grown, made.map, original_extra=extra, grown_extra=extra)
    assert (result.status is TierStatus.PASSED) == passes
    assert passes or "training information" in reasons(result)


def test_a_fault_of_the_check_itself_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **keywords: object) -> str:
        raise RuntimeError("boom")

    for name in (
        "nodes.node_difference",
        "nodes.declared_difference",
        "surroundings.declared_difference",
        "surroundings.function_difference",
        "tensors.value_difference",
        "tensors.tensor_digest",
        "listed.model_digest",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"onnxgrow.verify.accounting.{name}", broken)
            result = case().account()
        assert result.status is TierStatus.FAILED
        assert "boom" in reasons(result)


def test_findings_stop_after_some() -> None:
    made = case()
    for i in range(30):
        made.grown.metadata_props[f"key {i}"] = ""
    assert len(made.account().findings) == MAX_FINDINGS


def test_an_initializer_that_is_also_an_input_may_grow_with_its_tensor() -> None:
    def with_input(model: ir.Model) -> None:
        model.graph.inputs.append(model.graph.initializers["w2"])

    made = case()
    for model in (made.original, made.grown):
        with_input(model)
    made = made.sealed()
    assert made.caught_by() == [], [reasons(t) for t in made.tiers().values()]
    made.grown.graph.inputs[-1].shape = ir.Shape([2, 7, 1, 1])
    assert made.account().status is TierStatus.FAILED
