"""Fusions of ONNX Runtime's optimiser: a linear op with transposes, a sum or an activation.

Spec: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from onnxgrow.verify.certificate.checkers.common import agree
from onnxgrow.verify.certificate.checkers.convolution import check_conv
from onnxgrow.verify.certificate.checkers.linear import Operand, check_gemm, contract
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register

_DOMAIN = "com.microsoft"


@register("FusedMatMul", domain=_DOMAIN)
def check_fused_matmul(pair: Pair) -> None:
    """α · A' · B': as MatMul, the last two axes of an operand perhaps swapped."""
    pair.same_attributes()
    x, y, claim = pair.input(0), pair.input(1), pair.claim()
    require(len(x.axes) > 1 and len(y.axes) > 1, "an operand is a vector")
    require(not any(pair.same_int_attribute(f"transBatch{n}", 0) for n in "AB"), "batch axes are transposed")
    rank, rank_x, rank_y = len(claim.axes), len(x.axes), len(y.axes)
    require(rank == max(rank_x, rank_y), "its rank does not follow from its inputs")
    swapped_a, swapped_b = pair.same_int_attribute("transA", 0), pair.same_int_attribute("transB", 0)
    row, summed_a = (rank_x - 1, rank_x - 2) if swapped_a else (rank_x - 2, rank_x - 1)
    summed_b, column = (rank_y - 1, rank_y - 2) if swapped_b else (rank_y - 2, rank_y - 1)
    for operand in (x, y):
        lead = operand.axes[:-2]
        for number, axis in enumerate(lead):
            if not axis.size == axis.old_size == 1:
                agree(axis, claim.axes[rank - 2 - len(lead) + number], f"batch axis {number}")
    agree(x.axes[row], claim.axes[-2], "rows")
    agree(y.axes[column], claim.axes[-1], "columns")
    left = Operand(x, pair.reader(0), row, summed_a, "the left operand is")
    right = Operand(y, pair.reader(1), column, summed_b, "the right operand is")
    pair.squares[0] = contract(pair, left, right)


@register("FusedGemm", domain=_DOMAIN)
def check_fused_gemm(pair: Pair) -> None:
    """Gemm and an activation, of which nothing is said about zeros."""
    check_gemm(pair)
    require(pair.squares[0] == 1, "an operand is multiplied in front of its activation")
    pair.zeros.clear()


@register("FusedConv", domain=_DOMAIN)
def check_fused_conv(pair: Pair) -> None:
    """Conv, a sum with a fourth input of the output's shape, and an activation."""
    check_conv(pair)
    pair.zeros.clear()
    if pair.count() > 3 and pair.has(3):
        state, claim = pair.input(3), pair.claim()
        require(len(state.axes) == len(claim.axes), "the sum has another rank")
        for number, (a, b) in enumerate(zip(state.axes, claim.axes, strict=True)):
            agree(a, b, f"axis {number} of the sum")
