"""Inserted residual blocks under verification: a branch that may contribute anything at all is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from residual_models import resnet, transformer
from support import model_of

from onnxgrow.concrete.infer import concretize
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import tensor_digest
from onnxgrow.passes import AddBlocks, CopyBlocks, GrowthPass
from onnxgrow.passes.base import seal
from onnxgrow.verify import alive_inserted
from onnxgrow.verify.certificate.branches import is_zero_branch
from onnxgrow.verify.certificate.ranges import REACH, Ranges
from onnxgrow.verify.certificate.side import Side
from onnxgrow.verify.judge import verify

Change = Callable[[ir.Model], None]


def grown(model: ir.Model, step: GrowthPass) -> tuple[ir.Model, GrowthMap]:
    made = step.grow(model)
    return made.model, made.growth_map


def findings(original: ir.Model, model: ir.Model, growth_map: GrowthMap) -> dict[str, list[str]]:
    """Tier → its findings, with the digests of what is there now: the faults must be seen by themselves."""
    held = model.graph.initializers
    tensors = {k: replace(t, sha256=tensor_digest(held[k].const_value)) for k, t in growth_map.tensors.items()}
    found = seal(model, replace(growth_map, tensors=tensors))
    report = verify(original, model, found, tiers=("accounting", "certificate"), provider="cpu")
    return {t.name: [f"{f.subject}: {f.reason}" for f in t.findings] for t in report.tiers[:2]}


def entry(name: str, index: tuple[int, ...], value: float) -> Change:
    def change(model: ir.Model) -> None:
        held = model.graph.initializers[name]
        assert held.const_value is not None
        values = np.array(held.const_value.numpy())
        values[index] = value
        held.const_value = ir.tensor(values, name=name)

    return change


def reads(key: str, index: int, name: str) -> Change:
    def change(model: ir.Model) -> None:
        values = {v.name: v for n in model.graph for v in n.outputs} | dict(model.graph.initializers.items())
        node = next(n for n in model.graph if n.outputs[0].name == key)
        node.replace_input_with(index, values[name])

    return change


TRANSFORMER = (transformer(), CopyBlocks(0))
CNN = (resnet(), CopyBlocks(0))
NORMED = (resnet(norm=True), CopyBlocks(0))
MLP = (
    model_of(
        "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u)  a = Relu(h)  y = MatMul(a, v) }",
        {"u": (4, 8), "v": (8, 3)},
    ),
    AddBlocks(),
)
FORMULA, NOT_ZERO = "not those of the formula", "neither term is proved to be zero"
FAULTS: dict[str, tuple[tuple[ir.Model, GrowthPass], Change, str, str]] = {
    "bias left in a block": (TRANSFORMER, entry("copy.b2_0", (3,), 1e-30), FORMULA, NOT_ZERO),
    "bias left in a conv": (CNN, entry("copy.vb0", (0,), 1e-30), FORMULA, NOT_ZERO),
    "shift left in a norm": (NORMED, entry("copy.be0", (1,), 1e-30), FORMULA, NOT_ZERO),
    "weight of the last layer": (TRANSFORMER, entry("copy.wo0", (2, 2), 1e-12), FORMULA, NOT_ZERO),
    "scale of the last norm": (NORMED, entry("copy.ga0", (0,), 1e-12), FORMULA, NOT_ZERO),
    "infinity inside": (TRANSFORMER, entry("copy.w1_0", (0, 0), np.inf), "", NOT_ZERO),
    "no number inside": (MLP, entry("a.mlp.expand.weight", (0, 0), np.nan), "not all finite", NOT_ZERO),
    "a copy that is none": (TRANSFORMER, entry("copy.wq0", (0, 0), 7.0), "", "bytes differ"),
    "the old weight instead": (TRANSFORMER, reads("copy.d0", 1, "w2_0"), "", NOT_ZERO),
    "the sum of something else": (TRANSFORMER, reads("copy.t0", 0, "s0"), "", "does not stand for 't0'"),
    "a ReLU of something else": (CNN, reads("copy.r0", 0, "copy.f0"), "", "does not stand for 'r0'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_inserted_blocks_are_found(fault: str) -> None:
    (original, step), change, accounting, certificate = FAULTS[fault]
    model, growth_map = grown(original, step)
    assert findings(original, model, growth_map) == {"accounting": [], "certificate": []}
    change(model)
    found = findings(original, model, growth_map)
    assert found["certificate"]
    if certificate != "bytes differ":
        assert any(certificate in line for line in found["certificate"])
    assert any(accounting in line for line in found["accounting"]) if accounting else True


def test_a_relu_where_none_was_is_no_identity() -> None:
    original = resnet(activation="{y} = Identity({x})")
    model, growth_map = grown(original, CopyBlocks(0))
    assert findings(original, model, growth_map) == {"accounting": [], "certificate": []}
    total = next(n for n in model.graph if n.outputs[0].name == "copy.s0")
    node = ir.Node("", "Relu", [total.outputs[0]], num_outputs=1)
    node.outputs[0].name = "bent"
    model.graph.insert_after(total, node)
    for reader, index in list(total.outputs[0].uses()):
        if reader is not node:
            reader.replace_input_with(index, node.outputs[0])
    growth_map = replace(growth_map, inserted=(*growth_map.inserted, "bent"))
    assert findings(original, model, growth_map)["certificate"]


def test_a_block_behind_zeros_is_dead() -> None:
    original, step = MLP
    model, growth_map = grown(original, step)
    entry("a.mlp.expand.weight", (slice(None),), 0.0)(model)  # type: ignore[arg-type]  # a slice indexes, too
    feeds = [{"x": np.ones((2, 4), np.float32)}]
    assert [a.alive for a in alive_inserted.check(model, growth_map, feeds)] == [0]


def branch(body: str, weights: dict[str, object] | None = None, **values: float) -> tuple[bool, Ranges]:
    """Whether z is a zero branch of x, in a net of one value x of shape (2, 4)."""
    held = {"zero": np.zeros((4, 4), np.float32), **{k: np.float32(v) for k, v in values.items()}, **(weights or {})}
    held = {k: v for k, v in held.items() if f"{k})" in body or f"{k}," in body}
    model = model_of(f"g (float[2,4] x) => (float[2,4] z) {{ {body} }}", held)
    ranges = Ranges(Side(model, concretize(model, {"x": (2, 4)})), lambda name: name in ("x", "mask"))
    return is_zero_branch(ranges, "z"), ranges


ZERO = {
    "plain": "z = MatMul(x, zero)",
    "moved": "a = MatMul(x, zero)  z = Transpose<perm=[1,0]>(a)",
    "masked softmax": "a = Add(x, mask)  p = Softmax(a)  z = MatMul(p, zero)",
    "norm, cubed": "n = LayerNormalization(x, one4)  c = Pow(n, three)  z = MatMul(c, zero)",
    "written-out norm": """
        m = ReduceMean<axes=[-1]>(x)  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean<axes=[-1]>(q)  e = Add(v, small)
        s = Sqrt(e)  n = Div(d, s)  z = MatMul(n, zero)""",
    "layer scale": "a = MatMul(x, w)  z = Mul(zero4, a)",
    "scaled": "a = MatMul(x, zero)  z = Mul(a, two)",
    "two zeros": "a = MatMul(x, zero)  b = MatMul(x, zero)  z = Add(a, b)",
}
NOT = {
    "a quotient by what may be 0": "a = Div(x, x)  z = MatMul(a, zero)",
    "a logarithm": "a = Log(x)  z = MatMul(a, zero)",
    "a root of what may be negative": "a = Sqrt(x)  z = MatMul(a, zero)",
    "an unbounded exponential": "a = Exp(x)  z = MatMul(a, zero)",
    "masked scores": "a = Add(x, mask)  z = MatMul(a, zero)",
    "a mask that was not there": "a = Add(x, other)  p = Softmax(a)  z = MatMul(p, zero)",
    "a norm without epsilon": "n = LayerNormalization<epsilon=0.0>(x, one4)  z = MatMul(n, zero)",
    "something behind the zeros": "a = MatMul(x, zero)  z = Cos(a)",
    "a bias": "a = MatMul(x, zero)  z = Add(a, two)",
    "a factor of zeros on a power": "a = Pow(x, three)  z = Mul(zero4, a)",
    "a factor that is no number": "a = MatMul(x, zero)  z = Mul(a, infinite)",
    "a weight": "z = MatMul(x, w)",
}
HELD: dict[str, object] = {
    "mask": np.array([0, 0, -np.inf, -np.inf], np.float32),
    "other": np.full(4, -np.inf, np.float32),
    "one4": np.ones(4, np.float32),
    "zero4": np.zeros(4, np.float32),
    "w": (4, 4),
    "infinite": np.float32(np.inf),
}
NUMBERS = {"two": 2.0, "three": 3.0, "small": 1e-5}


@pytest.mark.parametrize("case", ZERO)
def test_zero_branches_are_proved(case: str) -> None:
    assert branch(ZERO[case], HELD, **NUMBERS)[0]


@pytest.mark.parametrize("case", NOT)
def test_what_may_be_anything_else_is_not_proved(case: str) -> None:
    assert not branch(NOT[case], HELD, **NUMBERS)[0]


def test_ranges_are_those_of_the_arithmetic() -> None:
    body = "a = Relu(x)  b = Tanh(x)  c = MatMul(b, w)  d = Clip(x, low, high)  e = Sub(b, two)  z = Add(c, d)"
    weight = np.array([[1, -2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    ranges = branch(body, {"w": weight}, low=-1.0, high=5.0, two=2.0)[1]
    assert ranges.of("a") == (0.0, REACH)
    assert ranges.of("c") == (-6.0, 6.0)
    assert ranges.of("z") == (-7.0, 11.0)
    assert ranges.of("e") == (-3.0, -1.0)
