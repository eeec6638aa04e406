"""Chains that become one kernel compute what the nodes do, and stay apart where somebody reads between them."""

from __future__ import annotations

import numpy as np
import pytest
from support import model_of, run

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

from onnxgrow.torch import OnnxModule  # noqa: E402 # only where PyTorch is installed

torch.set_num_threads(1)

ROOT = np.float32(2**0.5)
NUMBERS = {"root": ROOT, "inverse": 1 / ROOT, "one": np.float32(1), "half": np.float32(0.5)}
X = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
ERF = "d = Div(x, root)  e = Erf(d)  p = Add(e, one)  "

# name, nodes that make y of x, weights, steps: one each for what is fused
CHAINS = [
    ("x times half last", ERF + "m = Mul(x, p)  y = Mul(m, half)", {}, 1),
    ("half of x first", ERF + "h = Mul(half, x)  y = Mul(h, p)", {}, 1),
    ("multiplied by the inverse root", "d = Mul(x, inverse)  e = Erf(d)  p = Add(one, e)  m = Mul(x, p)  "
     "y = Mul(half, m)", {}, 1),
    ("another root is no GELU", "d = Div(x, half)  e = Erf(d)  p = Add(e, one)  m = Mul(x, p)  y = Mul(m, half)",
     {}, 5),
    ("read in between", ERF + "m = Mul(x, p)  g = Mul(m, half)  y = Add(g, e)", {}, 6),
    ("linear", "m = MatMul(x, w)  y = Add(m, b)", {"w": (4, 5), "b": (5,)}, 1),
    ("linear, bias first", "m = MatMul(x, w)  y = Add(b, m)", {"w": (4, 5), "b": (5,)}, 1),
    ("linear, transposed", "t = Transpose<perm = [1, 0]>(w)  m = MatMul(x, t)  y = Add(m, b)",
     {"w": (5, 4), "b": (5,)}, 1),
    ("a bias of several axes", "m = MatMul(x, w)  y = Add(m, b)", {"w": (4, 5), "b": (3, 1, 5)}, 2),
    ("a product read twice", "m = MatMul(x, w)  a = Add(m, b)  y = Mul(a, m)", {"w": (4, 5), "b": (5,)}, 3),
    ("attention", "k = Transpose<perm = [0, 1, 3, 2]>(x)  s = MatMul(x, k)  a = Softmax<axis = -1>(s)  "
     "y = MatMul(a, x)", {}, 2),
    ("softmax over another axis", "k = Transpose<perm = [0, 1, 3, 2]>(x)  s = MatMul(x, k)  a = Softmax<axis = 1>(s)  "
     "y = MatMul(a, x)", {}, 4),
    ("attention of one batch for all", "s = MatMul(x, w)  a = Softmax<axis = -1>(s)  y = MatMul(a, w)",
     {"w": (4, 4)}, 1),
]  # fmt: skip


def chain(body, weights):
    body_weights = {k: v for k, v in {**NUMBERS, **weights}.items() if f"({k}" in body or f", {k})" in body}
    return model_of(f"g (float[2,3,4,4] x) => (float[A,B,C,D] y) {{ {body} }}", body_weights)


@pytest.mark.parametrize(("body", "weights", "steps"), [c[1:] for c in CHAINS], ids=[c[0] for c in CHAINS])
def test_chains_compute_what_their_nodes_do(body, weights, steps):
    model = chain(body, weights)
    module = OnnxModule(model)
    program = module._source.program.block.steps
    assert len(program) == steps, [step.kernel for step in program]
    got = module(torch.from_numpy(X)).detach().numpy()
    wanted = run(model, {"x": X})[0]
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_gradients_pass_a_fused_chain():
    body = "t = Transpose<perm = [1, 0]>(w)  m = MatMul(x, t)  x2 = Add(m, b)  "
    body += ERF.replace("(x,", "(x2,") + "g = Mul(x2, p)  y = Mul(g, half)"
    module = OnnxModule(chain(body, {"w": (4, 4), "b": (4,)})).double()
    assert len(module._source.program.block.steps) == 2
    x = torch.from_numpy(X).double().requires_grad_()
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)
    module(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_a_trained_number_stays_a_parameter():
    model = chain(ERF + "m = Mul(x, p)  y = Mul(m, half)", {})
    module = OnnxModule(model, trainable=["half"])
    assert module.coverage.trained == ("half",)
    module(torch.from_numpy(X)).sum().backward()
    assert next(module.parameters()).grad is not None
