"""The checkers, one op family a file. Importing this package registers them all."""

from onnxgrow.verify.certificate.checkers import (
    convolution,
    einsum,
    elementwise,
    gathering,
    indexing,
    linear,
    movement,
    normalization,
    padding,
    pooling,
    recurrent,
    reduction,
    resampling,
    reshape,
    unary,
)

LOADED = (
    convolution,
    einsum,
    elementwise,
    gathering,
    indexing,
    linear,
    movement,
    normalization,
    padding,
    pooling,
    recurrent,
    reduction,
    resampling,
    reshape,
    unary,
)

__all__ = ["LOADED"]
