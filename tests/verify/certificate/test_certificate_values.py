"""Constants, chains of constants, known values, shared tensors, bodies of control flow, and checks that break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from certificate_case import Array, Case, get_tensor, grow, more, reasons, rnd, set_tensor

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.verify.certificate import certify
from onnxgrow.verify.certificate.blocks import blocks, same_bits, take
from onnxgrow.verify.certificate.readers import (
    ArrayReader,
    CastReader,
    DequantizeReader,
    ElementwiseReader,
    TransposeReader,
)
from onnxgrow.verify.certificate.registry import checker_for, register
from onnxgrow.verify.report import TierStatus

A = more(4, 2)


def chained(
    chain: str,
    reader: Array,
    axes: Mapping[int, AxisMap],
    middle: Mapping[str, Mapping[int, AxisMap]],
    tensors: Mapping[str, Array] | None = None,
    **rest: Any,
) -> Case:
    """A two-layer network whose second weight ``w2`` reaches its MatMul as ``c``."""
    return grow(
        f"(float[3,5] x) => (float[3,2] y) {{ h = MatMul(x, w1) {chain} y = MatMul(h, c) }}",
        {"w1": rnd(5, 4), "w2": reader, **(tensors or {})},
        {"w1": {1: A}, "w2": axes},
        {"h": {1: A}, **middle},
        **rest,
    )


CHAINS: dict[str, tuple[Callable[[], Case], tuple[int, ...]]] = {
    "transpose": (
        lambda: chained("c = Transpose(w2)", rnd(2, 4), {1: A}, {"c": {0: A}}, zero={"w2": (0, 1)}),
        (0, 5),
    ),
    "cast from half": (
        lambda: chained("c = Cast<to=1>(w2)", rnd(4, 2, dtype=np.float16), {0: A}, {"c": {0: A}}, zero={"w2": (1, 0)}),
        (4, 0),
    ),
    "identity, reshape": (
        lambda: chained(
            "i = Identity(w2) c = Reshape(i, s)",
            rnd(4, 1, 2),
            {0: A},
            {"i": {0: A}, "c": {0: A}},
            zero={"w2": (2, 0)},
            tensors={"s": np.array([-1, 2])},
        ),
        (5, 0, 1),
    ),
    "scaled": (
        lambda: chained("c = Mul(w2, s)", rnd(4, 2), {0: A}, {"c": {0: A}}, zero={"w2": (1, 0)}, tensors={"s": rnd(2)}),
        (5, 1),
    ),
    "quantised, per tensor": (
        lambda: chained(
            "c = DequantizeLinear(w2, s, z)",
            np.arange(1, 9, dtype=np.uint8).reshape(4, 2),
            {0: A},
            {"c": {0: A}},
            fill={"w2": 3},
            tensors={"s": np.float32(0.1), "z": np.uint8(3)},
        ),
        (4, 1),
    ),
    "quantised, per column": (
        lambda: chained(
            "c = DequantizeLinear<axis=1>(w2, s, z)",
            np.arange(1, 9, dtype=np.int8).reshape(4, 2),
            {0: A},
            {"c": {0: A}},
            put={"w2": np.array([[1, 2], [3, 4], [5, 6], [7, 8], [-1, 4], [-1, 4]], np.int8)},
            tensors={"s": rnd(2), "z": np.array([-1, 4], np.int8)},
        ),
        (4, 0),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_weight_behind_a_chain_of_constants_is_judged_by_what_is_read(name: str) -> None:
    make, place = CHAINS[name]
    case = make()
    assert case.caught_by() == [], reasons(case.certify())
    array = get_tensor(case.grown, "w2")
    kept = array[place]
    array[place] = kept + np.asarray(1, array.dtype)
    set_tensor(case.grown, "w2", array)
    assert case.sealed().caught_by() == ["certificate"]
    assert "not zero there" in reasons(case.sealed().certify())
    array[place] = kept
    array[(0,) * array.ndim] += np.asarray(1, array.dtype)
    set_tensor(case.grown, "w2", array)
    assert "not bit-equal" in reasons(case.sealed().certify())


def test_a_zero_of_the_stored_tensor_is_not_enough_when_the_chain_shifts_it() -> None:
    case = chained(
        "c = DequantizeLinear(w2, s, z)",
        np.arange(1, 9, dtype=np.uint8).reshape(4, 2),
        {0: A},
        {"c": {0: A}},
        fill={"w2": 0},
        tensors={"s": np.float32(0.1), "z": np.uint8(3)},
    )
    assert case.caught_by() == ["certificate"]


def test_the_scale_of_a_quantised_weight_is_old_weight_too() -> None:
    case = CHAINS["quantised, per tensor"][0]()
    set_tensor(case.grown, "s", np.asarray(np.nextafter(np.float32(0.1), np.float32(1))))
    assert case.caught_by() == ["accounting", "certificate"]


def constant_nodes() -> Case:
    text = (
        "(float[3,2] x) => (float[3,2] y) {{ w1 = Constant<value=float[2,{n}] {{ {a} }}>() "
        "w2 = Constant<value=float[{n},2] {{ {b} }}>() h = MatMul(x, w1) y = MatMul(h, w2) }}"
    )
    old = text.format(n=2, a="1,2,3,4", b="5,6,7,8")
    new = text.format(n=3, a="1,2,9,3,4,9", b="5,6,7,8,0,0")
    return grow(old, {}, {}, {"h": {1: more(2, 1)}}, text2=new, seal=False)


def listed(case: Case, **axes: dict[int, AxisMap]) -> Case:
    tensors = {name: TensorGrowth(maps) for name, maps in axes.items()}
    return replace(case, map=replace(case.map, tensors={**case.map.tensors, **tensors})).sealed()


def test_weights_in_constant_nodes() -> None:
    case = listed(constant_nodes(), w1={1: more(2, 1)}, w2={0: more(2, 1)})
    assert case.caught_by() == []
    for name, place in (("w2", (2, 1)), ("w1", (1, 0))):
        broken = listed(constant_nodes(), w1={1: more(2, 1)}, w2={0: more(2, 1)})
        array = get_tensor(broken.grown, name)
        array[place] += np.float32(1e-6)
        set_tensor(broken.grown, name, array)
        assert broken.sealed().caught_by() == ["certificate"]


def test_a_grown_constant_node_that_is_not_listed_fails() -> None:
    assert listed(constant_nodes(), w1={1: more(2, 1)}).caught_by() == ["accounting", "certificate"]


TIED = "(float[3,4] x) => (float[3,4] y, float[3,2] z) {{ h = MatMul(x, {a}) y = MatMul(h, {b}) z = MatMul(h, w3) }}"


def unshared(a: str = "w_1", b: str = "w_2", stands_for: str = "w") -> Case:
    """One tensor of two layers, un-shared so that each grows on its own axis."""
    w = rnd(4, 4)
    tensors = {"w": w, "other": rnd(4, 4, seed=5), "w3": rnd(4, 2)}
    return grow(
        TIED.format(a="w", b="w"),
        tensors,
        {"w_1": {1: A}, "w_2": {0: A}, "w3": {0: A}},
        {"h": {1: A}},
        zero={"w_2": (1, 0), "w3": (1, 0)},
        of={"w_1": "w", "w_2": stands_for},
        text2=TIED.format(a=a, b=b),
    )


def test_unshared_tensors_pass() -> None:
    assert unshared().caught_by() == []


def test_an_unshared_tensor_wired_to_the_wrong_layer_fails() -> None:
    assert "certificate" in unshared(a="w_2", b="w_1").caught_by()
    case = unshared(stands_for="other")
    assert case.caught_by() == ["certificate"]
    assert "where the original reads 'w'" in reasons(case.certify())


def test_a_tensor_that_stands_for_an_equal_one_passes() -> None:
    # Two names of the original with the same bytes: whichever is read, the function is the same.
    w = rnd(4, 4)
    text = "(float[3,4] x) => (float[3,4] y) {{ h = MatMul(x, {}) y = MatMul(h, v) }}"
    case = grow(text.format("w"), {"w": w, "v": w}, {}, {}, text2=text.format("v"))
    assert case.caught_by() == []
    case = grow(text.format("w"), {"w": w, "v": rnd(4, 4, seed=3)}, {}, {}, text2=text.format("v"))
    assert case.caught_by() == ["certificate"]


BODY = """(float[3,5] x, bool c) => (float[3,2] y) {{ h = MatMul(x, w1) y = If(c) <
    then_branch = a () => (float[3,2] t) {{ t = MatMul({name}, w2) }},
    else_branch = b () => (float[3,2] e) {{ e = Identity(z) }}> }}"""


def test_a_body_may_capture_what_did_not_grow_and_nothing_else() -> None:
    tensors = {"w1": rnd(5, 4), "w2": rnd(4, 2), "z": rnd(3, 2)}
    like = {"y": "z"}
    text = BODY.format(name="h")
    assert grow(text, tensors, {}, {}, like=like).caught_by() == []
    case = grow(text, tensors, {"w1": {1: A}, "w2": {0: A}}, {"h": {1: A}}, zero={"w2": (1, 0)}, like=like)
    assert case.caught_by() == ["certificate"]
    assert "its body reads 'h', which grew" in reasons(case.certify())
    changed = grow(text, tensors, {}, {}, text2=text.replace("Identity(z)", "Neg(z)"), like=like, seal=False)
    assert changed.caught_by() == ["accounting", "certificate"]


def test_a_weight_changed_inside_a_body_is_seen() -> None:
    text = """(float[3,5] x, bool c) => (float[3,5] y) { y = If(c) <
        then_branch = a () => (float[3,5] t) <float[5] w = {1,2,3,4,5}> { t = Add(x, w) },
        else_branch = b () => (float[3,5] e) { e = Identity(x) }> }"""
    case = grow(text, {}, {}, {}, text2=text.replace("4,5}", "4,6}"), like={"y": "x"}, seal=False)
    assert case.caught_by() == ["accounting", "certificate"]


PINNED = """(float[3,5] x) => (float[3,2] y) {{
    h = MatMul(x, w1) s = Shape<start=1>(h) {} r = Sqrt(f) d = Div(h, r) y = MatMul(d, w2) }}"""


def pinned(dims: int) -> Case:
    """A scale computed from a grown size, held at the original's by an inserted Where."""
    return grow(
        PINNED.format("f = Cast<to=1>(s)"),
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: A}, "w2": {0: A}},
        {"h": {1: A}, "d": {1: A}, "s_old": {}},
        zero={"w2": (1, 0)},
        put={"mask": np.array([True]), "old": np.array([dims])},
        operands=["mask", "old"],
        text2=PINNED.format("s_old = Where(mask, old, s) f = Cast<to=1>(s_old)"),
        of={"s_old": "s"},
        inserted=["s_old"],
    )


