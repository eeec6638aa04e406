"""Where values may be infinite: masked attention scores, and whatever is computed from constants that are.

An identity layer multiplies every value by zeros, and 0 · Inf is NaN.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from onnxgrow.analysis.network import Network
from onnxgrow.concrete.values import dims_of

__all__ = ["Infinities"]

CARRIES = frozenset(
    "Abs Add Cast Clip Concat Div Dropout Expand Flatten Gather Identity LeakyRelu Max Mean Min Mul Neg Pad PRelu Relu "
    "Reshape Slice Split Squeeze Sub Sum Tile Transpose Unsqueeze Where".split()
)
"""Ops that pass an infinity on."""
MASKING = frozenset("Add Concat Max Min Mul Sub Sum Where".split())
ENDS = frozenset(("LogSoftmax", "Softmax"))
NEAR = 0.25
"""Part of the largest finite number from which on a constant counts as infinite: a mask of it may overflow."""
LARGEST = {
    **{name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")},
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
}
LIMIT = 1 << 22
"""Entries up to which a constant is looked at: larger ones are weights."""


class Infinities:
    """Knows which values of a network may be infinite, from its graph and constants alone."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def why(self, name: str) -> str:
        """Why a value may be infinite; empty where nothing says so."""
        return self._found.get(name, "")

    @cached_property
    def _found(self) -> dict[str, str]:
        found: dict[str, str] = {}
        before_softmax = self._before_softmax()
        for node in self._network.nodes:
            names = [v.name for v in node.inputs if v is not None and v.name]
            reason = next((found[n] for n in names if n in found), "") if node.op_type in CARRIES else ""
            outputs = [o.name for o in node.outputs if o.name]
            if not reason and node.op_type in MASKING:
                data = [n for n in names if n not in self._network.derived]
                huge = next((n for n in names if self._is_huge(n)), None)
                if huge is not None:
                    reason = f"{node.op_type} {node.name or outputs[0]} reads {huge}, which masks with huge numbers"
                elif len(data) > 1 and any(o in before_softmax for o in outputs):
                    reason = f"{node.op_type} {node.name or outputs[0]} may mask what the softmax behind it reads"
            if reason:
                found.update(dict.fromkeys(outputs, reason))
        return found

    def _before_softmax(self) -> set[str]:
        """Values that reach a softmax through ops that pass infinities on."""
        reached: set[str] = set()
        for node in reversed(self._network.nodes):
            passes = node.op_type in CARRIES and any(o.name in reached for o in node.outputs)
            if node.op_type in ENDS or passes:
                reached.update(v.name for v in node.inputs if v is not None and v.name)
        return reached

    def _is_huge(self, name: str) -> bool:
        tensor = self._network.tensors.get(name)
        if tensor is None:
            known = self._network.concrete.values.get(name) if name in self._network.derived else None
            if known is None or known.dtype.kind != "f":
                return False
            values = np.asarray(known)
        else:
            floating = tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 16
            if not floating or math.prod(dims_of(tensor)) > LIMIT:
                return False
            values = np.asarray(tensor.numpy())
        top = NEAR * LARGEST.get(values.dtype.name, np.inf)
        return bool(values.size) and not bool((np.abs(values.astype(np.float64)) < top).all())
