"""LSTM, GRU and RNN in float64, with sequence lengths, clipping, activations and both layouts.

Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html, …GRU.html, …RNN.html . The reference implementation leaves
sequence lengths, activations and clipping out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxgrow.verify.float64.kernels.activation import sigmoid
from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []

Function = Callable[[Array], Array]

_PLAIN: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(0, x),
}
_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2, "elu": 1.0}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}


def _activation(name: str, alpha: float, beta: float) -> Function:
    shaped: dict[str, Function] = {
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: np.where(x < 0, alpha * x, x),
        "thresholdedrelu": lambda x: np.where(x > alpha, x, 0.0),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "hardsigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    }
    return shaped[name]


def _activations(call: Call, defaults: Sequence[str], directions: int) -> list[list[Function]]:
    """Per direction, the functions f, g (and h)."""
    names = [n.lower() for n in call.attr("activations") or list(defaults) * directions]
    alphas, betas = list(call.attr("activation_alpha") or ()), list(call.attr("activation_beta") or ())
    found: list[Function] = []
    for name in names:
        if name in _PLAIN:
            found.append(_PLAIN[name])
        elif name in _ALPHA:
            # the lists hold entries only for the functions that take them, in their order
            alpha = alphas.pop(0) if alphas else _ALPHA[name]
            beta = (betas.pop(0) if betas else _BETA[name]) if name in _BETA else 0.0
            found.append(_activation(name, alpha, beta))
        else:
            raise call.unsupported(f"activation {name!r} is unknown")
    per = len(defaults)
    return [found[i * per : (i + 1) * per] for i in range(directions)]


@dataclass(frozen=True)
class _Layer:
    """Weights of one direction: rows of ``w`` and ``r`` are gates × hidden."""

    w: Array
    r: Array
    wb: Array
    rb: Array
    p: Array
    functions: list[Function]
    clip: Function


Step = Callable[[_Layer, Array, Array, Array, Call], tuple[Array, Array]]


def _run(call: Call, gates: int, defaults: Sequence[str], step: Step, peepholes: int = 0) -> tuple[Array, Array, Array]:
    """All directions over all time steps: Y (T, directions, batch, H), last hidden and cell states."""
    x, w, r, b, lengths, h0 = (call.input(i) for i in range(6))
    c0, p = (call.input(6), call.input(7)) if peepholes else (None, None)
    batch_first = bool(call.attr("layout", 0))
    if batch_first:
        x = x.swapaxes(0, 1)
        h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
    steps, batch = x.shape[:2]
    directions, hidden = r.shape[0], r.shape[2]
    b = np.zeros((directions, 2 * gates * hidden)) if b is None else b
    p = np.zeros((directions, peepholes * hidden)) if p is None else p
    zeros = np.zeros((directions, batch, hidden))
    h0, c0 = (zeros if s is None else s for s in (h0, c0))
    lengths = np.full(batch, steps) if lengths is None else lengths
    limit = call.attr("clip")
    clip: Function = (lambda v: v) if limit is None else (lambda v: np.clip(v, -limit, limit))
    functions = _activations(call, defaults, directions)
    direction = call.attr("direction", "forward")
    y = np.zeros((steps, directions, batch, hidden))
    h_last, c_last = np.array(h0, np.float64), np.array(c0, np.float64)
    for d in range(directions):
        half = gates * hidden
        layer = _Layer(w[d], r[d], b[d, :half], b[d, half:], p[d], functions[d], clip)
        backward = direction == "reverse" or d == 1
        h, c = h_last[d], c_last[d]
        for t in range(steps):
            live = t < lengths
            # a sequence runs backwards from its own end, not from the end of the padding
            place = np.where(live, lengths - 1 - t, t) if backward else np.full(batch, t)
            new_h, new_c = step(layer, x[place, np.arange(batch)], h, c, call)
            h, c = np.where(live[:, None], new_h, h), np.where(live[:, None], new_c, c)
            y[place, d, np.arange(batch)] = np.where(live[:, None], h, 0.0)
        h_last[d], c_last[d] = h, c
    if batch_first:
        return y.transpose(2, 0, 1, 3), h_last.swapaxes(0, 1), c_last.swapaxes(0, 1)
    return y, h_last, c_last


def _lstm_step(layer: _Layer, x: Array, h: Array, c: Array, call: Call) -> tuple[Array, Array]:
    f, g, out = layer.functions
    size = h.shape[1]
    pre = x @ layer.w.T + h @ layer.r.T + layer.wb + layer.rb
    i, o, forget, cell = (pre[:, k * size : (k + 1) * size] for k in range(4))
    pi, po, pf = (layer.p[k * size : (k + 1) * size] for k in range(3))
    i = f(layer.clip(i + pi * c))
    forget = 1 - i if call.attr("input_forget", 0) else f(layer.clip(forget + pf * c))
    new_c = forget * c + i * g(layer.clip(cell))
    o = f(layer.clip(o + po * new_c))
    return o * out(layer.clip(new_c) if call.attr("clip") is not None else new_c), new_c


def _gru_step(layer: _Layer, x: Array, h: Array, c: Array, call: Call) -> tuple[Array, Array]:
    f, g = layer.functions
    size = h.shape[1]
    both = slice(0, 2 * size)
    pre = x @ layer.w[both].T + h @ layer.r[both].T + layer.wb[both] + layer.rb[both]
    z, reset = f(layer.clip(pre[:, :size])), f(layer.clip(pre[:, size:]))
    w, r, wb, rb = (m[2 * size :] for m in (layer.w, layer.r, layer.wb, layer.rb))
    if call.attr("linear_before_reset", 0):
        candidate = x @ w.T + reset * (h @ r.T + rb) + wb
    else:
        candidate = x @ w.T + (reset * h) @ r.T + rb + wb
    return (1 - z) * g(layer.clip(candidate)) + z * h, c


def _rnn_step(layer: _Layer, x: Array, h: Array, c: Array, call: Call) -> tuple[Array, Array]:
    pre = x @ layer.w.T + h @ layer.r.T + layer.wb + layer.rb
    return layer.functions[0](layer.clip(pre)), c


@kernel("LSTM")
def _lstm(call: Call) -> tuple[Array, ...]:
    return _run(call, 4, ("sigmoid", "tanh", "tanh"), _lstm_step, peepholes=3)


@kernel("GRU")
def _gru(call: Call) -> tuple[Array, ...]:
    return _run(call, 3, ("sigmoid", "tanh"), _gru_step)[:2]


@kernel("RNN")
def _rnn(call: Call) -> tuple[Array, ...]:
    return _run(call, 1, ("tanh",), _rnn_step)[:2]
