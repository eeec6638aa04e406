"""Malformed models are refused with the fault's name; unusual but valid ones are taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgrow.errors import BadInputError
from onnxgrow.io import load, save_bytes

Spoil = Callable[[onnx.ModelProto], object]


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def _cycle_through_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["y"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    model.graph.node[1].CopyFrom(
        helper.make_node("If", ["h"], ["r"], then_branch=branch, else_branch=branch),
    )


def _self_calling_function(model: onnx.ModelProto) -> None:
    function = model.functions.add(name="F", domain="d")
    function.input.append("a")
    function.output.append("b")
    function.node.append(helper.make_node("F", ["a"], ["b"], domain="d"))
    function.opset_import.add(domain="d", version=1)


def _twice(model: onnx.ModelProto, field: str) -> None:
    elements = getattr(model.graph, field)
    elements.append(elements[0])


_FAULTS: dict[str, tuple[Spoil, str]] = {
    "cycle": (_cycle, "cycle"),
    "cycle through a subgraph": (_cycle_through_subgraph, "cycle"),
    "recursion": (_self_calling_function, "calls itself"),
    "value assigned twice": (lambda m: _twice(m, "node"), "assigned twice"),
    "input assigned": (lambda m: m.graph.node[0].output.__setitem__(0, "x"), "assigned twice"),
    "input twice": (lambda m: _twice(m, "input"), "'x' appears 2 times"),
    "initializer twice": (lambda m: _twice(m, "initializer"), "'w1' appears 2 times"),
    "undefined input": (lambda m: m.graph.node[1].input.__setitem__(0, "ghost"), "'ghost', which nothing"),
    "undefined output": (lambda m: setattr(m.graph.output[0], "name", "ghost"), "'ghost' is produced by nothing"),
    "nameless initializer": (lambda m: m.graph.initializer[0].ClearField("name"), "no name"),
    "nameless input": (lambda m: m.graph.input[0].ClearField("name"), "no name"),
    "no operator": (lambda m: m.graph.node[0].ClearField("op_type"), "no operator"),
    "no opset": (lambda m: m.ClearField("opset_import"), "no opset"),
    "opset twice": (lambda m: m.opset_import.add(domain="", version=3), "appears 2 times"),
    "attribute twice": (lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 2), "'a' appears"),
    "attribute without type": (lambda m: m.graph.node[0].attribute.add(name="a", i=1), "no type"),
    "metadata twice": (
        lambda m: [m.metadata_props.add(key="k", value=v) for v in "ab"],
        "'k' appears 2 times",
    ),
    "short weights": (lambda m: m.graph.initializer[0].dims.append(2), "80 bytes, its shape and type need 160"),
    "no weights": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "0 entries"),
    "wrong field": (
        lambda m: (m.graph.initializer[1].ClearField("raw_data"), m.graph.initializer[1].double_data.extend([1] * 5)),
        "double_data, its type needs float_data",
    ),
    "two fields": (lambda m: m.graph.initializer[1].float_data.extend([1] * 5), "several fields"),
    "negative dimension": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -4), "dimension -4"),
    "unknown type": (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "unknown type 99"),
    "no type": (lambda m: m.graph.initializer[0].ClearField("data_type"), "unknown type 0"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "data elsewhere": (
        lambda m: (
            m.graph.initializer[0].ClearField("raw_data"),
            setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
            m.graph.initializer[0].external_data.add(key="location", value="w"),
        ),
        "does not say in which folder",
    ),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_faults_are_named(mlp: onnx.ModelProto, name: str) -> None:
    load(mlp)
    spoil, reason = _FAULTS[name]
    spoil(mlp)
    with pytest.raises(BadInputError, match=reason):
        load(mlp)


_UNUSUAL = {
    "unsorted": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) { y = Relu(h)  h = Neg(x) }""",
    "output is an input": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] x) { y = Relu(x) }""",
    "unused opset": """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }""",
    "weights as constants": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y) { w = Constant<value = float[2] {1, 2}>()  y = Mul(x, w) }""",
    "omitted inputs": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y) { y = Clip(x, , ) }""",
    "no nodes": """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] x) { }""",
}


@pytest.mark.parametrize("name", _UNUSUAL)
def test_unusual_models_come_back_unchanged(name: str) -> None:
    model = onnx.parser.parse_model(_UNUSUAL[name])
    result = onnx.ModelProto.FromString(save_bytes(load(model).model))
    assert [n.output for n in result.graph.node] == [n.output for n in model.graph.node]
    assert [n.input for n in result.graph.node] == [n.input for n in model.graph.node]
    assert result.opset_import == model.opset_import
    assert result.graph.input == model.graph.input
    assert result.graph.output == model.graph.output


def test_a_dimension_of_minus_one_is_kept(mlp: onnx.ModelProto) -> None:
    mlp.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    result = onnx.ModelProto.FromString(save_bytes(load(mlp).model))
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1


def test_an_inner_name_may_hide_an_outer_one(mlp: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w1"], ["h"])],
        "b",
        [],
        [helper.make_tensor_value_info("h", 1, None)],
        [numpy_helper.from_array(np.ones(2, np.float32), "w1")],
    )
    mlp.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    mlp.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    result = onnx.ModelProto.FromString(save_bytes(load(mlp).model))
    assert result.graph.node[-1].attribute[0].g.node == branch.node
