"""Kernels, one op family a file; importing this package registers them all."""

from __future__ import annotations

from onnxgrow.torch.ops import (  # noqa: F401 # imported for what they register
    activation,
    attention,
    classical,
    conv,
    elementwise,
    host,
    indexing,
    linear,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shapes,
    spectral,
)
