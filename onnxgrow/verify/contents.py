"""The contents of new tensors: every entry follows from the growth map, the shape and the dtype alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.values import dims_of
from onnxgrow.growth_map import DRAWN, FILLED, IDENTITY, ONES, TAKEN_BACK, ZEROS, TensorGrowth
from onnxgrow.verify.certificate.blocks import blocks, same_bits

__all__ = ["content_difference"]


def content_difference(growth: TensorGrowth, tensor: ir.TensorProtocol) -> str:
    """Why a tensor does not hold, bit by bit, what its formula says; empty when it does.

    Args:
        growth: ``identity`` is a unit matrix, or for more than two axes (filters, channels per group, kernel …) a 1 at
            tap ⌊k/2⌋ of filter o and channel o modulo the channels per group; ``zeros``, ``ones``, ``filled`` and
            ``taken-back`` (with their ``factor``, rounded once) have one value; ``drawn`` has any, if they are finite.
        tensor: The tensor; read in blocks.
    """
    shape = dims_of(tensor)
    if not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 16:
        return f"new parameters are floating-point numbers, not {tensor.dtype.name}"
    if growth.formula == IDENTITY and (
        len(shape) < 2 or not shape[1] or shape[0] % shape[1] or (len(shape) == 2 and shape[0] != shape[1])
    ):
        return f"no identity has the shape {shape}"
    value = {ZEROS: 0.0, ONES: 1.0, FILLED: growth.factor, TAKEN_BACK: growth.factor}.get(growth.formula, 0.0)
    stored = np.asarray(tensor.numpy())
    for block in blocks(shape, stored.dtype.itemsize) if shape else [()]:
        found = np.ascontiguousarray(stored[block])
        if growth.formula == DRAWN:
            if not np.isfinite(found.astype(np.float64)).all():
                return "its initial values are not all finite"
            continue
        wanted = np.full(found.shape, value).astype(stored.dtype)
        if growth.formula == IDENTITY:
            wanted[_own(shape, block)] = 1
        if not same_bits(found, wanted):
            return f"its entries are not those of the formula {growth.formula!r}"
    return ""


def _own(shape: tuple[int, ...], block: tuple[slice, ...]) -> npt.NDArray[np.bool_]:
    """Mask of the ones of an identity, in one block of it."""
    ranges = [np.arange(*part.indices(n)) for part, n in zip(block, shape, strict=True)]
    mask: npt.NDArray[np.bool_] = ranges[0][:, None] % shape[1] == ranges[1][None, :]
    for axis, (part, n) in enumerate(zip(ranges[2:], shape[2:], strict=True)):
        mask = mask[..., None] & (part == n // 2).reshape((1,) * (axis + 2) + (-1,))
    return mask
