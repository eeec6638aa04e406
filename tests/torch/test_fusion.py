"""Chains that become one kernel compute what the nodes do, and stay apart where somebody reads between them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import model_of, run

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

from onnxgrow.torch import OnnxModule  # noqa: E402 # only where PyTorch is installed

torch.set_num_threads(1)

ROOT = np.float32(2**0.5)
NUMBERS = {
    "root": ROOT,
    "inverse": 1 / ROOT,
    "one": np.float32(1),
    "two": np.float32(2),
    "three": np.float32(3),
    "four": np.float32(4),
    "half": np.float32(0.5),
    "beta": np.float32((2 / np.pi) ** 0.5),
    "kappa": np.float32(0.044715),
    "eps": np.float32(1e-3),
    "last": np.array([3], np.int64),
    "end": np.array([9], np.int64),
}
X = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
TURN = "k = Transpose<perm = [0, 1, 3, 2]>(x)  "
SOFT = "a = Softmax<axis = -1>(t)  y = MatMul(a, x)"
SIZE = "z = Shape(x)  l = Slice(z, last, end)  f = Cast<to: int = 1>(l)  r = Sqrt(f)  "
MEAN = "m = ReduceMean<axes = [-1]>(x)  c = Sub(x, m)  "
NORM = MEAN + "s = Pow(c, two)  v = ReduceMean<axes = [-1]>(s)  e = Add(v, eps)  r = Sqrt(e)  "
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
    ("attention, scaled", TURN + "s = MatMul(x, k)  t = Mul(half, s)  " + SOFT, {}, 2),
    ("attention, divided", TURN + "s = MatMul(x, k)  t = Div(s, root)  " + SOFT, {}, 2),
    ("attention with a mask", TURN + "s = MatMul(x, k)  u = Div(s, root)  t = Add(u, w)  " + SOFT,
     {"w": (2, 1, 1, 4)}, 2),
    ("attention with a mask first", TURN + "s = MatMul(x, k)  t = Add(w, s)  " + SOFT, {"w": (4, 4)}, 2),
    ("attention with a mask of an axis", TURN + "s = MatMul(x, k)  t = Add(w, s)  " + SOFT, {"w": (4,)}, 2),
    ("attention scaled on both sides", TURN + "p = Mul(x, half)  q = Mul(k, inverse)  t = MatMul(p, q)  " + SOFT,
     {}, 2),
    ("attention scaled by sizes", SIZE + TURN + "s = MatMul(x, k)  t = Div(s, r)  " + SOFT, {}, 6),
    ("q scaled by sizes", SIZE + TURN + "p = Mul(x, r)  t = MatMul(p, k)  " + SOFT, {}, 6),
    ("q scaled by several sizes", "z = Shape(x)  f = Cast<to: int = 1>(z)  r = Sqrt(f)  " + TURN
     + "p = Mul(x, r)  t = MatMul(p, k)  " + SOFT, {}, 5),
    ("attention by a computed factor", "m = ReduceMean(x)  " + TURN + "s = MatMul(x, k)  t = Mul(s, m)  " + SOFT,
     {}, 6),
    ("scores read twice", TURN + "s = MatMul(x, k)  a = Softmax<axis = -1>(s)  z = MatMul(a, x)  y = Add(z, s)", {}, 5),
    ("softmax over the last axis by default", TURN + "s = MatMul(x, k)  a = Softmax(s)  y = MatMul(a, x)", {}, 2),
    ("weights cast to their own type", TURN + "s = MatMul(x, k)  a = Softmax<axis = -1>(s)  b = Identity(a)  "
     "y = MatMul(b, x)", {}, 2),
    ("layer norm", NORM + "y = Div(c, r)", {}, 1),
    ("layer norm, scaled and shifted", NORM + "n = Div(c, r)  t = Mul(n, w)  y = Add(t, b)", {"w": (4,), "b": (4,)}, 1),
    ("layer norm, scaled", NORM + "n = Div(c, r)  y = Mul(w, n)", {"w": (4,)}, 1),
    ("layer norm, shifted", NORM + "n = Div(c, r)  y = Add(n, b)", {"b": (4,)}, 1),
    ("layer norm of single numbers", NORM + "n = Div(c, r)  t = Mul(n, w)  y = Add(t, b)", {"w": (1,), "b": (4,)}, 1),
    ("layer norm, twice subtracted", NORM + "m2 = ReduceMean<axes = [3]>(x)  c2 = Sub(x, m2)  y = Div(c2, r)", {}, 1),
    ("layer norm, squared by itself", NORM.replace("Pow(c, two)", "Mul(c, c)") + "y = Div(c, r)", {}, 1),
    ("a third power is no variance", NORM.replace("two", "four") + "y = Div(c, r)", {}, 7),
    ("another axis is no layer norm", NORM.replace("[-1]", "[1]") + "y = Div(c, r)", {}, 7),
    ("a mean without its axis", NORM.replace("ReduceMean<axes = [-1]>(s)", "ReduceMean<axes = [-1], keepdims = 0>(s)")
     .replace("e = Add(v, eps)", "o = Unsqueeze(v, last)  e = Add(o, eps)") + "y = Div(c, r)", {}, 8),
    ("a deviation that is read", NORM + "n = Div(c, r)  y = Add(n, c)", {}, 8),
    ("SiLU", "s = Sigmoid(x)  y = Mul(x, s)", {}, 1),
    ("a gate of something else", "n = Neg(x)  s = Sigmoid(n)  y = Mul(x, s)", {}, 3),
    ("Mish", "p = Softplus(x)  t = Tanh(p)  y = Mul(x, t)", {}, 1),
    ("HardSwish", "s = HardSigmoid<alpha = 0.16666667>(x)  y = Mul(s, x)", {}, 1),
    ("another slope is no HardSwish", "s = HardSigmoid<alpha = 0.2>(x)  y = Mul(s, x)", {}, 2),
    *[(f"GELU by tanh, cube as {name}", cube + "k = Mul(kappa, c)  a = Add(x, k)  b = Mul(beta, a)  t = Tanh(b)  "
       "p = Add(one, t)  m = Mul(half, x)  y = Mul(m, p)", {}, 1)
      for name, cube in (("power", "c = Pow(x, three)  "), ("products", "q = Mul(x, x)  c = Mul(q, x)  "),
                         ("square", "q = Pow(x, two)  c = Mul(x, q)  "))],
    ("another cube is no GELU", "c = Pow(x, two)  k = Mul(kappa, c)  a = Add(x, k)  b = Mul(beta, a)  t = Tanh(b)  "
     "p = Add(one, t)  m = Mul(half, x)  y = Mul(m, p)", {}, 8),
]  # fmt: skip


def chain(body, weights):
    body_weights = {k: v for k, v in {**NUMBERS, **weights}.items() if re.search(rf"[(,] ?{k}[,)]", body)}
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
