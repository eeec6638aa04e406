"""New residual blocks: an MLP, a bottleneck, a separable convolution; zero at first, alive, and the same every time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from residual_models import resnet
from support import model_of

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.io import tensor_digest
from onnxgrow.passes import AddBlocks
from onnxgrow.passes.blocks import freeze_list
from onnxgrow.verify.report import Verdict

MLP = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u)  a = Relu(h)  y = MatMul(a, v) }"
SEQUENCE = "g (float[n,t,4] x) => (float[n,t,3] y) { h = MatMul(x, u)  a = Tanh(h)  y = MatMul(a, v) }"
VOLUME = "g (float[2,3,4,5,6] x) => (float[2,2,4,5,6] y) { h = Conv(x, u)  a = Relu(h)  y = Conv(a, v) }"
LINEAR = {"u": (4, 8), "v": (8, 3)}
VOLUMES = {"u": (4, 3, 1, 1, 1), "v": (2, 4, 1, 1, 1)}
GELU = ["Mul", "Erf", "Mul", "Add", "Mul"]

BLOCKS = {
    "features": (model_of(MLP, LINEAR), {}, ["Gemm", *GELU, "Gemm", "Add"]),
    "sequence": (model_of(SEQUENCE, LINEAR), {}, ["MatMul", "Add", *GELU, "MatMul", "Add", "Add"]),
    "pixels": (resnet(1), {"at": "r"}, ["Conv", *GELU, "Conv", "Add"]),
    "bottleneck": (resnet(1), {"block": "bottleneck", "at": "r0"}, ["Conv", "Relu", "Conv", "Relu", "Conv", "Add"]),
    "separable": (resnet(1), {"block": "separable", "at": "r", "kernel": (5, 2)}, ["Conv", "Relu", "Conv", "Add"]),
    "volume": (model_of(VOLUME, VOLUMES), {"block": "separable"}, ["Conv", "Relu", "Conv", "Add"]),
    "old opset": (model_of(MLP, LINEAR, opset=8, ir_version=3, as_inputs=True), {}, ["Gemm", "Relu", "Gemm", "Add"]),
    "another activation": (model_of(MLP, LINEAR), {"activation": "silu"}, ["Gemm", "Sigmoid", "Mul", "Gemm", "Add"]),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_are_inserted_and_proved(case: str) -> None:
    model, options, ops = BLOCKS[case]
    result = AddBlocks(**options)(model)
    assert result.report.verdict is Verdict.EQUIVALENT
    made = [n.op_type for n in result.model.graph if n.outputs[0].name in result.growth_map.inserted]
    assert [op for op in made if op != "Constant"] == ops
    assert result.report.alive
    assert all(a.alive for a in result.report.alive)
    formulas = [t.formula for t in result.growth_map.tensors.values()]
    assert formulas.count("drawn") == len([op for op in ops if op in ("Conv", "Gemm", "MatMul")]) - 1


def test_declared_shapes_follow_the_channels_inside() -> None:
    model = resnet(1)
    for node in model.graph:
        for value in node.outputs:
            if value.name != "y":
                value.shape, value.type = ir.Shape(["n", 4, 6, 6]), ir.TensorType(ir.DataType.FLOAT)
    result = AddBlocks("bottleneck", "r", ratio=0.5)(model)
    shapes = {n.outputs[0].name: n.outputs[0].shape for n in result.model.graph}
    assert shapes["r.bottleneck/reduce"] == ["n", 2, 6, 6]
    assert shapes["r.bottleneck/expand"] == shapes["r.bottleneck/sum"] == ["n", 4, 6, 6]


def test_draws_are_the_same_every_time_and_others_with_another_seed_or_generation() -> None:
    def digest(model: ir.Model, name: str = "a.mlp.expand.weight", **options: int) -> str:
        grown = AddBlocks(at="a", **options).grow(model)
        return tensor_digest(grown.model.graph.initializers[name].const_value)

    model = model_of(MLP, LINEAR)
    first = digest(model)
    assert digest(model) == first
    assert digest(model, seed=1) != first
    again = AddBlocks(at="a")(model).model
    assert digest(again, "a.mlp.expand.weight_2") != first


def test_the_freeze_list_tells_old_from_new() -> None:
    result = AddBlocks(at="a")(model_of(MLP, LINEAR))
    listed = freeze_list(result.model, result.growth_map)
    assert listed["frozen"] == ["u", "v"]
    assert listed["trainable"] == [f"a.mlp.{n}.{p}" for n in ("expand", "project") for p in ("weight", "bias")]


def test_hidden_channels_follow_the_ratio() -> None:
    plan = AddBlocks(at="a", ratio=0.5).plan(model_of(MLP, LINEAR)).to_json()
    assert [layer["hidden"] for layer in plan["layers"]] == [4]
    assert plan["parameters"] == {"old": 56, "new": 56 + 2 * 8 * 4 + 4 + 8}


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"block": "cube"}, UsageError, "is unknown"),
        ({"block": "separable", "ratio": 2.0}, UsageError, "no hidden channels of its own"),
        ({"ratio": 0.0}, UsageError, "no positive number"),
        ({"kernel": 0}, UsageError, "no kernel size"),
        ({"seed": 0.5}, UsageError, "no whole number"),
        ({"at": "a", "every": 2}, UsageError, "places are named"),
        ({"at": "nothing"}, UsageError, "matches this selector"),
        ({"at": "y"}, UnsupportedError, "output of the network"),
        ({"block": "bottleneck", "at": "a"}, UnsupportedError, "needs channels on axis 1"),
    ],
)
def test_what_cannot_be_done_has_a_reason(options: dict[str, object], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        AddBlocks(**options).plan(model_of(MLP, LINEAR))


def test_half_precision_blocks_have_its_dtype() -> None:
    weights = {k: np.random.default_rng(0).normal(size=s).astype(np.float16) for k, s in LINEAR.items()}
    result = AddBlocks()(model_of(SEQUENCE.replace("float", "float16"), weights))
    assert result.report.verdict is Verdict.EQUIVALENT
    dtypes = {result.model.graph.initializers[n].dtype for n in result.growth_map.tensors}
    assert dtypes == {ir.DataType.FLOAT16}