def test_an_inserted_where_that_holds_a_size_passes_and_a_wrong_one_fails() -> None:
    assert pinned(4).caught_by() == []
    case = pinned(5)
    assert case.caught_by() == ["certificate"]
    assert "known value differs" in reasons(case.certify())


def test_a_value_known_only_from_a_run_proves_nothing() -> None:
    text = """(float[3] x, int64[1] n) => (float y) {{
        s = {}(n) k = ReduceSum<keepdims=0>(s) f = Cast<to=1>(k) m = Mul(x, f) y = ReduceSum<keepdims=0>(m) }}"""
    case = grow(text.format("Abs"), {}, {}, {}, text2=text.format("Neg"), seal=False)
    before, after = case.concrete(case.original), case.concrete(case.grown)
    told = {name: np.array(0) for name in ("s", "k")} | {"f": np.array(0, np.float32)}
    before, after = (replace(c, values={**c.values, **told}) for c in (before, after))
    assert certify(case.original, case.grown, case.map, before, after).status is TierStatus.FAILED


@pytest.mark.parametrize("error", [ValueError("boom"), IndexError(), MemoryError(), AssertionError()])
def test_a_checker_that_breaks_is_a_finding_and_no_pass(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxgrow.verify.certificate import registry

    def broken(pair: object) -> None:
        raise error

    case = CHAINS["transpose"][0]()
    monkeypatch.setitem(registry._CHECKERS, ("", "MatMul"), broken)
    result = case.certify()
    assert result.status is TierStatus.FAILED
    assert "the check itself failed" in reasons(result)


def test_an_op_has_one_checker() -> None:
    assert checker_for("", "Conv") is not None
    assert checker_for("somewhere.else", "Conv") is None
    with pytest.raises(ValueError, match="two checkers"):
        register("Conv")(lambda pair: None)


def test_a_function_of_the_model_hides_the_standard_op() -> None:
    function = onnx.helper.make_function(
        "", "Relu", ["a"], ["b"], [onnx.helper.make_node("Cos", ["a"], ["b"])], [onnx.helper.make_opsetid("", 17)]
    )
    case = grow(
        "(float[3,5] x) => (float[3,2] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }",
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: A}, "w2": {0: A}},
        {"h": {1: A}, "a": {1: A}},
        fill={"w1": 0.0},
    )
    assert case.caught_by() == []
    case.like = {"a": "h"}
    for name in ("original", "grown"):
        proto = ir.to_proto(getattr(case, name))
        proto.functions.append(function)
        setattr(case, name, ir.from_proto(proto))
    assert "no rule for Relu" in reasons(case.certify())


