"""Where a gradient enters a network: its outputs, and the numbers that those of its outputs are made of that have none.

The class with the largest score, a truth value or a word has no gradient; training computes its loss from the scores
in front of it.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.verify.float64.interpreter import values_read
from onnxgrow.verify.float64.prepared import Prepared

__all__ = ["ends"]

SIZES = frozenset(("Shape", "Size"))
"""Ops that look at no number."""


def ends(prepared: Prepared) -> list[ir.Value]:
    """The graph outputs in order, then the nearest computed floats in front of those of them that are none.

    Args:
        prepared: After its first inputs were set: dtypes that are declared nowhere are inferred with them.
    """
    found = dict.fromkeys(prepared.graph.outputs)
    waiting = [value for value in found if not _is_float(prepared, value)]
    seen = set(waiting)
    while waiting:
        node = waiting.pop().producer()
        for value in () if node is None or node.op_type in SIZES else values_read(node):
            if value in seen or value.producer() is None:
                continue
            seen.add(value)
            if _is_float(prepared, value):
                found[value] = None
            else:
                waiting.append(value)
    return list(found)


def _is_float(prepared: Prepared, value: ir.Value) -> bool:
    """Whether it is a tensor of floats; what is not known to be one is none."""
    dtype = prepared.native.dtype(value)
    return dtype is not None and dtype.is_floating_point()
