"""The table of float64 kernels: (domain, op type) → function.

A kernel gets a :class:`Call` and returns one entry per output of the operator (trailing optional outputs may be left
out). Float inputs arrive as float64, everything else in its own dtype. Kernels stand here for one of two reasons: the
implementation in ``onnx.reference`` rounds to float32 or leaves attributes out, or it is slow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "CONTRACTIONS",
    "KERNELS",
    "PIECEWISE",
    "Array",
    "Call",
    "EvaluationError",
    "Kernel",
    "NoFloat64Error",
    "RandomError",
    "is_float64",
    "kernel",
]

Array = npt.NDArray[Any]


class NoFloat64Error(Exception):
    """An operator that cannot be evaluated in float64; ``op`` names it, ``reason`` says why."""

    def __init__(self, op: str, reason: str) -> None:
        self.op = op
        self.reason = reason
        super().__init__(f"{op}: {reason}")


class RandomError(NoFloat64Error):
    """An operator whose result is random: evaluated twice it disagrees with itself, in any precision."""


class EvaluationError(Exception):
    """A node that fails on the values it got: shapes or dtypes that do not fit; ``node`` names it."""

    def __init__(self, node: str, reason: str) -> None:
        self.node = node
        self.reason = reason
        super().__init__(f"{node}: {reason}")


@dataclass(frozen=True)
class Call:
    """One evaluation of one node.

    Attributes:
        node: The node; its attributes hold no references to function attributes.
        opset: Version of the node's domain that the model imports.
        inputs: One entry per input; None where an optional input is absent.
        cuts: Places (fractions of its length) at which a contracted axis is cut; the parts are added up in another
            order. It computes the same with other roundings: how much they matter is the noise floor.
        gaps: Key of zeros that are put between the terms of a contraction, to the same end; 0 for none.
    """

    node: ir.Node
    opset: int
    inputs: tuple[Any, ...]
    cuts: tuple[float, ...] = ()
    gaps: int = 0

    def input(self, index: int) -> Any:
        """Input ``index``, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute (str, int, float, tuple, tensor or graph), or ``default``.

        A float default is rounded to float32, in which ONNX keeps attributes: stated and left out mean the same.
        """
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return attribute.value
        return float(np.float32(default)) if isinstance(default, float) else default

    def uses_output(self, index: int) -> bool:
        """Whether the node names output ``index``."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def axis(self, rank: int, default: int = -1, name: str = "axis") -> int:
        """Attribute ``axis`` as a non-negative index."""
        axis = int(self.attr(name, default))
        return axis + rank if axis < 0 else axis

    def parts(self, size: int) -> list[slice]:
        """The parts of a contracted axis in the order in which they are added up; one where nothing is cut."""
        edges = sorted({0, *(round(cut * size) for cut in self.cuts), size})
        found = [slice(a, b) for a, b in itertools.pairwise(edges)]
        return [*found[1:], *found[:1]]

    def spaced(self, x: Array, axis: int) -> Array:
        """``x`` with :attr:`gaps` along a contracted axis: as many zeros as entries, in places that are drawn."""
        if not self.gaps:
            return x
        size = x.shape[axis]
        order = np.random.Generator(np.random.Philox(key=self.gaps)).permutation(2 * size)
        shape = list(x.shape)
        shape[axis] = 2 * size
        found = np.zeros(shape, x.dtype)
        np.moveaxis(found, axis, 0)[np.sort(order[:size])] = np.moveaxis(x, axis, 0)
        return found

    def unsupported(self, reason: str) -> NoFloat64Error:
        """The error to raise for an attribute or form that this kernel does not cover."""
        return NoFloat64Error(self.node.op_type, reason)


Kernel = Callable[[Call], tuple[Any, ...]]

KERNELS: dict[tuple[str, str], Kernel] = {}


PIECEWISE: dict[tuple[str, str], frozenset[int]] = {}
"""(domain, op type) → inputs that the kernel takes as a large constant, see :mod:`.pieces`."""

CONTRACTIONS: set[tuple[str, str]] = set()
"""(domain, op type) of the kernels that heed :attr:`Call.cuts`."""


def kernel(
    *op_types: str, domain: str = "", piecewise: Collection[int] = (), contraction: bool = False
) -> Callable[[Kernel], Kernel]:
    """Register a kernel for operators of ``domain``.

    Args:
        op_types: The operators.
        domain: Their domain.
        piecewise: Inputs that may be large constants; others arrive as float64 arrays.
        contraction: Whether it heeds :attr:`Call.cuts`.
    """

    def decorate(function: Kernel) -> Kernel:
        for op_type in op_types:
            KERNELS[domain, op_type] = function
            PIECEWISE[domain, op_type] = frozenset(piecewise)
            if contraction:
                CONTRACTIONS.add((domain, op_type))
        return function

    return decorate


def is_float64(x: object) -> bool:
    """Whether ``x`` is an array of doubles."""
    return isinstance(x, np.ndarray) and x.dtype == np.float64
