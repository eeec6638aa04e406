"""Weights written as a ConstantOfShape: one number in the file, trained entry by entry."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support import model_of, run

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

import onnxgrow  # noqa: E402 # only where PyTorch is installed
from onnxgrow.torch import OnnxModule, new_entries  # noqa: E402

torch.set_num_threads(1)

X = np.random.default_rng(3).normal(size=(2, 2, 5, 5)).astype(np.float32)
NORMED = """g (float[N,2,5,5] x) => (float[N,4,5,5] y) {
    w = ConstantOfShape<value = float[1] {0.1}>(ws)  c = Conv<pads: ints = [1,1,1,1]>(x, w, b)
    mean = ConstantOfShape(s)  one = ConstantOfShape<value = float[1] {1.0}>(s)
    y = BatchNormalization<momentum: float = 0.5>(c, one, b, mean, one) }"""
WEIGHTS = {"ws": np.array([4, 2, 3, 3]), "s": np.array([4]), "b": (4,)}


def trained(module: OnnxModule) -> OnnxModule:
    module.train()
    module(torch.from_numpy(X)).square().mean().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    return module.eval()


def is_what_runtime_computes(module: OnnxModule) -> bool:
    (found,) = run(ir.from_proto(module.to_onnx()), {"x": X})
    return bool(np.allclose(found, module(torch.from_numpy(X)).detach().numpy(), rtol=0, atol=1e-5))


@pytest.mark.parametrize(
    "weights",
    [{}, {"ir_version": 3, "as_inputs": True}, {"as_nodes": True}],
    ids=["initializers", "inputs", "nodes"],
)
def test_filled_weights_are_trained_and_written_back_under_their_names(weights):
    model = model_of(NORMED, WEIGHTS, opset=9, **weights)
    module = OnnxModule(model)
    assert set(module.state_dict()) == {"b", "w", "mean", "one", "one@y"}
    assert module.coverage.frozen == {}
    assert is_what_runtime_computes(trained(module))
    written = OnnxModule(module.to_onnx())
    for key, value in module.state_dict().items():
        assert torch.equal(written.state_dict()[key], value), key
    assert len(module.get_parameter("w").unique()) > 1
    names = {i.name for i in module.to_onnx().graph.input}
    assert names == {i.name for i in ir.to_proto(model).graph.input}, "no new inputs"


def test_what_was_not_trained_stays_one_number():
    module = OnnxModule(model_of(NORMED, WEIGHTS), frozen=["w"])
    assert [n.op_type for n in module.to_onnx().graph.node].count("ConstantOfShape") == 3
    assert module.coverage.frozen == {"w": "it was asked for"}
    with torch.no_grad():
        module.get_buffer("one").mul_(2)
    kinds = {n.output[0]: n.op_type for n in module.to_onnx().graph.node}
    assert kinds["w"] == kinds["mean"] == "ConstantOfShape"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("offset", "z = ConstantOfShape(s)  h = MatMul(x, v)  y = Add(h, z)"),
        ("factor", "z = ConstantOfShape<value = float[1] {2.0}>(s)  u = Mul(x, z)  y = MatMul(u, v)"),
        ("padding", "z = ConstantOfShape(s)  p = Concat<axis: int = 0>(x, z)  y = MatMul(p, v)"),
        ("cache", "z = ConstantOfShape(s)  p = Concat<axis: int = 0>(z, v)  y = MatMul(x, p)"),
        ("scattered", "z = ConstantOfShape(s)  w = ScatterElements<axis: int = 0>(z, i, v)  y = MatMul(x, w)"),
        ("shape of data", "n = Shape(x)  z = ConstantOfShape(n)  h = MatMul(x, v)  y = MatMul(h, z)"),
    ],
    ids=lambda value: value if " = " not in value else "",
)
def test_numbers_that_a_network_computes_with_are_not_trained(name, body):
    rows = {"padding": (2, 4), "cache": (2, 2), "scattered": (4, 4)}.get(name, (1, 4))  # of the fill, of the weight
    weights = {"s": np.array([rows[0], 4]), "v": (rows[1], 4), "i": np.arange(16).reshape(4, 4) % 4}
    model = model_of(f"g (float[4,4] x) => (float[n,4] y) {{ {body} }}", weights)
    assert set(OnnxModule(model).coverage.trained) == {"v"}


def test_one_that_is_given_out_too_becomes_a_node():
    body = "w = ConstantOfShape<value = float[1] {0.1}>(ws)  y = MatMul(x, w)"
    model = model_of(f"g (float[N,5] x) => (float[N,3] y, float[5,3] w) {{ {body} }}", {"ws": np.array([5, 3])})
    module = OnnxModule(model)
    with torch.no_grad():
        module.get_parameter("w").copy_(torch.arange(15.0).reshape(5, 3))
    proto = module.to_onnx()
    assert {n.output[0]: n.op_type for n in proto.graph.node}["w"] == "Constant"
    found, weight = run(ir.from_proto(proto), {"x": X[0, 0]})
    assert np.array_equal(weight, np.arange(15.0).reshape(5, 3))
    assert np.allclose(found, X[0, 0] @ weight, atol=1e-5)


def test_what_a_growth_adds_to_them_is_new():
    text = """g (float[N,2,5,5] x) => (float[N,3,3,3] y) {
        w = ConstantOfShape<value = float[1] {0.1}>(ws)  c = Conv(x, w, b)  r = Relu(c)  y = Conv(r, v) }"""
    model = model_of(text, {"ws": np.array([4, 2, 3, 3]), "b": (4,), "v": (3, 4, 1, 1)})
    masks = new_entries(OnnxModule(onnxgrow.widen(model, add=2).model))
    assert sorted(int(mask.sum()) for mask in masks.values()) == [2, 6, 36]
