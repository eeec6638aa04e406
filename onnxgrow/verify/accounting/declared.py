"""What is written of a value: type, shape, doc string, metadata."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.growth_map import Axes
from onnxgrow.verify.certificate.equality import value_difference

__all__ = ["declared_difference"]


def declared_difference(old: ir.Value, new: ir.Value, axes: Axes) -> str:
    """As :func:`value_difference`, but a static dim may change as its axis map says."""
    if not axes or old.shape is None or new.shape is None:
        return value_difference(old, new)
    difference = value_difference(old, new, shape=False)
    if difference:
        return difference
    if len(old.shape) != len(new.shape):
        return f"shape {old.shape} became {new.shape}"
    for number, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)):
        axis_map = axes.get(number)
        # A declared size that was wrong before is no declaration to follow: it has to stay as it is.
        if axis_map is not None and isinstance(a, int) and isinstance(b, int) and a == axis_map.old_size:
            if b != axis_map.new_size:
                return f"axis {number} is written as {a} → {b}, but grew {axis_map.old_size} → {axis_map.new_size}"
        elif a != b or old.shape.get_denotation(number) != new.shape.get_denotation(number):
            return f"shape {old.shape} became {new.shape}"
    return ""
