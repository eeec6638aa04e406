"""Models for the tests of onnxgrow.io."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

DTYPES = {
    name: number
    for name, number in TensorProto.DataType.items()
    if name not in ("UNDEFINED", "STRING")  # strings have no raw form
}


def two_layers(hidden: int = 5) -> onnx.ModelProto:
    """Two Gemms with a Relu between them and weights that are all different."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        mlp (float[N,4] x) => (float[N,3] y) {
            h = Gemm(x, w1, b1)
            r = Relu(h)
            y = Gemm(r, w2, b2)
        }"""
    )
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, hidden), "b1": (hidden,), "w2": (hidden, 3), "b2": (3,)}
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return proto


def tensor_of(name: str, data_type: int, dims: tuple[int, ...] = (3,)) -> TensorProto:
    """A tensor of any type with distinct bytes as raw data."""
    tensor = TensorProto(name=name, data_type=data_type, dims=dims)
    bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    by_name = {number: key for key, number in DTYPES.items()}[data_type]
    for width, kinds in ((4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2")), (6, ("FLOAT6",))):
        if by_name.startswith(kinds):
            bits = width
    size = (int(np.prod(dims)) * bits + 7) // 8
    # Bits beyond the last element stay zero, and booleans are 0 or 1.
    tensor.raw_data = bytes([1, 0, 1] if by_name == "BOOL" else [(7 * i + 1) % 4 for i in range(size)])
    return tensor


def _props(target: Any, *pairs: tuple[str, str]) -> None:
    for key, value in pairs:
        target.add(key=key, value=value)


def everything() -> onnx.ModelProto:
    """A model that sets every field of every message of onnx.proto, in an unusual order where it can."""
    model = two_layers()
    model.ir_version = 13
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "a model"
    model.opset_import.add(domain="org.unused", version=3)
    model.opset_import.add(domain="org.fn", version=1)
    _props(model.metadata_props, ("z", "last first"), ("a", "ä"), ("empty", ""))
    configuration = model.configuration.add(name="two_gpus", num_devices=2)
    configuration.device.extend(["gpu:0", "gpu:1"])
    graph = model.graph
    graph.doc_string = "a graph"
    _props(graph.metadata_props, ("z", "1"), ("a", "2"))

    graph.input[0].doc_string = "an input"
    _props(graph.input[0].metadata_props, ("z", "1"), ("a", "2"))
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.input.append(helper.make_tensor_value_info("anyshape", TensorProto.FLOAT, None))
    graph.input.append(helper.make_tensor_value_info("minus", TensorProto.FLOAT, [-1, None, "k"]))
    graph.input.append(helper.make_value_info("bare", onnx.TypeProto()))
    untyped = graph.input.add(name="untyped")
    untyped.type.tensor_type.shape.dim.add(dim_value=3)
    graph.input.add(name="typeless")
    tensor_type = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    composite = {
        "sequence": helper.make_sequence_type_proto(tensor_type),
        "optional": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor_type)),
        "mapping": helper.make_map_type_proto(TensorProto.INT64, tensor_type),
        "maps": helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, tensor_type)),
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2, "n"]),
        "opaque": onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="d", name="n")),
        "denoted": helper.make_sequence_type_proto(tensor_type),
    }
    composite["denoted"].sequence_type.elem_type.denotation = "IMAGE"
    for name, kind in composite.items():
        graph.input.append(helper.make_value_info(name, kind))
    # The older form, in which initializers are listed as inputs, too.
    graph.input.append(helper.make_tensor_value_info("b1", TensorProto.FLOAT, [5]))

    for name, data_type in DTYPES.items():
        graph.initializer.append(tensor_of(f"raw_{name}", data_type))
        if name in ("FLOAT4E2M1", "INT4", "UINT4", "INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2"):
            packed = TensorProto(name=f"typed_{name}", data_type=data_type, dims=[3])
            packed.int32_data.extend({"4": [1, 2], "2": [1], "6": [1, 2, 3]}[name.strip("UINTFLOA")[0]])
            graph.initializer.append(packed)
    typed = {
        "float_data": (TensorProto.FLOAT, [0.5, -0.0, 3.0]),
        "double_data": (TensorProto.DOUBLE, [0.5, -0.0, 3.0]),
        "int64_data": (TensorProto.INT64, [1, -2, 3]),
        "uint64_data": (TensorProto.UINT32, [1, 2, 3]),
        "int32_data": (TensorProto.FLOAT16, [15360, 1, 2]),
    }
    for field, (data_type, values) in typed.items():
        tensor = graph.initializer.add(name=f"in_{field}", data_type=data_type, dims=[3])
        getattr(tensor, field).extend(values)
    text = graph.initializer.add(name="text", data_type=TensorProto.STRING, dims=[3])
    text.string_data.extend([b"\xff not UTF-8", "ä".encode(), b"zero at the end\0"])
    described = graph.initializer[0]
    described.doc_string = "first weight"
    _props(described.metadata_props, ("z", "1"), ("a", "2"))
    graph.initializer.append(TensorProto(name="nothing", data_type=TensorProto.FLOAT, dims=[0, 3]))
    for name, indices in (("coo", [0, 7]), ("coo2", [[0, 0], [1, 2]])):
        sparse = graph.sparse_initializer.add(dims=[2, 4])
        sparse.values.CopyFrom(numpy_helper.from_array(np.array([1.5, -2.0], np.float32), name))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices, np.int64), f"{name}_indices"))

    _annotate(graph, "y", "h", "gone", "w1", "x", "b1")
    for name in ("r", "gone", "w1", "h", "y", "x"):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]))
    graph.value_info[0].doc_string = "inner"
    _props(graph.value_info[0].metadata_props, ("z", "1"), ("a", "2"))

    first = graph.node[0]
    first.name = graph.node[1].name = "same name"
    first.doc_string, first.overload = "a node", "variant"
    _props(first.metadata_props, ("z", "1"), ("a", "2"))
    placement = first.device_configurations.add(configuration_id="two_gpus", pipeline_stage=1)
    spec = placement.sharding_spec.add(tensor_name="w1")
    spec.device.extend([0, 1])
    spec.index_to_device_group_map.add(key=0).value.extend([0, 1])
    shard = spec.sharded_dim.add(axis=1)
    shard.simple_sharding.add(dim_value=5, num_shards=2)
    shard.simple_sharding.add(dim_param="n", num_shards=2)

    custom = graph.node.add(op_type="Custom", domain="org.unused", name="c")
    custom.input.extend(["", "x", ""])
    custom.output.extend(["", "c0", ""])
    custom.attribute.extend(_attributes())
    graph.node.append(
        helper.make_node("If", ["flag"], ["picked"], name="if", then_branch=_branch("t"), else_branch=_branch("e"))
    )
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    graph.node.append(helper.make_node("Scale", ["picked"], ["scaled"], domain="org.fn", by=2.0))
    graph.output.append(helper.make_value_info("scaled", onnx.TypeProto()))
    graph.output.append(helper.make_value_info("mapping", composite["mapping"]))
    # A node that reads what a later one writes.
    graph.node.insert(0, helper.make_node("Neg", ["scaled"], ["early"], name="early"))

    model.functions.append(_function())
    training = model.training_info.add()
    training.initialization.name = "init"
    training.algorithm.name = "step"
    _props(training.initialization_binding, ("w1", "w1_init"))
    _props(training.update_binding, ("w1", "w1_new"))
    return model


def _annotate(graph: onnx.GraphProto, *names: str) -> None:
    for name in names:
        annotation = graph.quantization_annotation.add(tensor_name=name)
        _props(annotation.quant_parameter_tensor_names, ("SCALE_TENSOR", f"{name}_s"), ("AXIS", "1"))


def _attributes() -> Iterator[onnx.AttributeProto]:
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1.0], np.float32)))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([2], np.int64)))
    graph = helper.make_graph([], "empty", [], [])
    dense = tensor_of("a tensor", TensorProto.FLOAT)
    dense.doc_string = "a constant"
    _props(dense.metadata_props, ("z", "1"), ("a", "2"))
    typed = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    mapped = helper.make_map_type_proto(TensorProto.INT64, typed)
    values: dict[str, Any] = {
        "z_float": 0.1,
        "int": -3,
        "string": "ä",
        "not_text": b"\xff\x00",
        "tensor": dense,
        "strings_tensor": numpy_helper.from_array(np.array(["a", "b"], object)),
        "graph": graph,
        "sparse": sparse,
        "type": typed,
        "map_type": mapped,
        "floats": [0.1, float("inf")],
        "ints": [1, 2**62],
        "strings": ["a", "ä"],
        "not_texts": [b"a", b"\xfe"],
        "tensors": [dense, dense],
        "graphs": [graph, _branch("g")],
        "sparses": [sparse, sparse],
        "types": [typed, mapped],
    }
    for name, value in values.items():
        attribute = helper.make_attribute(name, value)
        attribute.doc_string = f"doc of {name}"
        yield attribute
    for name, kind in (("no_ints", "INTS"), ("no_tensors", "TENSORS"), ("no_graphs", "GRAPHS")):
        yield onnx.AttributeProto(name=name, type=onnx.AttributeProto.AttributeType.Value(kind))


def _branch(prefix: str) -> onnx.GraphProto:
    branch = helper.make_graph(
        [helper.make_node("Add", ["r", f"{prefix}_w"], [f"{prefix}_y"])],
        f"branch {prefix}",
        [],
        [helper.make_tensor_value_info(f"{prefix}_y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.full((5,), 2, np.float32), f"{prefix}_w")],
        doc_string="a branch",
    )
    sparse = branch.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1.0], np.float32), f"{prefix}_sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([2], np.int64)))
    branch.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 5]))
    _annotate(branch, "r", f"{prefix}_w")
    _props(branch.metadata_props, ("z", "1"), ("a", "2"))
    return branch


def _function() -> onnx.FunctionProto:
    function = onnx.FunctionProto(name="Scale", domain="org.fn", doc_string="a function")
    function.overload = ""
    function.input.append("v")
    function.output.append("out")
    function.attribute.append("by")
    function.attribute_proto.append(helper.make_attribute("offset", 1.0))
    function.opset_import.add(domain="", version=17)
    function.opset_import.add(domain="org.unused", version=2)
    constant = helper.make_node("Constant", [], ["factor"])
    constant.attribute.add(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT).doc_string = "ref"
    function.node.extend([helper.make_node("Mul", ["v", "factor"], ["out"]), constant])
    for name in ("out", "v", "stale"):
        function.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    _props(function.metadata_props, ("z", "1"), ("a", "2"))
    return function


@pytest.fixture
def mlp() -> onnx.ModelProto:
    return two_layers()


@pytest.fixture
def everything_model() -> onnx.ModelProto:
    return everything()
