"""Gemm, MatMul, Conv and ConvTranspose: correct growths pass, each broken one fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from certificate_case import Case, at, get_tensor, grow, more, reasons, rnd, set_tensor

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.verify.report import TierStatus

A = more(4, 2)
MIDDLE = at([0, 1, -1, -1, 2, 3])


def mlp(hidden: AxisMap = A, activation: str = "Relu") -> Case:
    return grow(
        "(float[3,5] x) => (float[3,2] y) "
        f"{{ h = Gemm(x, w1, b1) a = {activation}(h) y = Gemm<transB=1, alpha=0.5>(a, w2, b2) }}",
        {"w1": rnd(5, 4), "b1": rnd(4), "w2": rnd(2, 4), "b2": rnd(2)},
        {"w1": {1: hidden}, "b1": {0: hidden}, "w2": {1: hidden}},
        {"h": {1: hidden}, "a": {1: hidden}},
        zero={"w2": (0, 1)},
    )


def matmul() -> Case:
    return grow(
        "(float[2,3,5] x) => (float[2,3,2] y) { h = MatMul(x, w1) a = Tanh(h) y = MatMul(a, w2) }",
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: MIDDLE}, "w2": {0: MIDDLE}},
        {"h": {2: MIDDLE}, "a": {2: MIDDLE}},
        zero={"w2": (1, 0)},
    )


def matmul_left() -> Case:
    return grow(
        "(float[5,3] x) => (float[2,3] y) { h = MatMul(w1, x) y = MatMul(w2, h) }",
        {"w1": rnd(4, 5), "w2": rnd(2, 4)},
        {"w1": {0: A}, "w2": {1: A}},
        {"h": {0: A}},
        zero={"w2": (0, 1)},
    )


def matmul_vector() -> Case:
    return grow(
        "(float[3,5] x) => (float[3] y) { h = MatMul(x, w1) y = MatMul(h, w2) }",
        {"w1": rnd(5, 4), "w2": rnd(4)},
        {"w1": {1: A}, "w2": {0: A}},
        {"h": {1: A}},
        put={"w2": np.concatenate([rnd(4), np.zeros(2, np.float32)])},
    )


def conv() -> Case:
    return grow(
        "(float[1,3,6,6] x) => (float[1,2,6,6] y) "
        "{ h = Conv<pads=[1,1,1,1]>(x, w1, b1) a = Relu(h) y = Conv<pads=[1,1,1,1]>(a, w2, b2) }",
        {"w1": rnd(4, 3, 3, 3), "b1": rnd(4), "w2": rnd(2, 4, 3, 3), "b2": rnd(2)},
        {"w1": {0: A}, "b1": {0: A}, "w2": {1: A}},
        {"h": {1: A}, "a": {1: A}},
        zero={"w2": (0, 1)},
    )


def conv_1d() -> Case:
    return grow(
        "(float[1,3,6] x) => (float[1,2,6] y) { h = Conv(x, w1) y = Conv(h, w2) }",
        {"w1": rnd(4, 3, 1), "w2": rnd(2, 4, 1)},
        {"w1": {0: A}, "w2": {1: A}},
        {"h": {1: A}},
        zero={"w2": (0, 1)},
    )


def depthwise() -> Case:
    text = "(float[1,3,6,6] x) => (float[1,2,4,4] y) {{ h = Conv(x, w1) d = Conv<group={}>(h, w, b) y = Conv(d, w2) }}"
    return grow(
        text.format(4),
        {"w1": rnd(4, 3, 1, 1), "w": rnd(4, 1, 3, 3), "b": rnd(4), "w2": rnd(2, 4, 1, 1)},
        {"w1": {0: A}, "w": {0: A}, "b": {0: A}, "w2": {1: A}},
        {"h": {1: A}, "d": {1: A}},
        zero={"w2": (0, 1)},
        text2=text.format(6),
    )


IN_GROUPS = at([0, 1, -1, 2, 3, -1])


def grouped_inside(axis: AxisMap = IN_GROUPS) -> Case:
    """Two groups, each wider by one input: new channels interleave."""
    return grow(
        "(float[1,3,6,6] x) => (float[1,6,6,6] y) { h = Conv(x, w1) y = Conv<group=2>(h, w) }",
        {"w1": rnd(4, 3, 1, 1), "w": rnd(6, 2, 1, 1)},
        {"w1": {0: axis}, "w": {1: more(2, 1)}},
        {"h": {1: axis}},
        zero={"w": (0, 1)},
    )


def grouped_whole() -> Case:
    """A third group is added."""
    text = "(float[1,3,6,6] x) => (float[1,2,6,6] y) {{ h = Conv(x, w1) d = Conv<group={}>(h, w) y = Conv(d, w2) }}"
    out = more(6, 3)
    return grow(
        text.format(2),
        {"w1": rnd(4, 3, 1, 1), "w": rnd(6, 2, 1, 1), "w2": rnd(2, 6, 1, 1)},
        {"w1": {0: A}, "w": {0: out}, "w2": {1: out}},
        {"h": {1: A}, "d": {1: out}},
        zero={"w2": (0, 1)},
        text2=text.format(3),
    )


def conv_transpose() -> Case:
    return grow(
        "(float[1,3,4,4] x) => (float[1,2,8,8] y) "
        "{ h = ConvTranspose<strides=[2,2]>(x, w1, b1) y = ConvTranspose(h, w2) }",
        {"w1": rnd(3, 4, 2, 2), "b1": rnd(4), "w2": rnd(4, 2, 1, 1)},
        {"w1": {1: A}, "b1": {0: A}, "w2": {0: A}},
        {"h": {1: A}},
        zero={"w2": (1, 0)},
    )


def conv_transpose_grouped() -> Case:
    axis = at([0, 1, -1, 2, 3, -1])
    return grow(
        "(float[1,3,4,4] x) => (float[1,2,4,4] y) { h = Conv(x, w1) d = ConvTranspose<group=2>(h, w) y = Conv(d, w2) }",
        {"w1": rnd(4, 3, 1, 1), "w": rnd(4, 3, 1, 1), "w2": rnd(2, 6, 1, 1)},
        {"w1": {0: axis}, "w": {0: axis, 1: more(3, 1)}, "w2": {1: at([0, 1, 2, -1, 3, 4, 5, -1])}},
        {"h": {1: axis}, "d": {1: at([0, 1, 2, -1, 3, 4, 5, -1])}},
        zero={"w": (1, 0), "w2": (0, 1)},
    )


CASES: dict[str, tuple[Callable[[], Case], str, tuple[int, ...]]] = {
    "gemm": (mlp, "w2", (0, 5)),
    "gemm, new in the middle": (lambda: mlp(MIDDLE), "w2", (1, 2)),
    "matmul": (matmul, "w2", (3, 1)),
    "matmul, weight on the left": (matmul_left, "w2", (1, 4)),
    "matmul, vector": (matmul_vector, "w2", (4,)),
    "conv": (conv, "w2", (1, 4, 2, 2)),
    "conv, one-dimensional": (conv_1d, "w2", (1, 5, 0)),
    "depthwise conv": (depthwise, "w2", (0, 4, 0, 0)),
    "grouped conv, wider groups": (grouped_inside, "w", (5, 2, 0, 0)),
    "grouped conv, another group": (grouped_whole, "w2", (0, 8, 0, 0)),
    "transposed conv": (conv_transpose, "w2", (4, 1, 0, 0)),
    "transposed conv, groups": (conv_transpose_grouped, "w", (5, 0, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_correct_growth_is_accounted_for_and_certified(name: str) -> None:
    for tier in CASES[name][0]().tiers().values():
        assert tier.status is TierStatus.PASSED, reasons(tier)
        assert tier.findings == ()


@pytest.mark.parametrize("name", CASES)
def test_one_entry_by_which_an_old_output_reads_a_new_input_fails(name: str) -> None:
    make, tensor, place = CASES[name]
    case = make()
    array = get_tensor(case.grown, tensor)
    assert array[place] == 0
    array[place] = 1e-38
    set_tensor(case.grown, tensor, array)
    assert case.sealed().caught_by() == ["certificate"]
    assert case.caught_by() == ["accounting", "certificate"]


@pytest.mark.parametrize("name", CASES)
def test_negative_zeros_count_as_zero(name: str) -> None:
    make, tensor, place = CASES[name]
    case = make()
    array = get_tensor(case.grown, tensor)
    array[place] = -0.0
    set_tensor(case.grown, tensor, array)
    assert case.sealed().caught_by() == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", ["ulp", "sign"])
def test_one_changed_bit_in_any_old_weight_fails(name: str, value: str) -> None:
    case = CASES[name][0]()
    for tensor, growth in case.map.tensors.items():
        array = get_tensor(case.grown, tensor)
        index = tuple(
            int(growth.axes[k].positions()[-1]) if k in growth.axes else n - 1 for k, n in enumerate(array.shape)
        )
        kept = array[index]
        array[index] = np.nextafter(kept, np.float32(np.inf)) if value == "ulp" else -kept
        set_tensor(case.grown, tensor, array)
        assert case.sealed().caught_by() == ["certificate"], tensor
        array[index] = kept
        set_tensor(case.grown, tensor, array)
    assert case.sealed().caught_by() == []


def test_a_shifted_interleave_fails() -> None:
    # The weight keeps its groups' layout while the channels come in another one.
    case = grouped_inside(at([0, 1, 2, 3, -1, -1]))
    assert case.caught_by() == ["certificate"]
    assert "do not follow the input channels" in reasons(case.certify())


def test_wrong_number_of_groups_fails() -> None:
    text = "(float[1,4,6,6] x) => (float[1,4,6,6] y) {{ y = Conv<group={}>(x, w) }}"
    case = grow(text.format(2), {"w": rnd(4, 2, 1, 1)}, {}, {}, text2=text.format(4), put={"w": rnd(4, 2, 1, 1)})
    assert "certificate" in case.caught_by()


@pytest.mark.parametrize(
    ("op", "attribute", "other"),
    [
        ("Conv", "pads", [1, 1, 0, 0]),
        ("Conv", "strides", [2, 2]),
        ("Conv", "dilations", [2, 2]),
        ("Conv", "auto_pad", "SAME_UPPER"),
    ],
)
def test_a_changed_conv_attribute_fails(op: str, attribute: str, other: object) -> None:
    case = conv()
    node = next(n for n in case.grown.graph if n.op_type == op)
    attr = ir.AttrString(attribute, other) if isinstance(other, str) else ir.AttrInt64s(attribute, other)
    node.attributes[attribute] = attr
    assert case.caught_by() == ["accounting", "certificate"]


@pytest.mark.parametrize("attribute", ["alpha", "beta"])
def test_a_changed_gemm_factor_fails(attribute: str) -> None:
    case = mlp()
    case.grown.graph[2].attributes[attribute] = ir.AttrFloat32(attribute, 0.25)
    assert case.caught_by() == ["accounting", "certificate"]


def attention(zero_keys: bool, activation: str = "") -> Case:
    """Q·Kᵀ with a wider head: a contraction of two computed values."""
    key = f"k0 = MatMul(x, wk) k = {activation}(k0)" if activation else "k = MatMul(x, wk)"
    return grow(
        "(float[3,5] x) => (float[3,3] y) { q = MatMul(x, wq) " + key + " t = Transpose(k) y = MatMul(q, t) }",
        {"wq": rnd(5, 4, seed=1), "wk": rnd(5, 4, seed=2)},
        {"wq": {1: A}, "wk": {1: A}},
        {"q": {1: A}, "k": {1: A}, "t": {0: A}} | ({"k0": {1: A}} if activation else {}),
        fill={"wk": 0.0} if zero_keys else {},
    )


def test_computed_values_contract_over_new_entries_when_one_side_is_proved_zero() -> None:
    assert attention(zero_keys=True).caught_by() == []
    assert attention(zero_keys=True, activation="Relu").caught_by() == []


@pytest.mark.parametrize("activation", ["", "Sigmoid", "Exp", "Cos", "Softplus"])
def test_computed_values_with_no_zero_side_fail(activation: str) -> None:
    case = attention(zero_keys=bool(activation), activation=activation)
    assert case.caught_by() == ["certificate"]
    assert "neither operand is proved zero" in reasons(case.certify())


def fan_in(activation: str = "Relu", bias: float = 0.0, fact: str = "zero") -> Case:
    """Writers zero, readers random: exact as long as zeros stay zeros on the way."""
    new = more(4, 2, fact)
    return grow(
        "(float[1,3,6,6] x) => (float[1,2,6,6] y) "
        f"{{ h = Conv(x, w1, b1) n = BatchNormalization(h, s, b, m, v) a = {activation}(n) y = Conv(a, w2) }}",
        {
            "w1": rnd(4, 3, 1, 1),
            "b1": rnd(4),
            "w2": rnd(2, 4, 1, 1),
            "s": rnd(4),
            "b": rnd(4),
            "m": rnd(4),
            "v": np.ones(4, np.float32),
        },
        {name: {0: A} for name in ("w1", "b1", "s", "b", "m", "v")} | {"w2": {1: A}},
        {name: {1: new} for name in ("h", "n", "a")},
        fill={"w1": 0.0, "b1": bias, "b": 0.0, "m": 0.0, "v": 1.0},
    )


def test_zero_fan_in_is_certified_through_facts() -> None:
    assert fan_in().caught_by() == []
    assert fan_in("LeakyRelu").caught_by() == []
    # Without the claims the facts are found all the same.
    assert fan_in(fact="any").caught_by() == []


def test_zero_fan_in_through_an_op_that_moves_zero_fails() -> None:
    assert fan_in("Sigmoid").caught_by() == ["certificate"]
    assert "claimed to be zero" in reasons(fan_in("Sigmoid").certify())
    assert "not zero there" in reasons(fan_in("Sigmoid", fact="any").certify())


def test_zero_fan_in_with_a_bias_that_is_not_zero_fails() -> None:
    assert fan_in(bias=1e-20).caught_by() == ["certificate"]


def test_a_claimed_zero_of_a_weight_is_looked_at() -> None:
    case = grow(
        "(float[3,5] x) => (float[3,2] y) { h = MatMul(x, w1) y = MatMul(h, w2) }",
        {"w1": rnd(5, 4), "w2": rnd(4, 2)},
        {"w1": {1: more(4, 2, "zero")}, "w2": {0: A}},
        {"h": {1: A}},
        zero={"w2": (1, 0)},
    )
    assert case.caught_by() == ["certificate"]
    assert "claimed to be zero" in reasons(case.certify())


@pytest.mark.parametrize("fact", ["mean", "copy"])
def test_a_fact_that_nothing_proves_is_refused(fact: str) -> None:
    axis = AxisMap((Segment(4, 0), Segment(2, fact=fact, source=0)))
    assert "certificate" in mlp(axis).caught_by()


def test_a_non_finite_new_entry_fails() -> None:
    case = mlp()
    array = get_tensor(case.grown, "w1")
    array[0, 5] = np.inf
    set_tensor(case.grown, "w1", array)
    assert case.sealed().caught_by() == ["certificate"]
    assert "not finite" in reasons(case.sealed().certify())


def test_old_nan_payloads_are_kept_bit_for_bit() -> None:
    quiet, other = (np.array(bits, np.uint32).view(np.float32) for bits in (0x7FC00001, 0x7FC00002))
    tensors = {"w1": rnd(5, 4), "w2": rnd(4, 2)}
    tensors["w1"][0, 0] = quiet

    def make() -> Case:
        return grow(
            "(float[3,5] x) => (float[3,2] y) { h = MatMul(x, w1) y = MatMul(h, w2) }",
            tensors,
            {"w1": {1: A}, "w2": {0: A}},
            {"h": {1: A}},
            zero={"w2": (1, 0)},
        )

    assert make().caught_by() == []
    case = make()
    array = get_tensor(case.grown, "w1")
    array[0, 0] = other
    set_tensor(case.grown, "w1", array)
    assert case.sealed().caught_by() == ["certificate"]
