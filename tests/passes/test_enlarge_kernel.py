"""Larger kernels: exact for every kind of convolution and padding, refused with the reason where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of

import onnxgrow
from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.concrete.values import constants
from onnxgrow.errors import NotEquivalentError, UnsupportedError, UsageError
from onnxgrow.io import model_digest
from onnxgrow.passes import EnlargeKernel, kernel_plan, padding
from onnxgrow.passes.base import seal
from onnxgrow.verify.judge import verify

SPATIAL = "abc"


def conv(op: str, attributes: str, size: str, kernel: tuple[int, ...], channels: tuple[int, int] = (4, 4)) -> ir.Model:
    """One convolution of 4 channels over inputs of ``size`` on each axis."""
    rank = len(kernel)
    x = ",".join(["1", "4", *[size] * rank])
    y = ",".join(["1", "q", *SPATIAL[:rank]])
    return model_of(
        f"g (float[{x}] x) => (float[{y}] y) {{ y = {op}<{attributes}>(x, w) }}", {"w": (*channels, *kernel)}
    )


def attributes_of(model: ir.Model) -> dict[str, Any]:
    node = next(n for n in model.graph if n.op_type.startswith("Conv"))
    return {k: list(a.value) if isinstance(a.value, tuple) else a.value for k, a in node.attributes.items()}


SAME = 'auto_pad="SAME_UPPER"'
LOWER = 'auto_pad="SAME_LOWER"'

CASES: dict[str, tuple[ir.Model, int | tuple[int, ...], dict[str, Any]]] = {
    "3 to 5": (conv("Conv", "pads=[1,1,1,1]", "8", (3, 3)), 5, {"pads": [2, 2, 2, 2]}),
    "no pads": (conv("Conv", "kernel_shape=[3,3]", "8", (3, 3)), 5, {"pads": [1] * 4, "kernel_shape": [5, 5]}),
    "odd tap behind": (conv("Conv", "pads=[1,1,1,1]", "8", (3, 3)), (3, 4), {"pads": [1, 1, 1, 2]}),
    "even kernel": (conv("Conv", "pads=[0,0,1,1]", "8", (2, 2)), 4, {"pads": [1, 1, 2, 2]}),
    "a larger axis stays": (conv("Conv", "pads=[0,0,0,0]", "9", (3, 7)), 5, {"pads": [1, 0, 1, 0]}),
    "dilated, strided, grouped": (
        conv("Conv", "group=2,dilations=[2,3],strides=[2,2],pads=[1,2,3,4]", "13", (3, 3), (4, 2)),
        5,
        {"group": 2, "dilations": [2, 3], "strides": [2, 2], "pads": [3, 5, 5, 7]},
    ),
    "depthwise": (conv("Conv", "group=4", "8", (3, 3), (4, 1)), 5, {"group": 4, "pads": [1] * 4}),
    "one-dimensional": (conv("Conv", "pads=[1,1]", "8", (3,)), 7, {"pads": [3, 3]}),
    "three-dimensional": (conv("Conv", "group=1", "5", (2, 3, 3)), 4, {"pads": [1, 0, 0, 1, 1, 1]}),
    "valid": (conv("Conv", 'auto_pad="VALID"', "8", (3, 3)), 5, {"pads": [1] * 4}),
    "same, kept": (
        conv("Conv", f"{SAME},strides=[2,2]", "8", (3, 3)),
        5,
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "same, dynamic, kept": (conv("Conv", f"{LOWER},strides=[2,2]", "H", (3, 3)), 7, {"auto_pad": "SAME_LOWER"}),
    "same, dynamic, stride 1, asymmetric": (conv("Conv", SAME, "H", (3, 3)), 4, {"pads": [1, 1, 2, 2]}),
    "same, asymmetric, even input": (conv("Conv", f"{SAME},strides=[2,2]", "8", (3, 3)), 4, {"pads": [0, 0, 2, 2]}),
    "same, asymmetric, odd input": (conv("Conv", f"{SAME},strides=[2,2]", "9", (3, 3)), 4, {"pads": [1, 1, 2, 2]}),
    "same, lower, even input": (conv("Conv", f"{LOWER},strides=[2,2]", "8", (3, 3)), 4, {"pads": [1, 1, 1, 1]}),
    "same, kernel < stride, even input": (conv("Conv", f"{SAME},strides=[2,2]", "8", (1, 1)), 3, {"pads": [1] * 4}),
    "same, kernel < stride, odd input": (conv("Conv", f"{SAME},strides=[2,2]", "9", (1, 1)), 3, {"pads": [1] * 4}),
    "transposed": (
        conv("ConvTranspose", "strides=[2,2],output_padding=[1,1],pads=[1,1,1,1],dilations=[2,1]", "6", (3, 3)),
        5,
        {"output_padding": [1, 1], "pads": [3, 2, 3, 2]},
    ),
    "transposed, groups": (conv("ConvTranspose", "group=2,strides=[2]", "6", (2,), (4, 3)), 3, {"pads": [0, 1]}),
    "transposed, same": (conv("ConvTranspose", f"{SAME},strides=[2,2]", "H", (3, 3)), 5, {"auto_pad": "SAME_UPPER"}),
    "transposed, same, asymmetric": (conv("ConvTranspose", f"{SAME},strides=[2]", "6", (4,)), 5, {"pads": [1, 2]}),
    "transposed, output shape": (
        conv("ConvTranspose", "output_shape=[12],strides=[2]", "6", (3,)),
        5,
        {"output_shape": [12]},
    ),
    "transposed, output shape, asymmetric": (
        conv("ConvTranspose", "output_shape=[13],strides=[2]", "6", (3,)),
        4,
        {"pads": [0, 1]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_enlarged_kernel_is_proved_equivalent(name: str) -> None:
    model, to, wanted = CASES[name]
    result = EnlargeKernel("w", to=to)(model)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert [t.status.value for t in result.report.tiers] == ["passed"] * 4
    found = attributes_of(result.model)
    assert {k: found.get(k) for k in wanted} == wanted
    assert ("auto_pad" in found) == ("auto_pad" in wanted)
    assert ("output_shape" in found) == ("output_shape" in wanted)
    old, new = constants(model)["w"].numpy(), constants(result.model)["w"].numpy()
    sizes = (to,) * (old.ndim - 2) if isinstance(to, int) else to
    assert new.shape[2:] == tuple(max(a, b) for a, b in zip(old.shape[2:], sizes, strict=True))
    assert np.count_nonzero(new) == np.count_nonzero(old)


REFUSED = {
    "same, kernel < stride, dynamic": (conv("Conv", f"{SAME},strides=[2,2]", "H", (1, 1)), 3, "dynamic"),
    "same, asymmetric, dynamic": (conv("Conv", f"{SAME},strides=[2,2]", "H", (3, 3)), 4, "dynamic"),
    "transposed, odd total, asymmetric": (
        conv("ConvTranspose", "output_shape=[12],strides=[2]", "6", (3,)),
        4,
        "all runtimes",
    ),
    "transposed, same, kernel < stride": (conv("ConvTranspose", f"{SAME},strides=[2]", "6", (1,)), 3, "all runtimes"),
    "sizes for another rank": (conv("Conv", "group=1", "8", (3, 3)), (5, 5, 5), "2 spatial axes"),
    "large already": (conv("Conv", "group=1", "8", (5, 5)), 5, "5x5 already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_the_reason(name: str) -> None:
    model, to, reason = REFUSED[name]
    with pytest.raises(UnsupportedError, match=reason):
        EnlargeKernel("w", to=to).grow(model)


NET = (
    "g (float[N,3,8,8] x) => (float[N,2,a,b] y) { p = Conv<pads=[1,1,1,1]>(x, wa) r = Relu(p)"
    " q = Conv(r, wb) s = Conv<pads=[0,3,0,3]>(q, wc) t = Transpose<perm=[3,2,0,1]>(wd)"
    " y = Conv<pads=[1,1,1,1]>(s, t) }"
)
WEIGHTS = {"wa": (4, 3, 3, 3), "wb": (4, 4, 1, 1), "wc": (4, 4, 1, 7), "wd": (3, 3, 4, 2)}


def test_by_default_every_smaller_spatial_kernel_grows() -> None:
    result = onnxgrow.enlarge_kernel(model_of(NET, WEIGHTS), to=5)
    assert {k["name"]: (k["old"], k["new"]) for k in result.plan["kernels"]} == {
        "wa": ([3, 3], [5, 5]),
        "wd": ([3, 3], [5, 5]),
    }
    assert result.plan["skipped"] == {
        "wb": "its kernel is 1x1 and grows only where it is named literally",
        "wc": "its kernel is 1x7 and grows only where it is named literally",
    }
    assert constants(result.model)["wd"].shape.numpy() == (5, 5, 4, 2)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT


@pytest.mark.parametrize("selector", ["wb", "q"])
def test_a_1x1_kernel_grows_where_it_is_named(selector: str) -> None:
    result = onnxgrow.enlarge_kernel(model_of(NET, WEIGHTS), [selector, "wa"], to=3)
    assert [k["name"] for k in result.plan["kernels"]] == ["wb"]
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT


def test_a_glob_does_not_name_a_1x1_kernel() -> None:
    with pytest.raises(UnsupportedError, match="named literally"):
        EnlargeKernel("w[b]", to=3).grow(model_of(NET, WEIGHTS))


@pytest.mark.parametrize("form", ["nodes", "inputs"])
def test_constant_nodes_and_weights_that_are_inputs_grow(form: str) -> None:
    model = model_of(NET, WEIGHTS, as_nodes=form == "nodes", as_inputs=form == "inputs", ir_version=3)
    before = model_digest(model)
    assert onnxgrow.enlarge_kernel(model, to=5).report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert model_digest(model) == before


SHARED = "g (float[1,4,8,8] x) => (float[1,4,a,b] y, {last}) {{ p = Conv<pads=[1,1,1,1]>(x, w) y = Conv(p, w) {more} }}"


def test_convolutions_that_share_a_weight_grow_together() -> None:
    model = model_of(SHARED.format(last="float[1,4,c,d] p", more=""), {"w": (4, 4, 3, 3)})
    result = onnxgrow.enlarge_kernel(model, "y", to=5)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert set(result.growth_map.nodes) == {"p", "y"}


@pytest.mark.parametrize(
    ("last", "more", "reason"),
    [("float[4,4,3,3] z", "z = Relu(w)", "Relu"), ("float[4,4,3,3] w", "", "output of the network")],
)
def test_a_weight_that_something_else_needs_stays(last: str, more: str, reason: str) -> None:
    model = model_of(SHARED.format(last=last, more=more), {"w": (4, 4, 3, 3)})
    with pytest.raises(UnsupportedError, match=reason):
        EnlargeKernel(to=5).grow(model)


def test_a_kernel_that_is_computed_stays() -> None:
    model = model_of("g (float[1,4,8,8] x, float[4,4,3,3] k) => (float[1,4,6,6] y) { y = Conv(x, k) }")
    with pytest.raises(UnsupportedError, match="not stored"):
        EnlargeKernel(to=5).grow(model)


def test_half_precision_stays_half_precision() -> None:
    weight = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float16)
    model = model_of("g (float16[1,3,8,8] x) => (float16[1,2,6,6] y) { y = Conv(x, w) }", {"w": weight})
    result = onnxgrow.enlarge_kernel(model, to=5)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert constants(result.model)["w"].numpy().dtype == np.float16


def test_kernels_grow_in_two_generations() -> None:
    once = onnxgrow.enlarge_kernel(model_of(NET, WEIGHTS), to=5).model
    twice = onnxgrow.enlarge_kernel(once, to=7)
    assert twice.growth_map.generation == 2
    assert [h["recipe"]["to"] for h in twice.growth_map.history] == [5]


def test_wider_layers_and_larger_kernels_go_together() -> None:
    grow = onnxgrow.Sequential(onnxgrow.Widen("wa", add=2), EnlargeKernel(to=5), onnxgrow.Widen("wa", add=1))
    result = grow(model_of(NET, WEIGHTS))
    assert constants(result.model)["wa"].shape.numpy() == (7, 3, 5, 5)
    assert result.growth_map.generation == 3


@pytest.mark.parametrize("to", [0, -3, (), (3, 0), True])
def test_sizes_that_are_none_are_refused(to: Any) -> None:
    with pytest.raises(UsageError, match="no kernel size"):
        EnlargeKernel(to=to)


def test_a_selector_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean wa"):
        EnlargeKernel("waa", to=5).grow(model_of(NET, WEIGHTS))


def test_forgotten_dilation_is_stopped_by_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the pass itself would hand it out."""
    right = padding.Window.ints

    def wrong(self: padding.Window, name: str, default: int, per_axis: int = 1) -> tuple[int, ...]:
        return right(self, "none" if name == "dilations" else name, default, per_axis)

    model = conv("Conv", "dilations=[2,2],pads=[2,2,2,2]", "9", (3, 3))
    assert EnlargeKernel(to=5)(model).report.ok
    monkeypatch.setattr(padding.Window, "ints", wrong)
    with pytest.raises(NotEquivalentError):
        EnlargeKernel(to=5)(model)