def test_a_value_of_unknown_shape_is_no_scalar() -> None:
    # The sum's other operand comes from an op that nobody knows: it may have any shape.
    text = "(float[3,4] x) => (float[3,2] y) { h = MatMul(x, w1) u = own.What(x) s = Add(h, u) y = MatMul(s, w2) }"
    case = grow(
        text,
        {"w1": rnd(4, 4), "w2": rnd(4, 2)},
        {"w1": {1: A}, "w2": {0: A}},
        {"h": {1: A}, "s": {1: A}},
        zero={"w2": (1, 0)},
        like={"s": "h"},
    )
    assert case.caught_by() == ["certificate"]
    assert "the shape of 'u' is not known" in reasons(case.certify())


def test_facts_pass_through_a_deep_network() -> None:
    depth = 1500
    body = "".join(f"a{i + 1} = Relu(a{i}) " for i in range(depth))
    case = grow(
        f"(float[3,5] x) => (float[3,2] y) {{ a0 = MatMul(x, w1) {body} y = MatMul(a{depth}, w2) }}",
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: A}, "w2": {0: A}},
        {f"a{i}": {1: A} for i in range(depth + 1)},
        fill={"w1": 0.0},
    )
    assert case.caught_by() == []


def test_a_cycle_is_a_finding() -> None:
    text = "(float[3] x) => (float[3] y) { a = Add(x, x) y = Add(a, x) }"
    case = grow(text, {}, {}, {})
    nodes = list(case.grown.graph)
    nodes[0].replace_input_with(1, nodes[1].outputs[0])
    assert "cycle" in reasons(case.certify())


