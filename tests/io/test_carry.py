"""Reading and writing keep every field of onnx.proto."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxgrow.errors import BadInputError, UnsupportedError
from onnxgrow.io import copy_model, load, model_digest, save_bytes
from onnxgrow.io.carry import frame_of
from onnxgrow.io.compare import first_difference, known_skeleton, skeleton

_REFUSED = {"TensorProto.segment", "Segment.begin", "Segment.end"}
_IN_FILES = {"TensorProto.external_data", "TensorProto.data_location"}


def _fields(message: Any, found: set[str]) -> set[str]:
    for field, value in message.ListFields():
        found.add(f"{message.DESCRIPTOR.name}.{field.name}")
        if field.message_type is not None:
            for element in [value] if hasattr(value, "ListFields") else value:
                _fields(element, found)
    return found


def _declared() -> set[str]:
    names: set[str] = set()
    pending, seen = [onnx.ModelProto.DESCRIPTOR], set()
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in seen:
            continue
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            names.add(f"{descriptor.name}.{field.name}")
            if field.message_type is not None:
                pending.append(field.message_type)
    return names


def test_the_model_with_everything_sets_every_field_of_onnx_proto(everything_model: onnx.ModelProto) -> None:
    assert _declared() - _fields(everything_model, set()) == _REFUSED | _IN_FILES


def test_everything_survives_load_and_save(everything_model: onnx.ModelProto) -> None:
    result = onnx.ModelProto.FromString(save_bytes(load(everything_model).model))
    assert first_difference(skeleton(everything_model), skeleton(result)) == ""
    for before, after in zip(everything_model.graph.initializer, result.graph.initializer, strict=True):
        assert before.name == after.name
        assert before.string_data == after.string_data
        assert (
            ir.serde.deserialize_tensor(before).numpy().tobytes()
            == ir.serde.deserialize_tensor(after).numpy().tobytes()
        )


def test_everything_survives_a_copy(everything_model: onnx.ModelProto) -> None:
    loaded = load(everything_model)
    copied = copy_model(loaded.model)
    assert save_bytes(copied) == save_bytes(loaded.model)


def test_the_source_is_not_changed(everything_model: onnx.ModelProto) -> None:
    before = everything_model.SerializeToString(deterministic=True)
    loaded = load(everything_model)
    loaded.model.graph.initializers["w1"].const_value = ir.tensor(np.zeros((4, 5), np.float32))
    loaded.model.metadata_props["new"] = "x"
    assert everything_model.SerializeToString(deterministic=True) == before


def test_what_was_carried_is_listed_by_name(everything_model: onnx.ModelProto) -> None:
    found = load(everything_model).carried.found
    for expected in (
        "training_info",
        "sparse initializer 'coo'",
        "type of 'mapping' in the graph",
        "attribute 'sparse' of node 'c'",
        "quantization annotation of 'gone'",
    ):
        assert expected in found


def test_a_function_overload_is_kept(mlp: onnx.ModelProto) -> None:
    mlp.ir_version = 10
    for overload in ("", "b"):
        function = mlp.functions.add(name="F", domain="d", overload=overload)
        function.input.append("a")
        function.output.append("b")
        function.node.append(helper.make_node("Neg" if overload else "Abs", ["a"], ["b"]))
        function.opset_import.add(domain="", version=17)
    result = onnx.ModelProto.FromString(save_bytes(load(mlp).model))
    assert [(f.overload, f.node[0].op_type) for f in result.functions] == [("", "Abs"), ("b", "Neg")]


def test_value_info_of_functions_before_ir_10_stays_in_the_graph(mlp: onnx.ModelProto) -> None:
    function = mlp.functions.add(name="F", domain="d")
    function.input.append("a")
    function.output.append("b")
    function.node.append(helper.make_node("Abs", ["a"], ["b"]))
    function.opset_import.add(domain="", version=17)
    for name in ("d::F/b", "h", "d::F/a"):
        mlp.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]))
    result = onnx.ModelProto.FromString(save_bytes(load(mlp).model))
    assert first_difference(skeleton(mlp), skeleton(result)) == ""


def test_a_sparse_initializer_reads_as_dense(everything_model: onnx.ModelProto) -> None:
    graph = load(everything_model).model.graph
    for name, place in (("coo", (1, 3)), ("coo2", (1, 2))):
        dense = np.zeros((2, 4), np.float32)
        dense[0, 0], dense[place] = 1.5, -2.0
        tensor = graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), dense)


def test_a_sparse_initializer_that_a_pass_replaces_is_written_dense(everything_model: onnx.ModelProto) -> None:
    model = load(everything_model).model
    model.graph.initializers["coo"].const_value = ir.tensor(np.ones((2, 5), np.float32))
    result = onnx.ModelProto.FromString(save_bytes(model))
    assert [sparse.values.name for sparse in result.graph.sparse_initializer] == ["coo2"]
    assert [list(t.dims) for t in result.graph.initializer if t.name == "coo"] == [[2, 5]]


def test_carried_attributes_follow_a_node_that_is_moved(everything_model: onnx.ModelProto) -> None:
    model = copy_model(load(everything_model).model)
    node = next(node for node in model.graph if node.op_type == "Custom")
    copied = ir.Node("org.unused", "Custom", list(node.inputs), node.attributes, num_outputs=3, name="second")
    model.graph.append(copied)
    result = onnx.ModelProto.FromString(save_bytes(model))
    first, second = (n for n in result.graph.node if n.op_type == "Custom")
    assert first.attribute == second.attribute


def test_new_values_are_described_after_those_of_the_original(mlp: onnx.ModelProto) -> None:
    for name in ("r", "stale", "h"):
        mlp.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]))
    model = load(mlp).model
    relu = next(node for node in model.graph if node.op_type == "Relu")
    extra = ir.node("Identity", [relu.outputs[0]], name="extra")
    extra.outputs[0].name, extra.outputs[0].dtype, extra.outputs[0].shape = "e", ir.DataType.FLOAT, ir.Shape([None, 5])
    model.graph.insert_after(relu, extra)
    result = onnx.ModelProto.FromString(save_bytes(model))
    assert [info.name for info in result.graph.value_info] == ["r", "stale", "h", "e"]
    assert frame_of(model.graph).value_info[1][1] is not None


def _unknown_field(model: onnx.ModelProto) -> None:
    data = model.graph.node[1].SerializeToString() + b"\x9a\x06\x02AB"  # field 99
    model.graph.node[1].ParseFromString(data)


def _with_unknown_field(find: Callable[[onnx.ModelProto], Any], model: onnx.ModelProto) -> None:
    message = find(model)
    message.ParseFromString(message.SerializeToString() + b"\x9a\x06\x02AB")  # field 99


def _segment(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].segment.begin = 0


def _unknown_attribute_type(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("later", 1).SerializeToString()
    model.graph.node[1].attribute.add().ParseFromString(attribute + b"\xa0\x01\x63")  # type = 99


def _two_values(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("both", 1)
    attribute.f = 2.0
    model.graph.node[1].attribute.append(attribute)


def _external(model: onnx.ModelProto) -> Any:
    """The reference of an initializer to its data."""
    return model.graph.initializer[0].external_data.add(key="location", value="w.data")


PLACES: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "model": lambda m: m,
    "graph": lambda m: m.graph,
    "node": lambda m: m.graph.node[0],
    "initializer": lambda m: m.graph.initializer[0],
    "reference to data": _external,
    "input": lambda m: m.graph.input[0],
    "type": lambda m: m.graph.input[0].type.tensor_type,
    "opset": lambda m: m.opset_import[0],
    "attribute": lambda m: m.graph.node[0].attribute.add(name="a", type=1),
    "tensor of an attribute": lambda m: m.graph.node[0].attribute.add(name="a", type=4).t,
    "graph of an attribute": lambda m: m.graph.node[0].attribute.add(name="a", type=5).g,
    "node inside": lambda m: m.graph.node[0].attribute.add(name="a", type=5).g.node.add(op_type="Relu"),
    "function": lambda m: m.functions.add(name="f", domain="d"),
    "default of a function": lambda m: m.functions.add(name="f", domain="d").attribute_proto.add(name="a", type=1),
    "training": lambda m: m.training_info.add().algorithm,
    "sparse tensor": lambda m: m.graph.sparse_initializer.add().values,
}


@pytest.mark.parametrize("find", PLACES.values(), ids=PLACES)
def test_fields_of_a_newer_onnx_are_refused_wherever_they_are(
    mlp: onnx.ModelProto, find: Callable[[onnx.ModelProto], Any]
) -> None:
    find(mlp)
    assert known_skeleton(mlp)[1]
    _with_unknown_field(find, mlp)
    assert not known_skeleton(mlp)[1]
    with pytest.raises(UnsupportedError, match="does not know"):
        load(mlp)


def test_the_skeleton_of_a_model_is_made_without_its_data(mlp: onnx.ModelProto) -> None:
    """protobuf copies data whenever one asks for them."""
    mlp.graph.initializer.append(numpy_helper.from_array(np.zeros(5_000_000, np.float32), "large"))
    tracemalloc.start()
    try:
        known_skeleton(mlp)
        without = tracemalloc.get_traced_memory()[1]
        list(mlp.graph.initializer[-1].ListFields())
        asked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert without < 1_000_000 < 20_000_000 <= asked


@pytest.mark.parametrize("spoil", [_unknown_field, _segment, _unknown_attribute_type, _two_values])
def test_what_cannot_be_kept_is_refused(mlp: onnx.ModelProto, spoil: Callable[[onnx.ModelProto], None]) -> None:
    load(mlp)
    spoil(mlp)
    with pytest.raises((UnsupportedError, BadInputError)):
        load(mlp)


def test_a_loss_in_the_carrier_is_noticed(mlp: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp.graph.node[0].doc_string = "kept"
    real = ir.from_proto

    def lossy(proto: onnx.ModelProto) -> ir.Model:
        model = real(proto)
        next(iter(model.graph)).doc_string = None
        return model

    monkeypatch.setattr(ir, "from_proto", lossy)
    with pytest.raises(UnsupportedError, match=r"graph\.node\[0\]\.doc_string was lost"):
        load(mlp)


def test_training_info_rides_with_a_clone_of_onnx_ir(everything_model: onnx.ModelProto) -> None:
    del everything_model.graph.node[0]  # onnx_ir clones sorted graphs and functions only
    everything_model.functions[0].node.reverse()
    model = load(everything_model).model
    result = onnx.ModelProto.FromString(save_bytes(model.clone()))
    assert result.training_info == everything_model.training_info
    assert model_digest(model.clone()) == model_digest(model)