BODIES = """g (float[1,3,8,8] x, bool c) => (float[1,3,8,8] y) {
  h = Conv<pads=[1,1,1,1]>(x, w0)
  t = If(c) <
    then_branch = yes () => (float[1,3,8,8] y1) {
      a1 = Conv<pads=[1,1,1,1]>(h, w1) b1 = Relu(a1) y1 = Conv<pads=[1,1,1,1]>(b1, w2) },
    else_branch = no () => (float[1,3,8,8] y2) { y2 = Conv<pads=[1,1,1,1]>(h, w0) }
  >
  y = Identity(t)
}"""
IN_BODIES = {"w0": (3, 3, 3, 3), "w1": (4, 3, 3, 3), "w2": (3, 4, 3, 3)}


@pytest.mark.parametrize("selector", [None, "t.then_branch/w1", "w1", "t.then_branch/a1", "*then*/w1"])
def test_kernels_in_bodies_grow(selector: str | None) -> None:
    result = onnxgrow.enlarge_kernel(model_of(BODIES, IN_BODIES), selector, to=5)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert {a.name for a in result.report.alive} == ({"w1"} if selector else {"w1", "w2"})
    assert all(a.alive == a.channels for a in result.report.alive)
    names = [k["name"] for k in result.plan["kernels"]]
    assert names == ["t.then_branch/w1", *([] if selector else ["t.then_branch/w2"])]
    skipped = result.plan["skipped"]
    assert skipped == ({} if selector else dict.fromkeys(("w0", "t.else_branch/w0"), "w0 is read by a subgraph, too"))


