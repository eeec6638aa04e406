"""Resize and Upsample: a grown axis keeps its size, the others are resampled as before. GridSample and RoiAlign."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.checkers.common import agree, carry_zeros
from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.registry import register
from onnxgrow.verify.certificate.side import Side, input_name


def _scales(pair: Pair, side: Side, node: ir.Node, rank: int) -> dict[int, float] | None:
    """Axis → scale of one model; None where sizes are given instead."""
    axes_attr = node.attributes.get("axes")
    axes = tuple(range(rank)) if axes_attr is None else tuple(pair.axis(a, rank) for a in axes_attr.as_ints())
    if node.op_type == "Upsample" and pair.opset < 9:
        attr = node.attributes.get("scales")
        require(attr is not None, "the form before opset 7 is not known")
        assert attr is not None
        return dict(zip(axes, attr.as_floats(), strict=True))
    index = 2 if node.op_type == "Resize" and pair.opset >= 11 else 1
    name = input_name(node, index)
    value = side.value(name) if name else None
    require(value is not None or not name, "the scales depend on data")
    if value is None or value.size == 0:
        return None
    require(value.size == len(axes), "the scales do not fit the axes")
    return dict(zip(axes, (float(s) for s in value.reshape(-1)), strict=True))


@register("Resize", "Upsample")
def check_resize(pair: Pair) -> None:
    pair.same_attributes("scales")
    x, claim = pair.input(0), pair.claim()
    rank = len(x.axes)
    require(rank == len(claim.axes), "the ranks differ")
    attributes = pair.node.attributes
    policy = attributes.get("keep_aspect_ratio_policy")
    require(policy is None or policy.as_string() == "stretch", "the sizes of all axes are tied to each other")
    transform = attributes.get("coordinate_transformation_mode")
    mode = "" if transform is None else transform.as_string()
    # One of the two reads a region of its own, the other moves even an axis that keeps its size.
    require(mode not in ("tf_crop_and_resize", "tf_half_pixel_for_nn"), f"coordinates by {mode} are not known")
    new = _scales(pair, pair.new, pair.node, rank)
    old = _scales(pair, pair.old, pair.original, rank)
    require((new is None) == (old is None), "scales are given in one of the two models only")
    if pair.node.op_type == "Resize":
        pair.fixed(3)
    for number, (axis, out) in enumerate(zip(x.axes, claim.axes, strict=True)):
        scale, old_scale = (None if s is None else s.get(number, 1.0) for s in (new, old))
        if axis.identity and out.identity:
            require(scale == old_scale, f"the scale of axis {number} differs")
            require(
                axis.size == axis.old_size and out.size == out.old_size,
                f"axis {number} is resampled to another size",
            )
            continue
        agree(axis, out, f"axis {number}")
        require(scale in (None, 1.0) and old_scale in (None, 1.0), f"axis {number} grew and is resampled")
    untouched = [n for n, (axis, out) in enumerate(zip(x.axes, claim.axes, strict=True)) if axis.same(out)]
    finite = not np.any([s == 0 for s in (new or {}).values()])
    # Interpolating zeros gives zeros; only axes that are not resampled keep their slabs.
    unscaled = [n for n in untouched if new is None or new.get(n, 1.0) == 1.0]
    if finite and "extrapolation_value" not in attributes:
        pair.zeros[0] = lambda: carry_zeros(x, ((n, n) for n in unscaled))


@register("GridSample", "RoiAlign")
def check_sample(pair: Pair) -> None:
    """Every channel is read at the same positions; only channels may grow. Sums of zeros are zero."""
    pair.same_attributes()
    x, claim = pair.input(0), pair.claim()
    require(len(x.axes) == len(claim.axes) >= 3, "the ranks differ")
    pair.identity((n for n in range(len(x.axes)) if n != 1), x, "the input")
    for index in range(1, pair.count()):
        if pair.has(index):
            require(pair.input(index).identity, f"input {index} grew")
    agree(x.axes[1], claim.axes[1], "the channels")
    require(all(a.identity for n, a in enumerate(claim.axes) if n != 1), "the output grew elsewhere")
    pair.zeros[0] = lambda: carry_zeros(x, ((1, 1),))
