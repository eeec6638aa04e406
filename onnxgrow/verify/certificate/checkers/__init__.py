"""The checkers, one op family a file. Importing this package registers them all."""

from onnxgrow.verify.certificate.checkers import (
    convolution,
    elementwise,
    gathering,
    linear,
    movement,
    normalization,
    padding,
    pooling,
    reduction,
    resampling,
    reshape,
    unary,
)

LOADED = (
    convolution,
    elementwise,
    gathering,
    linear,
    movement,
    normalization,
    padding,
    pooling,
    reduction,
    resampling,
    reshape,
    unary,
)

__all__ = ["LOADED"]