def test_a_fault_in_a_body_is_stopped_by_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_plan, "placed", lambda window, front, behind: {"pads": [3, 3, 1, 1]})
    with pytest.raises(NotEquivalentError):
        EnlargeKernel("w1", to=5)(model_of(BODIES, IN_BODIES))


ALIVE = {
    "all": ("p = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(p)", {"w": (4, 3, 3, 3)}, [("w", 16, 16)]),
    "behind global pooling": (
        "p = GlobalAveragePool(x)  y = Conv(p, w)",
        {"w": (4, 3, 1, 1)},
        [("w", 24, 0)],
    ),
    "a line of one": (
        "p = ReduceMean<axes=[3]>(x)  y = Conv(p, w)",
        {"w": (4, 3, 1, 1)},
        [("w", 24, 4)],
    ),
    "transposed": ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": (3, 4, 2, 2)}, [("w", 21, 21)]),
    "transposed, of one position": (
        "p = GlobalMaxPool(x)  y = ConvTranspose(p, w)",
        {"w": (3, 4, 1, 1)},
        [("w", 24, 0)],
    ),
    "nothing comes back": (
        "p = Conv<pads=[1,1,1,1]>(x, w)  q = Mul(p, zero)  y = Add(q, x)",
        {"w": (3, 3, 3, 3), "zero": np.float32(0)},
        [("w", 16, 0)],
    ),
}


@pytest.mark.parametrize("name", ALIVE)
def test_new_taps_that_can_learn_are_counted(name: str) -> None:
    nodes, weights, wanted = ALIVE[name]
    result = onnxgrow.enlarge_kernel(
        model_of(f"g (float[2,3,8,8] x) => (float[a,b,c,d] y) {{ {nodes} }}", weights), "w", to=5
    )
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert [(a.name, a.channels, a.alive) for a in result.report.alive] == wanted
    assert bool(result.report.notes) == (wanted[0][2] == 0)


def test_a_map_that_does_not_fit_a_kernel_is_a_fault_and_no_crash() -> None:
    model = conv("Conv", "pads=[1,1,1,1]", "8", (3, 3))
    grown = EnlargeKernel("w", to=5).grow(model)
    listed = grown.growth_map.tensors["w"]
    wrong = {2: listed.axes[2], 3: AxisMap((Segment(3, 0), Segment(9, fact="zero")))}
    seal(grown.model, replace(grown.growth_map, tensors={"w": replace(listed, axes=wrong)}))
    report = verify(model, grown.model, tiers=("accounting", "certificate", "alive"))
    assert report.verdict is onnxgrow.Verdict.NOT_EQUIVALENT