def test_nodes_in_any_order_are_proved() -> None:
    case = CHAINS["transpose"][0]()
    for model in (case.original, case.grown):
        nodes = list(model.graph)
        model.graph.remove(nodes)
        model.graph.extend(reversed(nodes))
    assert case.sealed().caught_by() == []


def test_a_model_without_outputs_is_not_called_proved() -> None:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=9)
    case = Case(model, model, GrowthMap())
    assert case.certify().status is TierStatus.FAILED


def test_an_identical_model_is_proved() -> None:
    case = CHAINS["transpose"][0]()
    same = Case(case.original, case.original, GrowthMap(), case.shapes)
    assert same.caught_by() == []
    figures = same.certify().figures
    assert figures["outputs_proved"] == 1
    assert figures["assumes"]


def test_findings_stop_after_some() -> None:
    body = "".join(f"a{i} = Abs(x) " for i in range(40))
    text = f"(float[3] x) => (float[3] y) {{ {body} y = Sum({', '.join(f'a{i}' for i in range(40))}) }}"
    case = grow(text, {}, {}, {}, text2=text.replace("Abs", "Neg"), seal=False)
    for result in case.tiers().values():
        assert result.status is TierStatus.FAILED
        assert len(result.findings) == 20


def test_a_growth_map_that_calls_itself_inexact_is_not_certified() -> None:
    case = CHAINS["transpose"][0]()
    assert replace(case, map=replace(case.map, exact=False)).caught_by() == ["certificate"]


