"""Recurrent layers: forward, reverse and both; ``layout`` 0 and 1. Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html

Standard layers are handed to PyTorch's own (fused) ones, with the gates brought into its order; anything else (other
activations, clipping, peepholes, sequence lengths) is unrolled step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []

Function = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]

_ACTIVATIONS: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": torch.nn.functional.softsign,
    "softplus": torch.nn.functional.softplus,
}
# ONNX orders gates i o f c (LSTM) and z r h (GRU), PyTorch i f c o and r z n.
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


@dataclass(frozen=True)
class _Layer:
    """Attributes of a node, per direction where they are."""

    kind: str
    directions: tuple[bool, ...]  # whether reversed
    functions: tuple[tuple[Function, ...], ...]
    standard: bool
    clip: float | None
    batch_first: bool
    linear_before_reset: bool
    couple: bool


def _layer(op: NodeSpec) -> _Layer:
    kind = op.node.op_type.removeprefix("DynamicQuantize")
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
        op.attr("direction", "forward")
    ]
    default = _DEFAULTS[kind]
    names = tuple(n.lower() for n in op.attr("activations") or default * len(directions))
    unknown = [n for n in names if n not in _ACTIVATIONS]
    if unknown:
        op.fail(f"activation {unknown[0]}")
    each = [names[i * len(default) : (i + 1) * len(default)] for i in range(len(directions))]
    usual = all(n == default for n in each) or (kind == "RNN" and all(n == ("relu",) for n in each))
    before_reset = bool(op.attr("linear_before_reset", 0))
    standard = usual and op.attr("clip") is None and not op.attr("input_forget", 0) and (kind != "GRU" or before_reset)
    return _Layer(
        kind,
        directions,
        tuple(tuple(_ACTIVATIONS[n] for n in names) for names in each),
        standard,
        op.attr("clip"),
        bool(op.attr("layout", 0)),
        before_reset,
        bool(op.attr("input_forget", 0)),
    )


@register("LSTM", weights=(1, 2, 3, 7))
@register("GRU", "RNN", weights=(1, 2, 3))
def recurrent(op: NodeSpec) -> Kernel:
    """X [T, N, I], W [D, G·H, I], R [D, G·H, H], B [D, 2·G·H] → Y [T, D, N, H], Y_h [D, N, H], (Y_c)."""
    layer = _layer(op)

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
        c: Tensor | None = None,
        p: Tensor | None = None,
    ) -> Any:
        if layer.batch_first:
            x = x.transpose(0, 1)
            h, c = (s.transpose(0, 1) if s is not None else None for s in (h, c))
        hidden = r.shape[2]
        zeros = x.new_zeros(len(layer.directions), x.shape[1], hidden)
        states = [zeros if h is None else h] + ([zeros if c is None else c] if layer.kind == "LSTM" else [])
        if b is None:
            b = w.new_zeros(len(layer.directions), 2 * w.shape[1])
        if layer.standard and lengths is None and p is None and layer.directions != (True,):
            y, *last = _fused(layer, x, w, r, b, states)
        else:
            y, *last = _unrolled(layer, x, (w, r, b, p), states, lengths)
        if layer.batch_first:
            y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
        return y if op.outputs == 1 else (y, *last)[: op.outputs]

    return run


def _reordered(layer: _Layer, t: Tensor) -> Tensor:
    order = _ORDER[layer.kind]
    if len(order) == 1:
        return t
    parts = t.chunk(len(order), 0)
    return torch.cat([parts[i] for i in order])


def _fused(layer: _Layer, x: Tensor, w: Tensor, r: Tensor, b: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    flat: list[Tensor] = []
    for d in range(len(layer.directions)):
        half = b.shape[1] // 2
        flat += [_reordered(layer, t) for t in (w[d], r[d], b[d, :half], b[d, half:])]
    both = len(layer.directions) == 2
    if layer.kind == "LSTM":
        y, *last = torch.lstm(x, list(states), flat, True, 1, 0.0, False, both, False)
    else:
        relu = layer.functions[0][0] is torch.relu
        function = torch.gru if layer.kind == "GRU" else torch.rnn_relu if relu else torch.rnn_tanh
        y, *last = function(x, states[0], flat, True, 1, 0.0, False, both, False)
    t, n = y.shape[:2]
    return [y.reshape(t, n, len(layer.directions), -1).transpose(1, 2), *last]


def _times(weight: Tensor) -> Function:
    return lambda t: t @ weight.t()


def _unrolled(
    layer: _Layer,
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor | None],
    states: Sequence[Tensor],
    lengths: Tensor | None,
    products: Callable[[int], tuple[Function, Function]] | None = None,
) -> list[Tensor]:
    """Step by step; ``products`` says how inputs are multiplied by W and R of a direction, if not as usual."""
    w, r, b, p = weights
    steps, batch = x.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), steps, device=x.device)
    outputs, finals = [], []
    for d, backward in enumerate(layer.directions):
        half = b.shape[1] // 2
        state: State = tuple(s[d] for s in states)
        by_w, by_r = (_times(w[d]), _times(r[d])) if products is None else products(d)
        projected = by_w(x) + b[d, :half]
        hs: list[Tensor] = [state[0]] * steps
        for t in reversed(range(steps)) if backward else range(steps):
            alive = (t < lengths)[:, None]
            peepholes = None if p is None else p[d]
            new = _cell(layer, layer.functions[d], projected[t], state, r[d], b[d, half:], peepholes, by_r)
            # A sequence that has ended keeps its state and gives zeros.
            state = tuple(torch.where(alive, a, o) for a, o in zip(new, state, strict=True))
            hs[t] = torch.where(alive, new[0], torch.zeros_like(new[0]))
        outputs.append(torch.stack(hs))
        finals.append(state)
    return [torch.stack(outputs, 1), *(torch.stack(s) for s in zip(*finals, strict=True))]


def _cell(
    layer: _Layer,
    functions: Sequence[Function],
    x: Tensor,
    state: State,
    r: Tensor,
    b: Tensor,
    p: Tensor | None,
    by_r: Function,
) -> State:
    def clipped(t: Tensor) -> Tensor:
        return t if layer.clip is None else t.clamp(-layer.clip, layer.clip)

    f, h = functions[0], state[0]
    if layer.kind == "RNN":
        return (f(clipped(x + by_r(h) + b)),)
    if layer.kind == "GRU":
        size = h.shape[-1]
        gates = x[:, : 2 * size] + h @ r[: 2 * size].t() + b[: 2 * size]
        z, reset = f(clipped(gates)).chunk(2, -1)
        if layer.linear_before_reset:
            inner = reset * (h @ r[2 * size :].t() + b[2 * size :])
        else:
            inner = (reset * h) @ r[2 * size :].t() + b[2 * size :]
        new = functions[1](clipped(x[:, 2 * size :] + inner))
        return ((1 - z) * new + z * h,)
    c = state[1]
    i, o, forget, cell = (x + by_r(h) + b).chunk(4, -1)
    pi, po, pf = (0.0, 0.0, 0.0) if p is None else p.chunk(3, -1)
    i = f(clipped(i + pi * c))
    forget = 1 - i if layer.couple else f(clipped(forget + pf * c))
    c = forget * c + i * functions[1](clipped(cell))
    return f(clipped(o + po * c)) * functions[2](c), c


@register("DynamicQuantizeLSTM", domain="com.microsoft", weights=(3, 7), foldable=False)
def dynamic_quantize_lstm(op: NodeSpec) -> Kernel:
    """An LSTM whose W [D, I, 4·H] and R [D, H, 4·H] are integers, and whose inputs are rounded to 8 bits as they come.

    The weights are not trained; gradients pass the rounding of the inputs as if it were not there (straight-through),
    so that what lies before the layer goes on learning.
    Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
    """
    layer = _layer(op)

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None,
        lengths: Tensor | None,
        h: Tensor | None,
        c: Tensor | None,
        p: Tensor | None,
        w_scale: Tensor,
        w_zero: Tensor,
        r_scale: Tensor,
        r_zero: Tensor,
    ) -> Any:
        hidden = r.shape[1]
        zeros = x.new_zeros(len(layer.directions), x.shape[1], hidden)
        states = [zeros if h is None else h, zeros if c is None else c]
        bias = x.new_zeros(len(layer.directions), 8 * hidden) if b is None else b

        def products(d: int) -> tuple[Function, Function]:
            return _quantised(w[d], w_scale[d], w_zero[d]), _quantised(r[d], r_scale[d], r_zero[d])

        y, *last = _unrolled(layer, x, (w, r, bias, p), states, lengths, products)
        return y if op.outputs == 1 else (y, *last)[: op.outputs]

    return run


def _quantised(weight: Tensor, scale: Tensor, zero: Tensor) -> Function:
    """The product of inputs, rounded to 8 bits, with an integer matrix [I, 4·H]; sums are exact, as with integers."""
    exact = weight.double() - zero.double()

    def product(t: Tensor) -> Tensor:
        low, high = t.detach().min().clamp(max=0.0), t.detach().max().clamp(min=0.0)
        step = (high - low) / 255.0
        step = torch.where(step == 0, torch.ones_like(step), step)
        offset = torch.round((-low / step).clamp(0, 255))
        rounded = (torch.round(t.detach() / step) + offset).clamp(0, 255) - offset
        straight = t / step
        integers = rounded + (straight - straight.detach())
        return (integers.double() @ exact).to(t.dtype) * (step * scale)

    return product
