"""Which values of a network are never negative, from its ops alone."""

from __future__ import annotations

import numpy as np

from onnxgrow.analysis.network import Network

__all__ = ["never_negative"]

MAKES = frozenset("Abs Exp HardSigmoid Relu Sigmoid Softmax Softplus Sqrt".split())
KEEPS = frozenset(
    "Add AveragePool Concat Dropout Expand Flatten GlobalAveragePool GlobalMaxPool Identity Max MaxPool Mul "
    "ReduceMax ReduceMean Reshape Slice Split Squeeze Sum Transpose Unsqueeze".split()
)
"""Never negative where none of their computed inputs is."""


def never_negative(network: Network) -> set[str]:
    """Names of computed values that are 0 or more; a constant operand makes no promise."""
    found: set[str] = set()
    for node in network.nodes:
        first = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        names = [v.name for v in node.inputs if v is not None and v.name]
        if node.op_type == "Clip":
            low = node.attributes.get("min")
            known = network.concrete.values.get(names[1]) if len(names) > 1 and names[1] in network.derived else None
            makes = (low is not None and low.value >= 0) or (
                known is not None and bool((known.astype(np.float64) >= 0).all())
            )
        else:
            makes = node.op_type in MAKES
        if node.op_type in ("Add", "Concat", "Max", "Mul", "Sum"):
            keeps = bool(names) and all(n in found for n in names)
        else:
            keeps = node.op_type in KEEPS and first in found
        if makes or keeps:
            found.update(o.name for o in node.outputs if o.name)
    return found


def _is_positive(network: Network, name: str) -> bool:
    known = network.concrete.values.get(name) if name in network.derived else None
    return known is not None and bool(np.all(known.astype(np.float64) >= 0))
