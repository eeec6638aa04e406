"""Random faults in grown networks: every one is caught, and the tests say by which tier.

Two networks stand for the rest: a CNN with a grouped convolution, a residual sum, a concatenation and a flatten, and an
MLP with a transposed weight and un-shared biases. Faults come in two kinds. *Consistent* ones keep the growth map's
digests in step, as a wrong growth would: the certificate alone must catch them. *Careless* ones edit the result or the
map afterwards: at least one tier must.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from certificate_case import Case, at, get_tensor, grow, more, reasons, rnd, set_tensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import NodeChange, TensorGrowth, ValueGrowth
from onnxgrow.io import copy_model
from onnxgrow.verify.report import TierStatus

FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

A = more(4, 2)
GROUPS = at([0, 1, -1, 2, 3, -1])
CAT = at([*range(4), -1, -1, *range(4, 8), -1, -1])
FLAT = at([i * 4 + k if i >= 0 else -1 for i in CAT.source() for k in range(4)])

CNN = """(float[2,3,4,4] x) => (float[2,5] y) {{
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    n = BatchNormalization<epsilon=0.001>(a, g, b, m, v)
    r = LeakyRelu<alpha=0.1>(n)
    q = Conv<kernel_shape=[1,1]>(r, wq)
    d = Conv<group={group}, pads=[1,1,1,1]>(q, wd)
    s = Conv(d, ws)
    k = Add(s, r)
    c = Concat<axis=1>(k, r)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w2, b2)
}}"""


@lru_cache
def cnn_parts() -> Case:
    vectors = {name: {0: A} for name in ("b1", "g", "b", "m", "v")}
    return grow(
        CNN.format(group=2),
        {
            "w1": rnd(4, 3, 3, 3),
            **{name: rnd(4, seed=i) for i, name in enumerate(("b1", "g", "b", "m"))},
            "v": np.abs(rnd(4, seed=9)) + 1,
            "wq": rnd(4, 4, 1, 1),
            "wd": rnd(4, 2, 3, 3),
            "ws": rnd(4, 4, 1, 1, seed=2),
            "w2": rnd(5, 32),
            "b2": rnd(5),
        },
        {
            "w1": {0: A},
            **vectors,
            "wq": {0: GROUPS, 1: A},
            "wd": {0: GROUPS, 1: more(2, 1)},
            "ws": {0: A, 1: GROUPS},
            "w2": {1: FLAT},
        },
        {
            **{name: {1: A} for name in "anrsk"},
            **{name: {1: GROUPS} for name in "qd"},
            **{name: {1: CAT} for name in "cp"},
            "f": {1: FLAT},
        },
        zero={"wq": (0, 1), "wd": (0, 1), "ws": (0, 1), "w2": (0, 1)},
        fill={"v": 1.0},
    )


@lru_cache
def mlp_parts() -> Case:
    text = """(float[3,5] x) => (float[3,2] y) {{
        h = MatMul(x, w1) i = Add(h, {}) a = Tanh(i) t = Transpose(w2) j = MatMul(a, t) k = Add(j, {})
        e = Relu(k) y = Gemm<alpha=0.5>(e, w3, b3)
    }}"""
    other = at([-1, 0, 1, 2, 3])
    return grow(
        text.format("s", "s"),
        {"w1": rnd(5, 4), "w2": rnd(4, 4), "w3": rnd(4, 2), "b3": rnd(2), "s": rnd(4)},
        {"w1": {1: A}, "w2": {0: other, 1: A}, "w3": {0: other}, "s_1": {0: A}, "s_2": {0: other}},
        {**{name: {1: A} for name in "hia"}, "t": {0: A, 1: other}, **{name: {1: other} for name in "jke"}},
        zero={"w2": (0, 1), "w3": (1, 0)},
        text2=text.format("s_1", "s_2"),
        of={"s_1": "s", "s_2": "s"},
    )


NETWORKS = {"cnn": cnn_parts, "mlp": mlp_parts}
networks = st.sampled_from(sorted(NETWORKS))


def fresh(name: str) -> Case:
    """A copy that a fault may be put into."""
    case = NETWORKS[name]()
    return replace(case, original=copy_model(case.original), grown=copy_model(case.grown))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_networks_pass_without_faults(name: str) -> None:
    assert fresh(name).caught_by() == [], [reasons(t) for t in fresh(name).tiers().values()]


def old_index(data: st.DataObject, array: np.ndarray[Any, Any], growth: TensorGrowth) -> tuple[int, ...]:
    """The place in the result of some old entry."""
    place = []
    for axis, size in enumerate(array.shape):
        kept = growth.axes[axis].positions() if axis in growth.axes else np.arange(size)
        place.append(int(data.draw(st.sampled_from(kept.tolist()))))
    return tuple(place)


@FAST
@given(networks, st.data())
def test_one_flipped_bit_in_an_old_entry_is_caught_by_the_certificate(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    tensor = data.draw(st.sampled_from(sorted(case.map.tensors)))
    array = get_tensor(case.grown, tensor)
    place = old_index(data, array, case.map.tensors[tensor])
    bits = array.view(np.uint32)
    bits[place] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    set_tensor(case.grown, tensor, array)
    assert case.sealed().caught_by() == ["certificate"]


@FAST
@given(networks, st.data())
def test_one_entry_that_is_not_zero_in_the_zero_block_is_caught_by_the_certificate(
    name: str, data: st.DataObject
) -> None:
    case = fresh(name)
    readers = {"cnn": {"wq": (0, 1), "wd": (0, 1), "ws": (0, 1), "w2": (0, 1)}, "mlp": {"w2": (0, 1), "w3": (1, 0)}}
    tensor = data.draw(st.sampled_from(sorted(readers[name])))
    _, inside = readers[name][tensor]
    growth = case.map.tensors[tensor]
    array = get_tensor(case.grown, tensor)
    place = list(old_index(data, array, growth))
    place[inside] = int(data.draw(st.sampled_from(np.flatnonzero(growth.axes[inside].source() < 0).tolist())))
    assert array[tuple(place)] == 0
    array[tuple(place)] = data.draw(st.sampled_from([1e-45, -1e-30, 1.0, np.inf, np.nan]))
    set_tensor(case.grown, tensor, array)
    assert case.sealed().caught_by() == ["certificate"]


@FAST
@given(networks, st.data())
def test_a_changed_tensor_that_the_map_does_not_list_is_caught_by_both(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    free = sorted(set(case.grown.graph.initializers) & set(case.original.graph.initializers) - set(case.map.tensors))
    read = {v.name for node in case.grown.graph for v in node.inputs if v is not None}
    tensor = data.draw(st.sampled_from(free))
    array = get_tensor(case.grown, tensor)
    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] += np.float32(1e-3)
    set_tensor(case.grown, tensor, array)
    expected = ["accounting", "certificate"]
    assert case.sealed().caught_by() == expected, tensor in read


def other_map(data: st.DataObject, axis_map: AxisMap) -> AxisMap:
    """Another valid map of the same sizes."""
    source = axis_map.source()
    shuffled = data.draw(st.permutations(source.tolist()).filter(lambda s: list(s) != source.tolist()))
    return AxisMap.from_source(shuffled)


@FAST
@given(networks, st.data())
def test_a_wrong_map_of_one_value_or_tensor_is_caught_by_the_certificate(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    values, tensors = dict(case.map.values), dict(case.map.tensors)
    key = data.draw(st.sampled_from(sorted([*values, *tensors])))
    growth = values.get(key) or tensors[key]
    axis = data.draw(st.sampled_from(sorted(growth.axes)))
    changed = replace(growth, axes={**growth.axes, axis: other_map(data, growth.axes[axis])})
    if isinstance(changed, ValueGrowth):
        values[key] = changed
    else:
        tensors[key] = changed
    case = replace(case, map=replace(case.map, values=values, tensors=tensors))
    assert case.sealed().caught_by() == ["certificate"]


@FAST
@given(networks, st.data())
def test_a_consistently_shifted_tensor_is_caught_by_the_certificate(name: str, data: st.DataObject) -> None:
    # Data and map of one tensor agree with each other, but not with what is around them.
    case = fresh(name)
    key = data.draw(st.sampled_from(sorted(case.map.tensors)))
    growth = case.map.tensors[key]
    axis = data.draw(st.sampled_from(sorted(growth.axes)))
    new = other_map(data, growth.axes[axis])
    array = get_tensor(case.grown, key)
    moved = array.copy()
    before, after = growth.axes[axis], new
    index = [slice(None)] * array.ndim
    at_new, at_old = list(index), list(index)
    at_new[axis], at_old[axis] = after.positions(), before.positions()
    moved[tuple(at_new)] = array[tuple(at_old)]
    at_new[axis], at_old[axis] = np.flatnonzero(after.source() < 0), np.flatnonzero(before.source() < 0)
    moved[tuple(at_new)] = array[tuple(at_old)]
    set_tensor(case.grown, key, moved)
    tensors = {**case.map.tensors, key: replace(growth, axes={**growth.axes, axis: new})}
    case = replace(case, map=replace(case.map, tensors=tensors))
    assert case.sealed().caught_by() == ["certificate"]


@FAST
@given(networks, st.data())
def test_an_entry_left_out_of_the_map_is_caught_by_both(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    values, tensors = dict(case.map.values), dict(case.map.tensors)
    key = data.draw(st.sampled_from(sorted([*values, *tensors])))
    values.pop(key, None)
    tensors.pop(key, None)
    case = replace(case, map=replace(case.map, values=values, tensors=tensors))
    # What a value grew by is written nowhere else: there the certificate is alone.
    assert "certificate" in case.sealed().caught_by()


@FAST
@given(networks, st.data())
def test_a_claimed_zero_that_does_not_hold_is_caught_by_the_certificate(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    key = data.draw(st.sampled_from(sorted(case.map.values)))
    growth = case.map.values[key]
    axis = data.draw(st.sampled_from(sorted(growth.axes)))
    segments = tuple(replace(s, fact="zero") if s.is_new else s for s in growth.axes[axis].segments)
    changed = replace(growth, axes={**growth.axes, axis: AxisMap(segments)})
    case = replace(case, map=replace(case.map, values={**case.map.values, key: changed}))
    assert case.sealed().caught_by() == ["certificate"]


def rewire(case: Case, data: st.DataObject) -> None:
    """One input of one node reads another value of the same shape, or one at random."""
    nodes = list(case.grown.graph)
    position = data.draw(st.integers(0, len(nodes) - 1))
    node = nodes[position]
    values = [*case.grown.graph.inputs, *case.grown.graph.initializers.values()]
    values += [v for n in nodes[:position] for v in n.outputs]
    index = data.draw(st.integers(0, len(node.inputs) - 1))
    node.replace_input_with(index, data.draw(st.sampled_from([v for v in values if v is not node.inputs[index]])))


def drop_node(case: Case, data: st.DataObject) -> None:
    nodes = [n for n in case.grown.graph if n.outputs[0].name != "y"]
    node = data.draw(st.sampled_from(nodes))
    node.outputs[0].replace_all_uses_with(node.inputs[0])
    case.grown.graph.remove(node)


def add_node(case: Case, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(list(case.grown.graph)))
    op = data.draw(st.sampled_from(["Identity", "Neg", "Sigmoid"]))
    extra = ir.Node("", op, [node.inputs[0]], outputs=[ir.Value(name="extra")])
    case.grown.graph.insert_before(node, extra)
    node.replace_input_with(0, extra.outputs[0])


def swap_nodes(case: Case, data: st.DataObject) -> None:
    nodes = list(case.grown.graph)
    index = data.draw(st.integers(0, len(nodes) - 2))
    first = nodes[index]
    case.grown.graph.remove(first)
    case.grown.graph.insert_after(nodes[index + 1], first)


def other_op(case: Case, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from([n for n in case.grown.graph if len(n.inputs) == 1]))
    node.op_type = data.draw(st.sampled_from([op for op in ("Relu", "Neg", "Erf", "Sigmoid") if op != node.op_type]))
    node.attributes.clear()


def change_attribute(case: Case, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from([n for n in case.grown.graph if n.attributes]))
    name = data.draw(st.sampled_from(sorted(node.attributes)))
    attr = node.attributes[name]
    if attr.type is ir.AttributeType.FLOAT:
        node.attributes[name] = ir.AttrFloat32(name, float(np.nextafter(np.float32(attr.value), np.float32(9))))
    elif attr.type is ir.AttributeType.INT:
        node.attributes[name] = ir.AttrInt64(name, attr.value + data.draw(st.sampled_from([-1, 1])))
    else:
        values = list(attr.value)
        values[data.draw(st.integers(0, len(values) - 1))] += 1
        node.attributes[name] = ir.AttrInt64s(name, values)


def drop_attribute(case: Case, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from([n for n in case.grown.graph if n.attributes]))
    del node.attributes[data.draw(st.sampled_from(sorted(node.attributes)))]


def shorter_bias(case: Case, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([n for n in case.map.tensors if get_tensor(case.grown, n).ndim == 1]))
    set_tensor(case.grown, name, get_tensor(case.grown, name)[:-1])


def lose_documentation(case: Case, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["node", "metadata", "value", "tensor", "graph", "model", "producer"]))
    node = data.draw(st.sampled_from(list(case.original.graph)))
    if kind == "node":
        node.doc_string = "why"
    elif kind == "metadata":
        node.metadata_props["source"] = "layer"
    elif kind == "value":
        node.outputs[0].doc_string = "what"
    elif kind == "tensor":
        tensor = case.original.graph.initializers[data.draw(st.sampled_from(sorted(case.original.graph.initializers)))]
        tensor.doc_string = "whose"
    elif kind == "graph":
        case.original.graph.metadata_props["key"] = "value"
    elif kind == "model":
        case.original.metadata_props["licence"] = "mine"
    else:
        case.original.producer_version = "2"


BOTH = ("accounting", "certificate")
STRUCTURAL: dict[str, tuple[Callable[[Case, st.DataObject], None], tuple[str, ...]]] = {
    "a node reads another value": (rewire, BOTH),
    "a node is gone": (drop_node, BOTH),
    "a node is added": (add_node, ("accounting",)),
    "two nodes change places": (swap_nodes, ("accounting",)),
    "another op": (other_op, BOTH),
    "a changed attribute": (change_attribute, BOTH),
    "a lost attribute": (drop_attribute, ("accounting",)),
    "a shorter bias": (shorter_bias, BOTH),
    "lost documentation": (lose_documentation, ("accounting",)),
}


@pytest.mark.parametrize("fault", STRUCTURAL)
@FAST
@given(networks, st.data())
def test_structural_faults_are_caught(fault: str, name: str, data: st.DataObject) -> None:
    case = fresh(name)
    put, tiers = STRUCTURAL[fault]
    put(case, data)
    caught = case.sealed().caught_by()
    assert set(tiers) <= set(caught), caught


@FAST
@given(networks, st.data())
def test_an_added_node_that_is_listed_is_judged_by_the_certificate(name: str, data: st.DataObject) -> None:
    case = fresh(name)
    add_node(case, data)
    node = next(n for n in case.grown.graph if n.outputs[0].name == "extra")
    source = node.inputs[0].name or ""
    growth = case.map.values.get(source) or ValueGrowth({})
    entry = ValueGrowth(growth.axes, source)
    reader = next(n for n in case.grown.graph if any(v is node.outputs[0] for v in n.inputs))
    before = case.map.nodes.get(reader.outputs[0].name or "", NodeChange())
    change = replace(before, inputs={**before.inputs, 0: (source, "extra")})
    claimed = replace(
        case.map,
        inserted=("extra",),
        values={**case.map.values, "extra": entry},
        nodes={**case.map.nodes, reader.outputs[0].name or "": change},
    )
    caught = replace(case, map=claimed).sealed().caught_by()
    assert caught == ([] if node.op_type == "Identity" else ["certificate"])


def test_dropping_all_zeros_is_caught() -> None:
    for name in sorted(NETWORKS):
        case = fresh(name)
        rng = np.random.default_rng(0)
        for tensor in case.map.tensors:
            array = get_tensor(case.grown, tensor)
            set_tensor(case.grown, tensor, np.where(array == 0, rng.normal(size=array.shape), array).astype(np.float32))
        result = case.sealed().certify()
        assert result.status is TierStatus.FAILED
        assert "the weight is not zero there" in reasons(result) or "is not zero there" in reasons(result)


def test_faults_do_not_leak_between_copies() -> None:
    case = fresh("mlp")
    kept = copy.copy(get_tensor(case.grown, "w1"))
    set_tensor(case.grown, "w1", kept * 2)
    assert np.array_equal(get_tensor(fresh("mlp").grown, "w1"), kept)
