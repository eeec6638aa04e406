"""One node on known values: ONNX's reference implementation, in the model's own opset and dtypes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

__all__ = ["evaluable", "evaluate"]

Array = npt.NDArray[np.generic]

# Not deterministic; or never part of shape arithmetic, and slow or inexact in the reference implementation
# (BatchNormalization below opset 14, LRN).
_EXCLUDED = frozenset(
    [
        *(
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
            "Bernoulli",
            "Multinomial",
        ),
        *("Dropout", "Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "DeformConv", "Col2Im", "Einsum"),
        *("MaxPool", "AveragePool", "LpPool", "MaxUnpool", "MaxRoiPool", "RoiAlign", "NonMaxSuppression"),
        *("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool", "RNN", "LSTM", "GRU", "Attention", "Det"),
        *("Resize", "Upsample", "GridSample", "AffineGrid", "DFT", "STFT", "TfIdfVectorizer"),
        *(
            "BatchNormalization",
            "LRN",
            "StringNormalizer",
            "ImageDecoder",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
        ),
    ]
)

# The reference implements only the newest semantics of these; below this opset the meaning differs.
_SINCE = {"Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}

# Up to opset 6 these broadcast by an `axis` attribute that the reference ignores.
_AXIS_BROADCAST = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater"])


def evaluable(node: ir.Node, opset: int) -> bool:
    """Whether the node is deterministic and the reference implementation can be trusted with it."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _EXCLUDED or opset < _SINCE.get(node.op_type, 1):
        return False
    if opset < 7 and node.op_type in _AXIS_BROADCAST and "broadcast" in node.attributes:
        return False
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return not any(attr.is_ref() or attr.type in graphs for attr in node.attributes.values())


def evaluate(proto: onnx.NodeProto, inputs: Mapping[str, Array], opset: int) -> Sequence[Array]:
    """Run one node of the default domain in the model's own dtypes.

    Integer division truncates towards zero, as in the runtimes.

    Returns:
        One array per output that has a name; nothing where the reference implementation cannot run the node.
    """
    if proto.op_type == "Div":
        a, b = (inputs[name] for name in proto.input)
        if np.issubdtype(a.dtype, np.integer):
            return [_truncating_division(a, b)] if np.all(b) else []
    graph = onnx.GraphProto(name="node", node=[proto])
    for name in dict.fromkeys(name for name in proto.input if name):
        graph.input.add().name = name
    for name in proto.output:
        if name:
            graph.output.add().name = name
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(graph, opsets={"": opset}).run(None, dict(inputs))
    except Exception:
        # The reference raises exceptions of any kind for what it does not support.
        return []
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return []
    return [np.asarray(result) for result in results]


def _truncating_division(a: Array, b: Array) -> Array:
    quotient = np.floor_divide(a, b)
    inexact = quotient * b != a
    opposite = np.less(a, 0) != np.less(b, 0)
    return np.asarray(quotient + (inexact & opposite), dtype=a.dtype)
