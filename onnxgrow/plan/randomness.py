"""Networks that were exported for training: a dropout that drops makes two runs of one model differ.

Nothing can be compared then, so such a network is refused before anything is done to it.
Spec: https://onnx.ai/onnx/operators/onnx__Dropout.html
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis import Network, node_key
from onnxgrow.errors import UnsupportedError

__all__ = ["refuse_random"]


def refuse_random(network: Network) -> None:
    """Refuse a network with a Dropout that is known to drop at random.

    Raises:
        UnsupportedError: There is one.
    """
    for node in network.nodes:
        if node.op_type == "Dropout" and node.domain in ("", "ai.onnx") and _drops(network, node):
            raise UnsupportedError(
                f"Dropout {node.name or node_key(node)}",
                "it is in training mode and drops at random: two runs of this model differ, so nothing can be proved",
                "export the model for inference, as after model.eval()",
            )


def _drops(network: Network, node: ir.Node) -> bool:
    version = network.version(node)
    if version < 7:
        return not node.attributes.get_int("is_test", 0) and node.attributes.get_float("ratio", 0.5) > 0
    if version < 12 or not _known(network, node, 2, default=0.0):
        return False
    return _known(network, node, 1, default=0.5) != 0


def _known(network: Network, node: ir.Node, index: int, default: float) -> float:
    """A scalar input; the default where it is absent, and 0 where it depends on data."""
    value = node.inputs[index] if index < len(node.inputs) else None
    name = (value.name if value is not None else None) or ""
    if not name:
        return default
    if name not in network.derived or name not in network.concrete.values:
        return 0.0
    return float(np.asarray(network.concrete.values[name]).reshape(-1)[0])
