"""A copy keeps every attribute and shares tensor data only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from onnxgrow.io import copy_model, load

_FIELDS: dict[type, tuple[str, ...]] = {
    ir.Model: (
        *("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"),
        *("metadata_props", "device_configurations", "graph", "functions"),
    ),
    ir.Graph: ("name", "doc_string", "opset_imports", "metadata_props", "inputs", "outputs", "initializers"),
    ir.Function: ("name", "domain", "overload", "doc_string", "metadata_props", "attributes", "graph"),
    ir.Node: (
        *("op_type", "domain", "overload", "version", "name", "doc_string", "metadata_props"),
        *("inputs", "outputs", "attributes", "device_configurations"),
    ),
    ir.Value: ("name", "shape", "type", "doc_string", "metadata_props", "const_value"),
    ir.Attr: ("name", "type", "ref_attr_name", "doc_string", "value"),
}
_TYPES = (ir.Shape, ir.TensorType, ir.SequenceType, ir.OptionalType, ir.SparseTensorType)
_WITH_META = (ir.Model, ir.Graph, ir.Node, ir.Value, ir.Attr)


def _pairs(a: Any, b: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any, Any]]:
    """Walk two models side by side and yield every pair of objects and leaves."""
    kind = next((k for k in _FIELDS if isinstance(a, k)), None)
    yield path, a, b
    if kind is not None:
        if id(a) in seen:
            return
        seen.add(id(a))
        for field in _FIELDS[kind]:
            yield from _pairs(getattr(a, field), getattr(b, field), f"{path}.{field}", seen)
        if isinstance(a, ir.Graph):
            yield from _pairs(list(a), list(b), f"{path}.nodes", seen)
        if isinstance(a, _WITH_META):
            yield from _pairs(dict(a.meta), dict(b.meta), f"{path}.meta", seen)
    elif isinstance(a, dict) or hasattr(a, "items"):
        assert list(a) == list(b), path
        for key in a:
            yield from _pairs(a[key], b[key], f"{path}[{key!r}]", seen)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _pairs(x, y, f"{path}[{index}]", seen)


@pytest.fixture
def model(everything_model: onnx.ModelProto) -> ir.Model:
    model = load(everything_model).model
    for index, thing in enumerate([model, model.graph, model.graph.node(0), model.graph.inputs[0]]):
        thing.meta["note"] = index
        thing.meta.invalidate("note")
    return model


def test_every_attribute_is_kept_and_no_object_shared(model: ir.Model) -> None:
    count = 0
    for path, a, b in _pairs(model, copy_model(model), "model", set()):
        count += 1
        assert type(a) is type(b), path
        if isinstance(a, (*_FIELDS, *_TYPES)):
            assert a is not b, path
        if isinstance(a, (*_TYPES, str, int, float, bytes)) or a is None:
            assert a == b, path
        elif isinstance(a, ir.TensorProtocol):
            assert a is b, path
    assert count > 1000


def test_notes_and_their_validity_are_kept(model: ir.Model) -> None:
    copied = copy_model(model)
    for index, thing in enumerate([copied, copied.graph, copied.graph.node(0), copied.graph.inputs[0]]):
        assert thing.meta["note"] == index
        assert not thing.meta.is_valid("note")


def test_values_of_the_copy_belong_to_the_copy(model: ir.Model) -> None:
    copied = copy_model(model)
    own = {*copied.graph.inputs, *copied.graph.initializers.values()}
    graphs = [copied.graph, *copied.graph.subgraphs(), *(f.graph for f in copied.functions.values())]
    for graph in graphs:
        own |= {*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)}
    for graph in graphs:
        assert {value for node in graph for value in node.inputs if value is not None} <= own
        assert set(graph.outputs) <= own
        for node in graph:
            assert node.graph is graph
            for placement in node.device_configurations:
                assert all(spec.value in own for spec in placement.sharding_specs)


def test_a_tensor_map_replaces_initializers_and_attributes(model: ir.Model) -> None:
    seen: list[str | None] = []

    def note(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        seen.append(tensor.name)
        return tensor

    copy_model(model, tensor_map=note)
    assert {"w1", "t_w", "a tensor", "coo"} <= set(seen)
