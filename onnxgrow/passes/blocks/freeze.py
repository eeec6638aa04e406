"""Which parameters of a grown model are new: for training the new ones alone, as LLaMA-Pro does."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap

__all__ = ["freeze_list"]

FORMAT = "onnxgrow.freeze"


def freeze_list(model: ir.Model, growth_map: GrowthMap) -> dict[str, object]:
    """The floating-point initializers of a grown model, as those of its last growth and those before it.

    Args:
        model: The grown model.
        growth_map: Its growth map.

    Returns:
        JSON data: ``format``, ``version``, and the names ``frozen`` and ``trainable``, in the model's order.
    """
    names = [
        n
        for n, v in model.graph.initializers.items()
        if v.const_value is not None and v.const_value.dtype.is_floating_point()
    ]
    new = set(growth_map.tensors)
    return {
        "format": FORMAT,
        "version": 1,
        "frozen": [n for n in names if n not in new],
        "trainable": [n for n in names if n in new],
    }
