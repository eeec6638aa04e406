"""Channel sets of whole networks: who writes, who reads, and why not."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from support import analysis_of, model_of

from onnxgrow.analysis import Analysis, Network, analyse
from onnxgrow.concrete.infer import concretize
from onnxgrow.io import load

MLP = "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) a = Relu(h) y = MatMul(a, wb) }"


def network_of(model: ir.Model, shape: tuple[int, ...]) -> Network:
    """Without a run of the model."""
    concrete = concretize(model, {"x": shape})
    return Network(model, concrete, concrete)


def by_name(analysis: Analysis) -> dict[str, tuple[list[str], list[str], list[str]]]:
    return {
        s.name: ([w.root for w in s.writers], [w.root for w in s.readers], [str(r) for r in s.reasons])
        for s in analysis.sets
    }


def test_every_set_says_who_writes_it_who_reads_it_and_why_it_cannot_grow() -> None:
    found = by_name(analysis_of(model_of(MLP, {"wa": (6, 4), "wb": (4, 3)})))
    assert found == {
        "wa": (["wa"], ["wb"], []),
        "wb": (["wb"], [], ["it is an output of the network (output y, axis 1)"]),
        "input of wa": ([], ["wa"], ["it is an input of the network (input x, axis 1)"]),
    }


def test_a_set_that_training_information_names_cannot_grow() -> None:
    proto = ir.to_proto(model_of(MLP, {"wa": (6, 4), "wb": (4, 3)}))
    info = proto.training_info.add()
    info.algorithm.node.append(helper.make_node("Identity", ["wa"], ["next"]))
    info.update_binding.add(key="wb", value="next")
    reasons = {s.name: [str(r) for r in s.reasons] for s in analysis_of(load(proto).model).sets}
    assert any("training information" in r for r in reasons["wa"]), reasons


def test_a_set_that_nothing_reads_cannot_grow() -> None:
    graph = "g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, wa) s = Shape(h) y = Identity(x) }"
    found = by_name(analysis_of(model_of(graph, {"wa": (6, 4)})))
    assert found["wa"] == (["wa"], [], ["no weight reads it"])


def test_a_set_that_no_weight_writes_cannot_grow() -> None:
    graph = "g (float[2,3] x) => (float[2,3] y) { t = Relu(k) h = MatMul(t, wb) y = Add(h, x) }"
    found = by_name(analysis_of(model_of(graph, {"k": (2, 6), "wb": (6, 3)})))
    assert found["input of wb"][2] == ["no weight writes it"]


def test_a_channel_of_one_cannot_grow() -> None:
    found = by_name(analysis_of(model_of(MLP, {"wa": (6, 1), "wb": (1, 3)})))
    assert found["wa"][2] == ["size 1"]


def test_one_set_through_a_residual_stream_has_all_its_writers_and_readers() -> None:
    graph = (
        "g (float[N,6] x) => (float[N,3] y) { h = MatMul(x, wa) u = MatMul(h, wu) d = MatMul(u, wd)"
        " s = Add(h, d) y = MatMul(s, wb) }"
    )
    weights = {"wa": (6, 4), "wu": (4, 9), "wd": (9, 4), "wb": (4, 3)}
    found = by_name(analysis_of(model_of(graph, weights)))
    assert found["wa"] == (["wa", "wd"], ["wu", "wb"], [])
    assert found["wu"] == (["wu"], ["wd"], [])


def test_a_depthwise_filter_neither_writes_nor_reads_what_it_passes_on() -> None:
    graph = (
        "g (float[N,3,8,8] x) => (float[N,5,8,8] y) { c = Conv(x, wa) d = Conv <group = 4> (c, wd) y = Conv(d, wb) }"
    )
    found = by_name(analysis_of(model_of(graph, {"wa": (4, 3, 1, 1), "wd": (4, 1, 1, 1), "wb": (5, 4, 1, 1)})))
    assert found["wa"] == (["wa"], ["wb"], [])


def test_the_model_is_not_changed_by_looking_at_it() -> None:
    model = model_of(MLP, {"wa": (6, 4), "wb": (4, 3)})
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    analysis_of(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 0, 2]])
def test_nodes_may_come_in_any_order(order: list[int]) -> None:
    proto = ir.to_proto(model_of(MLP, {"wa": (6, 4), "wb": (4, 3)}))
    nodes = [proto.graph.node[i] for i in order]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(proto)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    found = analyse(network_of(ir.from_proto(shuffled), (2, 6)))
    assert [s.name for s in found.growable] == ["wa"]


def chain(layers: int) -> ir.Model:
    weight = np.eye(4, dtype=np.float32)
    nodes, tensors, value = [], [], "x"
    for i in range(layers):
        tensors.append(numpy_helper.from_array(weight + np.float32(i + 1), f"layer.{i}.weight"))
        nodes.append(helper.make_node("MatMul", [value, f"layer.{i}.weight"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
        value = f"r{i}"
    ends = [helper.make_tensor_value_info(name, 1, [2, 4]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_analysis_of_five_thousand_nodes_takes_time_in_proportion() -> None:
    def seconds(layers: int) -> float:
        network = network_of(chain(layers), (2, 4))
        started = time.perf_counter()
        found = analyse(network)
        assert len(found.growable) == layers - 1
        return time.perf_counter() - started

    small, large = min(seconds(250) for _ in range(2)), seconds(2500)
    assert large < 10 * 4 * small + 0.5


def test_a_weight_behind_two_thousand_ops_is_still_found() -> None:
    steps = " ".join(f"i{n + 1} = Identity(i{n})" for n in range(2000))
    graph = (
        f"g (float[2,6] x) => (float[2,3] y) {{ i0 = Transpose(wa) {steps} h = MatMul(x, i2000) y = MatMul(h, wb) }}"
    )
    found = analyse(network_of(model_of(graph, {"wa": (4, 6), "wb": (4, 3)}), (2, 6)))
    assert [(s.name, s.size, s.writers[0].root) for s in found.growable] == [("wa", 4, "wa")]


def test_parts_of_an_axis_are_listed_in_their_order() -> None:
    parts = [f"x{i}" for i in range(9)]
    model = model_of(
        f"g ({', '.join(f'float[N,{i + 2}] {x}' for i, x in enumerate(parts))}) => (float[N,3] y)"
        f" {{ c = Concat <axis = 1> ({', '.join(parts)}) y = MatMul(c, w) }}",
        {"w": (sum(range(2, 11)), 3)},
    )
    assert [s.size for s in analysis_of(model).sets] == [3, *range(2, 11)]