def test_a_renamed_output_claimed_by_the_map_fails() -> None:
    text = "(float[3] x) => (float[3] y, float[3] z) {{ {} = Abs(x) {} = Neg(x) }}"
    case = grow(text.format("y", "z"), {}, {}, {}, text2=text.format("z", "y"), seal=False)
    swapped = {"y": ValueGrowth({}, "z"), "z": ValueGrowth({}, "y")}
    case = replace(case, map=replace(case.map, values=swapped)).sealed()
    assert case.caught_by() == ["accounting", "certificate"]
    assert "where the original reads 'y'" in reasons(case.certify())


# Building blocks.


@pytest.mark.parametrize("limit", [1, 7, 16, 1000])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (1, 9, 1), (0, 3)])
def test_blocks_cover_every_element_once(shape: tuple[int, ...], limit: int) -> None:
    seen = np.zeros(shape, int)
    for block in blocks(shape, 4, limit):
        seen[block] += 1
        assert seen[block].size * 4 <= max(limit, 4)
    assert (seen == 1).all()


@pytest.mark.parametrize("index", [(slice(0, 2), np.array([3, 0])), (np.array([1, 1]), np.array([2]))])
def test_orthogonal_indexing(index: tuple[slice | Array, ...]) -> None:
    a = rnd(3, 4)
    wide = [np.arange(n)[i] for i, n in zip(index, a.shape, strict=True)]
    assert np.array_equal(take(a, index), a[np.ix_(*wide)])


def test_same_bits_tells_zeros_and_nans_apart() -> None:
    assert same_bits(np.float32([0.0]), np.float32([0.0]))
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.float32([0.0]), np.float64([0.0]))
    nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert same_bits(nan, nan.copy())
    assert not same_bits(nan, np.float32([np.nan]))


def test_readers_give_what_the_ops_compute() -> None:
    x = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scale, zero = rnd(2, 4), np.arange(8, dtype=np.int8).reshape(2, 4)
    index = (np.array([2, 0]), slice(1, 4))
    part = np.ix_([2, 0], [1, 2, 3])
    blocked = DequantizeReader(*map(ArrayReader, (x, scale, zero)), axis=0, block=2)
    rows = np.array([0, 0, 1])
    wanted = (x.astype(np.float32) - zero[rows]) * scale[rows]
    assert np.array_equal(blocked.read(index), wanted[part])
    assert np.array_equal(TransposeReader(ArrayReader(x), (1, 0)).read(index[::-1]), x.T[np.ix_([1, 2, 3], [2, 0])])
    assert np.array_equal(
        CastReader(ArrayReader(scale), np.dtype(np.float16)).read((slice(0, 1), slice(0, 4))),
        scale[:1].astype(np.float16),
    )
    both = ElementwiseReader((ArrayReader(scale), ArrayReader(scale[:, :1])), np.multiply)
    assert np.array_equal(both.read((slice(0, 2), np.array([3]))), (scale * scale[:, :1])[:, [3]])
