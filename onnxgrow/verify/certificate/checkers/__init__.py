"""The checkers, one op family a file. Importing this package registers them all."""

from onnxgrow.verify.certificate.checkers import (
    attention,
    convolution,
    einsum,
    elementwise,
    fused_norms,
    gathering,
    indexing,
    linear,
    microsoft,
    movement,
    normalization,
    padding,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    reshape,
    rotary,
    unary,
)

LOADED = (
    attention,
    convolution,
    einsum,
    elementwise,
    fused_norms,
    gathering,
    indexing,
    linear,
    microsoft,
    movement,
    normalization,
    padding,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    reshape,
    rotary,
    unary,
)

__all__ = ["LOADED"]
