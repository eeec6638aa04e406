"""Which features a rotary embedding turns together, and by which angle.

Spec: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.axis import IntArray
from onnxgrow.verify.certificate.side import Side, input_name
from onnxgrow.verify.certificate.state import ProofError

__all__ = ["Turned", "turned"]


@dataclass(frozen=True)
class Turned:
    """For each index of the last axis of the input.

    Attributes:
        angle: Column of the tables that holds its angle; −1 where it is not turned.
        partner: The index that it is turned with; itself where it is not turned.
        second: 1 where it is the second one of its pair.
    """

    angle: IntArray
    partner: IntArray
    second: IntArray


def turned(side: Side, node: ir.Node) -> Turned:
    """How a RotaryEmbedding of one model turns its features. Raises ProofError where its shapes do not say it."""
    shape = side.shape(input_name(node, 0))
    table = side.shape(input_name(node, 2 if side.domain(node) else 1))
    if shape is None or not table or len(shape) not in (3, 4):
        raise ProofError("the shapes of a rotary embedding are not known")
    pairs, length = table[-1], shape[-1]
    given, count = node.attributes.get_int("rotary_embedding_dim", 0), node.attributes.get_int("num_heads", 0)
    if len(shape) == 4:
        count = 1
    elif not count:
        if given or not pairs or length % (2 * pairs):
            raise ProofError("the number of heads is not known")
        count = length // (2 * pairs)
    size = length // count
    if size * count != length or (given or size) != 2 * pairs or 2 * pairs > size:
        raise ProofError("the angles do not fit the head size")
    place = np.arange(2 * pairs)
    if node.attributes.get_int("interleaved", 0):
        angle, second, other = place // 2, place % 2, place ^ 1
    else:
        angle, second, other = place % pairs, place // pairs, (place + pairs) % (2 * pairs)
    rest = np.arange(2 * pairs, size)
    nothing = np.zeros(rest.size, np.int64)
    starts = np.repeat(np.arange(count) * size, size)
    return Turned(
        np.tile(np.concatenate([angle, nothing - 1]), count).astype(np.int64),
        (starts + np.tile(np.concatenate([other, rest]), count)).astype(np.int64),
        np.tile(np.concatenate([second, nothing]), count).astype(np.int64),
    )
