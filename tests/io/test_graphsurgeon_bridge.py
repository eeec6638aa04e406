"""onnx_graphsurgeon graphs come in and go out whole, or are refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.growth_map import METADATA_KEY
from onnxgrow.io import give_back, load, model_digest

gs = pytest.importorskip("onnx_graphsurgeon")


def test_a_graph_goes_in_and_out(mlp: onnx.ModelProto) -> None:
    loaded = load(gs.import_onnx(mlp))
    assert loaded.kind == "graphsurgeon"
    result = give_back(loaded, loaded.model)
    assert isinstance(result, gs.Graph)
    assert model_digest(load(result)) == model_digest(loaded)
    assert [node.op for node in result.nodes] == ["Gemm", "Relu", "Gemm"]


def test_the_growth_map_reaches_the_user_and_comes_back(mlp: onnx.ModelProto) -> None:
    loaded = load(gs.import_onnx(mlp))
    loaded.model.metadata_props[METADATA_KEY] = '{"version": 1}'
    result = give_back(loaded, loaded.model)
    assert result.onnxgrow_metadata == {METADATA_KEY: '{"version": 1}'}  # type: ignore[attr-defined] # a gs.Graph
    assert load(result).model.metadata_props[METADATA_KEY] == '{"version": 1}'


def test_the_graph_is_not_changed(mlp: onnx.ModelProto) -> None:
    mlp.graph.node.append(helper.make_node("Custom", ["x"], ["z"], domain="org.example"))
    mlp.graph.output.append(helper.make_tensor_value_info("z", 1, [1]))
    graph = gs.import_onnx(mlp)
    domains = len(graph.import_domains)
    load(graph)
    assert len(graph.import_domains) == domains
    fresh = gs.Graph(inputs=[gs.Variable("x", np.float32, (1,))], opset=17)
    fresh.outputs = [fresh.layer(op="Relu", inputs=fresh.inputs, outputs=["y"])[0]]
    fresh.outputs[0].dtype = np.float32
    loaded = load(fresh)
    assert fresh.import_domains is None
    assert fresh.ir_version is None
    assert loaded.model.ir_version <= 8
    assert give_back(loaded, loaded.model).ir_version is None  # type: ignore[attr-defined] # a gs.Graph


def _with_weight(mlp: onnx.ModelProto, tensor: TensorProto) -> onnx.ModelProto:
    mlp.graph.initializer.append(tensor)
    mlp.graph.node.append(helper.make_node("Cast", [tensor.name], ["z"], to=TensorProto.FLOAT))
    mlp.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    return mlp


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "BFLOAT16", "FLOAT16"])
def test_weights_of_small_types_keep_their_bytes(mlp: onnx.ModelProto, kind: str) -> None:
    data_type = TensorProto.DataType.Value(kind)
    itemsize = helper.tensor_dtype_to_np_dtype(data_type).itemsize
    tensor = TensorProto(name="w", data_type=data_type, dims=[3], raw_data=bytes(range(8, 8 + 3 * itemsize)))
    loaded = load(gs.import_onnx(_with_weight(mlp, tensor)))
    result = load(give_back(loaded, loaded.model))
    weight = result.model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.dtype.name == kind
    assert weight.tobytes() == tensor.raw_data


def test_a_weight_that_graphsurgeon_would_export_as_another_type_is_refused(mlp: onnx.ModelProto) -> None:
    weight = numpy_helper.from_array(np.array([1, 2, 4], np.float32), "w")
    graph = gs.import_onnx(_with_weight(mlp, weight))
    graph.tensors()["w"].values = np.array([1, 2, 4]).astype(ml_dtypes.float8_e4m3fnuz)
    with pytest.raises(UnsupportedError, match="FLOAT8E4M3FNUZ weights as FLOAT8E4M3FN"):
        load(graph)


def test_a_graph_that_cannot_be_exported_is_refused(mlp: onnx.ModelProto) -> None:
    graph = gs.import_onnx(mlp)
    graph.outputs[0].dtype = None
    with pytest.raises(UnsupportedError, match="cannot export"):
        load(graph)


def test_a_malformed_graph_is_refused(mlp: onnx.ModelProto) -> None:
    graph = gs.import_onnx(mlp)
    graph.nodes[0].inputs[0] = graph.nodes[1].outputs[0]
    with pytest.raises(BadInputError, match="cycle"):
        load(graph)


def _metadata_on_a_node(model: ir.Model) -> None:
    model.graph.node(0).metadata_props["k"] = "v"


def _annotation(model: ir.Model) -> None:
    model.graph.inputs[0].meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "s"}


def _unused_weight(model: ir.Model) -> None:
    tensor = ir.tensor(np.ones(3, np.float32), name="unused")
    model.graph.register_initializer(ir.Value(name="unused", const_value=tensor))


def _doc_string(model: ir.Model) -> None:
    model.graph.node(0).doc_string = "new"


@pytest.mark.parametrize("change", [_metadata_on_a_node, _annotation, _unused_weight, _doc_string])
def test_what_a_graph_cannot_hold_is_refused(mlp: onnx.ModelProto, change) -> None:  # type: ignore[no-untyped-def] # a table of callables
    loaded = load(gs.import_onnx(mlp))
    change(loaded.model)
    with pytest.raises(UnsupportedError, match="cannot hold the result"):
        give_back(loaded, loaded.model)


def test_subgraphs_and_constants_survive(mlp: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["r", "two"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", 1, None)],
        [numpy_helper.from_array(np.full(5, 2, np.float32), "two")],
    )
    mlp.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    mlp.graph.node.append(
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    )
    mlp.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    for name in ("z", "c"):
        mlp.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    loaded = load(gs.import_onnx(mlp))
    result = load(give_back(loaded, loaded.model))
    assert model_digest(result) == model_digest(loaded)
