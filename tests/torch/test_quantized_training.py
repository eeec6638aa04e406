from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support import model_of

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

from onnxgrow.torch import OnnxModule  # noqa: E402 # only where PyTorch is installed

torch.set_num_threads(1)

PAIRS = """g (float[N,4] x) => (float[N,3] y) {
    qx = QuantizeLinear(x, sx, zx)  dx = DequantizeLinear(qx, sx, zx)
    qw = QuantizeLinear(w, sw, zw)  tw = Transpose(qw)  dw = DequantizeLinear<axis = 1>(tw, sw, zw)
    m = MatMul(dx, dw)  y = Add(m, b) }"""
WEIGHTS = {
    "w": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "b": np.array([0.5, -0.25, 2], np.float32),
    "sx": np.float32(0.02),
    "zx": np.uint8(117),
    "zw": np.zeros(3, np.int8),
}
WEIGHTS["sw"] = np.abs(WEIGHTS["w"]).max(axis=1) / np.float32(127)
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
PER_ROW = PAIRS.replace("QuantizeLinear(w", "QuantizeLinear<axis = 0>(w")


def module_and_model():
    model = model_of(PER_ROW, WEIGHTS)
    return OnnxModule(model), model


def runtime(proto, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def by_pytorch(x, w):
    """The same network with PyTorch's own quantisation-aware rounding."""
    dx = torch.fake_quantize_per_tensor_affine(x, 0.02, 117, 0, 255)
    zeros = torch.zeros(3, dtype=torch.int32)
    dw = torch.fake_quantize_per_channel_affine(w, torch.from_numpy(WEIGHTS["sw"]), zeros, 0, -128, 127)
    return dx @ dw.t() + torch.from_numpy(WEIGHTS["b"])


@pytest.mark.parametrize("typed", [False, True])
def test_weights_behind_pairs_are_trained_and_scales_are_not(typed):
    _, model = module_and_model()
    if typed:
        model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    coverage = OnnxModule(model).coverage
    assert coverage.trained == ("w", "b")
    assert coverage.frozen == {"sw": "a scale of quantisation"}


def test_the_gradient_goes_straight_through_as_in_quantisation_aware_training():
    module, _ = module_and_model()
    x = torch.from_numpy(X).requires_grad_()
    w = torch.from_numpy(WEIGHTS["w"]).requires_grad_()
    x.data[0, :2] = torch.tensor([100.0, -100.0])  # out of range: no gradient
    module(x).square().sum().backward()
    got, x.grad = x.grad.clone(), None
    by_pytorch(x, w).square().sum().backward()
    assert torch.allclose(got, x.grad, rtol=1e-5)
    assert (got[0, :2] == 0).all()
    assert got[1:].all()
    trained = dict(module.named_onnx_parameters())["w"].grad
    assert torch.allclose(trained, w.grad, rtol=1e-5)
    assert trained.all(), "the largest entry of a row is in range, however its quotient was rounded"


def test_forward_before_and_after_a_step_is_what_onnx_runtime_computes():
    module, _ = module_and_model()
    x = torch.from_numpy(X)
    before = runtime(module.to_onnx(), X)
    assert np.allclose(before, module(x).detach(), atol=1e-6)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).square().mean().backward()
    optimizer.step()
    after = runtime(module.to_onnx(), X)
    assert np.allclose(after, module(x).detach(), atol=1e-6)
    assert not np.allclose(after, before, atol=1e-3)


def test_integers_that_something_else_reads_stay_integers_and_the_weight_is_not_trained():
    graph = PER_ROW.replace("(float[N,3] y)", "(float[N,3] y, int8[3,4] qw)")
    module = OnnxModule(model_of(graph, WEIGHTS))
    assert module.coverage.frozen["w"] == "no gradient passes the integers of QuantizeLinear"
    y, qw = module(torch.from_numpy(X))
    assert qw.dtype == torch.int8
    assert np.array_equal(qw, np.rint(WEIGHTS["w"] / WEIGHTS["sw"][:, None]).astype(np.int8))
    assert np.allclose(y.detach(), module_and_model()[0](torch.from_numpy(X)).detach(), atol=1e-6)
