"""Numbers that a class computes with and no checkpoint holds, where a growth changed them.

A wider norm under a residual stream has another ε, and may have another constant beside its weights. The bigger class
loads strictly all the same, and computes something else, unless it is built with the new number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor

from onnxgrow.torch.checkpoint.origin import Held, generations

__all__ = ["changed_settings"]


def changed_settings(model: ir.Model, constants: Sequence[Held], used: Collection[str]) -> dict[str, dict[str, Any]]:
    """Constant, or ``NODE:ATTRIBUTE`` → ``old`` and ``new``, of what the class has to be built with.

    Numbers alone; sizes are left out, as the entries of the checkpoint show them, and constants of one number that is
    the same as before, such as the zeros of an initial state.

    Args:
        model: The grown model.
        constants: Its floating-point constants that are not trained.
        used: Names of those that entries of the checkpoint stand for.
    """
    found: dict[str, dict[str, Any]] = {}
    for growth_map in reversed(generations(model)):
        for node, change in growth_map.nodes.items():
            for attribute, (old, new) in change.attributes.items():
                if isinstance(new, float):
                    name = f"{node}:{attribute}"
                    found[name] = {"old": found.get(name, {}).get("old", old), "new": new}
    for held in constants:
        if held.name in used or not held.is_changed:
            continue
        new, old = _number(held.grown), None if held.original is None else _number(held.original)
        if held.factor == 1 and new is not None and new == (0.0 if held.original is None else old):
            continue
        found[held.name] = {"old": None if old is None else old / held.factor, "new": new}
    return {
        name: setting for name, setting in found.items() if setting["new"] is None or setting["old"] != setting["new"]
    }


def _number(tensor: Tensor) -> float | None:
    """The number that all entries are; None where they differ."""
    flat = tensor.reshape(-1)
    return float(flat[0]) if flat.numel() and bool((flat == flat[0]).all()) else None
