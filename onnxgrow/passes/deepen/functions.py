"""The non-linear functions of an ActiSwitch, as ops that every opset from 7 on has.

Each is written such that no finite input overflows on its way to the result: a term that is switched off by a factor of
0 must not turn to 0 · Inf. The certificate proves that again from the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from onnxgrow.errors import UsageError
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.places import Place

__all__ = ["AUTO", "FUNCTIONS", "Function", "Scribe", "add_function", "check_function"]

AUTO = "auto"
CUBIC = 0.044715
FLAT = 8.0
"""Where tanh(√(2/π)·(x + 0.044715 x³)) has been 1 for long, in every precision."""


class Scribe(Protocol):
    """Writes the ops of a function, wherever they go; values are called by their names."""

    @property
    def opset(self) -> int:
        """Version of the standard operators."""

    def op(self, op_type: str, *inputs: str, **attributes: float) -> str:
        """Add a node; returns its output."""

    def number(self, value: float, name: str) -> str:
        """A scalar that is no parameter."""


@dataclass(frozen=True)
class _Behind:
    """Writes them behind a place of the network."""

    build: Builder
    place: Place
    scope: str

    @property
    def opset(self) -> int:
        return self.build.opset

    def op(self, op_type: str, *inputs: str, **attributes: float) -> str:
        name = f"{self.scope}/{op_type.lower()}"
        return self.build.node(
            self.place, op_type, inputs, name, [ir.AttrFloat32(k, float(v)) for k, v in attributes.items()]
        )

    def number(self, value: float, name: str) -> str:
        return self.build.number(value, self.place.dtype, f"{self.scope}/{name}")


def _single(op_type: str, **attributes: float) -> Callable[[Scribe, str], str]:
    return lambda w, x: w.op(op_type, x, **attributes)


def _silu(w: Scribe, x: str) -> str:
    return w.op("Mul", x, w.op("Sigmoid", x))


def _hard_swish(w: Scribe, x: str) -> str:
    return w.op("Mul", x, w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(w: Scribe, x: str) -> str:
    return w.op("Mul", x, w.op("Tanh", w.op("Softplus", x)))


def _halved(w: Scribe, x: str, gate: str) -> str:
    """0.5 x · (1 + gate)."""
    half = w.op("Mul", x, w.number(0.5, "half"))
    return w.op("Mul", half, w.op("Add", gate, w.number(1.0, "one")))


def _gelu(w: Scribe, x: str) -> str:
    return _halved(w, x, w.op("Erf", w.op("Mul", x, w.number(math.sqrt(0.5), "root_half"))))


def _gelu_tanh(w: Scribe, x: str) -> str:
    if w.opset < 11:
        near = w.op("Clip", x, min=-FLAT, max=FLAT)
    else:
        near = w.op("Clip", x, w.number(-FLAT, "low"), w.number(FLAT, "high"))
    cubed = w.op("Mul", w.op("Mul", near, near), near)
    inner = w.op("Add", near, w.op("Mul", cubed, w.number(CUBIC, "cubic")))
    return _halved(w, x, w.op("Tanh", w.op("Mul", inner, w.number(math.sqrt(2 / math.pi), "root"))))


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        write: Adds its ops behind a value.
        since: First opset that has them.
    """

    write: Callable[[Scribe, str], str]
    since: int = 7


FUNCTIONS: Mapping[str, Function] = {
    "elu": Function(_single("Elu")),
    "gelu": Function(_gelu, 9),
    "gelu-tanh": Function(_gelu_tanh),
    "hard-swish": Function(_hard_swish),
    "leaky-relu": Function(_single("LeakyRelu", alpha=0.01)),
    "mish": Function(_mish),
    "relu": Function(_single("Relu")),
    "selu": Function(_single("Selu")),
    "sigmoid": Function(_single("Sigmoid")),
    "silu": Function(_silu),
    "softplus": Function(_single("Softplus")),
    "softsign": Function(_single("Softsign")),
    "tanh": Function(_single("Tanh")),
}
"""Name → function."""


def check_function(name: str) -> None:
    """Raises UsageError for a name that is neither a function nor ``auto``."""
    if name != AUTO and name not in FUNCTIONS:
        raise UsageError("activation", f"{name!r} is unknown", f"there are {', '.join((AUTO, *FUNCTIONS))}")


def add_function(build: Builder, place: Place, function: str, value: str, scope: str) -> str:
    """Add f(value) behind a place; returns its name."""
    return FUNCTIONS[function].write(_Behind(build, place, scope), value)
