"""Larger kernels: right ones are certified, taps that moved or are not zero are not."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
from certificate_case import Array, Case, at, grow, reasons, rnd, text_model
from support import run

from onnxgrow.verify.report import TierStatus


def case(
    op: str,
    before: str,
    after: str,
    size: int = 8,
    out: int = 8,
    kernel: int = 3,
    source: tuple[int, ...] = (-1, 0, 1, 2, -1),
    put: Mapping[str, Array] | None = None,
) -> Case:
    """A one-dimensional convolution whose kernel grew as ``source`` says."""
    text = f"(float[1,2,{size}] x) => (float[1,3,{out}] y) {{ y = {op}<%s>(x, w) }}"
    channels = (3, 2) if op == "Conv" else (2, 3)
    maps = {2: at(source, "zero")} if list(source) != list(range(kernel)) else {}
    return grow(
        text % before,
        {"w": rnd(*channels, kernel)},
        {"w": maps} if maps else {},
        {},
        fill={"w": 0.0},
        text2=text % after,
        put=put,
    )


SAME = 'auto_pad="SAME_UPPER", strides=[2]'
RIGHT = {
    "pads": case("Conv", "pads=[1,1]", "pads=[2,2]"),
    "asymmetric": case("Conv", "pads=[1,1]", "pads=[1,3]", source=(0, 1, 2, -1, -1)),
    "dilation": case("Conv", "pads=[2,2], dilations=[2]", "pads=[4,4], dilations=[2]"),
    "same, kept": case("Conv", SAME, SAME, 8, 4),
    "same, made explicit, even": case("Conv", SAME, "pads=[1,1], strides=[2]", 8, 4, 1, (-1, 0, -1)),
    "same, made explicit, odd": case("Conv", SAME, "pads=[1,1], strides=[2]", 9, 5, 1, (-1, 0, -1)),
    "transposed": case("ConvTranspose", "strides=[2]", "strides=[2], pads=[1,1]", 4, 9),
    "transposed, output shape": case("ConvTranspose", "output_shape=[9]", "output_shape=[9]", 8, 9),
}
WRONG = {
    "leading pad one short": (case("Conv", "pads=[1,1]", "pads=[1,3]"), "the old taps moved"),
    "pads forgotten": (case("Conv", "pads=[1,1]", "pads=[1,1]", out=8), ""),
    "taps shifted by one": (
        case("Conv", "pads=[1,1]", "pads=[2,2]", source=(-1, -1, 0, 1, 2)),
        "the old taps moved",
    ),
    "taps apart": (case("Conv", "pads=[1,1]", "pads=[2,2]", source=(0, -1, 1, -1, 2)), "side by side"),
    "dilation forgotten": (
        case("Conv", "pads=[2,2], dilations=[2]", "pads=[3,5], dilations=[2]"),
        "the old taps moved",
    ),
    "other dilation": (
        case("Conv", "pads=[2,2], dilations=[2]", "pads=[2,2], dilations=[1]"),
        "dilations",
    ),
    "same, kernel < stride, even": (case("Conv", SAME, SAME, 8, 4, 1, (-1, 0, -1)), "the old taps moved"),
    "same, upper made lower": (
        case("Conv", SAME, 'auto_pad="SAME_LOWER", strides=[2]', 8, 4),
        "auto_pad",
    ),
    "kernel larger than the padded input": (
        case("Conv", "strides=[2]", "strides=[2]", 4, 1, 4, (0, 1, 2, 3, -1)),
        "do not lead to an output of size 1",
    ),
    "trailing pad one short": (case("Conv", "pads=[1,1]", "pads=[2,1]"), ""),
    "explicit made same": (case("Conv", "pads=[1,1]", 'auto_pad="SAME_UPPER"'), "auto_pad"),
    "kernel_shape not updated": (
        case("Conv", "pads=[1,1], kernel_shape=[3]", "pads=[2,2], kernel_shape=[3]"),
        "",
    ),
    "transposed, leading pad": (case("ConvTranspose", "strides=[2]", "strides=[2], pads=[0,2]", 4, 9), "taps moved"),
    "transposed, odd total made explicit": (
        case("ConvTranspose", "output_shape=[9]", "pads=[2,1]", 8, 9),
        "the old taps moved",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_taps_at_their_places_are_certified(name: str) -> None:
    for tier in RIGHT[name].tiers().values():
        assert tier.status is TierStatus.PASSED, reasons(tier)


@pytest.mark.parametrize("name", WRONG)
def test_taps_that_moved_are_not_certified(name: str) -> None:
    wrong, reason = WRONG[name]
    result = wrong.certify()
    assert result.status is TierStatus.FAILED
    assert reason in reasons(result)


@pytest.mark.parametrize("tap", [0, 4])
def test_a_new_tap_that_is_not_zero_is_not_certified(tap: int) -> None:
    right = RIGHT["pads"]
    weight = np.array(right.grown.graph.initializers["w"].const_value.numpy())  # type: ignore[union-attr]  # it is there
    weight[2, 1, tap] = 1e-30
    put = {"w": weight}
    wrong = case("Conv", "pads=[1,1]", "pads=[2,2]", put=put)
    result = wrong.certify()
    assert result.status is TierStatus.FAILED
    assert "zero" in reasons(result)


def test_same_padding_with_a_kernel_below_the_stride_happens_to_fit_odd_inputs_only() -> None:
    """On odd inputs kept SAME padding is right for 1 to 3, stride 2; on even ones it is wrong: hence two sizes."""
    assert case("Conv", SAME, SAME, 9, 5, 1, (-1, 0, -1)).certify().status is TierStatus.PASSED
    assert case("Conv", SAME, SAME, 8, 4, 1, (-1, 0, -1)).certify().status is TierStatus.FAILED


def test_whatever_is_certified_is_equal_in_onnx_runtime() -> None:
    """Random geometry on both sides, most of it wrong: nothing wrong may pass, and some of the right must."""
    draw = random.Random(0)
    seen = {"certified": 0, "refused": 0}
    while sum(seen.values()) < 60:
        op, size, kernel = draw.choice(["Conv", "ConvTranspose"]), draw.randint(3, 9), draw.randint(1, 4)
        front, behind = draw.choice([(0, 1), (1, 0), (1, 1), (2, 2)])
        stride, dilation = draw.randint(1, 3), draw.randint(1, 2)
        base = f"strides=[{stride}], dilations=[{dilation}]"
        begin, end = draw.randint(0, 2), draw.randint(0, 2)
        same = f'auto_pad="{draw.choice(["SAME_UPPER", "SAME_LOWER"])}"'
        right = f"pads=[{begin + front * dilation},{end + behind * dilation}]"
        near = f"pads=[{begin + front},{end + behind + draw.randint(0, 1)}]"
        before, after = draw.choice(
            [(f"pads=[{begin},{end}]", right), (f"pads=[{begin},{end}]", near), (same, same), (same, right)]
        )
        text = f"(float[1,2,{size}] x) => (float[1,3,%s] y) {{ y = {op}<{base}, %s>(x, w) }}"
        old = rnd(*((3, 2) if op == "Conv" else (2, 3)), kernel)
        new = np.pad(old, [(0, 0), (0, 0), (front, behind)])
        feeds = {"x": rnd(1, 2, size)}
        try:
            expected = run(text_model(text % ("n", before), {"w": old}), feeds)[0]
        except Exception:
            continue  # no valid original
        length = expected.shape[2]
        source = [-1] * front + list(range(kernel)) + [-1] * behind
        result = grow(
            text % (length, before),
            {"w": old},
            {"w": {2: at(source, "zero")}},
            {},
            put={"w": new},
            text2=text % (length, after),
        ).certify()
        passed = result.status is TierStatus.PASSED
        seen["certified" if passed else "refused"] += 1
        if passed:
            found = run(text_model(text % ("n", after), {"w": new}), feeds)[0]
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{op} {base} {before} → {after}")
    assert min(seen.values()) >= 10, seen
