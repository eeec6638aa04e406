"""The state of an optimizer, and averaged weights, carried over a growth.

Moments belong to gradients: where a growth multiplied old entries by a factor, the gradient's first moment is divided
by it and the second by its square. New entries start from zero; copies take the moments of what they copy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from onnxgrow.errors import BadInputError, UnsupportedError, UsageError
from onnxgrow.growth_map import GrowthMap, TensorGrowth

__all__ = ["grow_average", "grow_optimizer"]

POWERS = {
    "exp_avg": 1,
    "momentum_buffer": 1,
    "grad_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
}
"""Part of a state → the power of the gradient that it averages (SGD, Adam, AdamW, RMSprop)."""

LARGER = 1.5


def grow_optimizer(
    state: Mapping[str, Any],
    growth_map: GrowthMap,
    into: Optimizer,
    *,
    names: Mapping[str, str] | None = None,
    param_names: Sequence[str] | None = None,
    policy: Literal["keep", "fresh"] = "keep",
) -> dict[str, Any]:
    """The state of an optimizer of the original, for an optimizer of the grown model.

    Parameters are matched by name, never by position or shape alone. Those that the growth did not touch keep their
    state bit for bit; step counts are kept.

    Args:
        state: ``optimizer.state_dict()`` of SGD, Adam, AdamW or RMSprop over the original's parameters.
        growth_map: Of the growth.
        into: Optimizer over the grown model's parameters, built from named parameters or ``param_groups``; its
            learning rates and other settings are kept, and it is not changed.
        names: Name as the optimizers have it → initializer name (``module.onnx_names()``), where they differ.
        param_names: Names of the original's parameters in the order the optimizer was given them, for a state that
            does not hold them itself.
        policy: ``keep``: zeros for new entries, at the old step count (the default: best at the old learning rate).
            ``fresh``: no state at all (better at a clearly larger rate).

    Returns:
        What ``into.load_state_dict`` takes.

    Raises:
        UsageError: An optimizer without parameter names, or an unknown policy.
        UnsupportedError: A state with parts of unknown meaning.
        BadInputError: State and growth map do not belong together.
    """
    if policy not in ("keep", "fresh"):
        raise UsageError("policy", f"{policy!r} is none of keep, fresh")
    initializer = dict(names or {})
    target = into.state_dict()
    result: dict[str, Any] = {**target, "state": {}}
    if policy == "fresh":
        return result
    old = {initializer.get(k, k): index for k, index in _ids(state, param_names).items()}
    shapes = {
        index: tuple(parameter.shape)
        for group, live in zip(target["param_groups"], into.param_groups, strict=True)
        for index, parameter in zip(group["params"], live["params"], strict=True)
    }
    for key, index in _ids(target, None).items():
        name = initializer.get(key, key)
        growth = growth_map.tensors.get(name, TensorGrowth())
        before = state["state"].get(old.get(growth.of or name, -1))
        if before:
            result["state"][index] = {part: _part(name, part, v, growth, shapes[index]) for part, v in before.items()}
    _warn(state, target)
    return result


def _ids(state: Mapping[str, Any], given: Sequence[str] | None) -> dict[str, int]:
    """Parameter name → its number in a state."""
    groups = state["param_groups"]
    numbers = [index for group in groups for index in group["params"]]
    if given is None and not all("param_names" in group for group in groups):
        raise UsageError(
            "optimizer",
            "its state does not say which parameter is which",
            "build it from model.named_parameters() or param_groups(), or give param_names",
        )
    listed = list(given) if given is not None else [name for group in groups for name in group["param_names"]]
    if len(listed) != len(numbers) or len(set(listed)) != len(listed):
        raise UsageError("param_names", f"{len(listed)} names for {len(numbers)} parameters, each once")
    return dict(zip(listed, numbers, strict=True))


def _part(name: str, part: str, value: Any, growth: TensorGrowth, shape: tuple[int, ...]) -> Any:
    if part == "step" or value is None:
        return value.clone() if isinstance(value, Tensor) else value
    if part not in POWERS or not isinstance(value, Tensor):
        raise UnsupportedError(name, f"the optimizer's state has a part {part!r} that is not known")
    grown = _spread(name, value, growth, shape, copies=True)
    return grown if growth.factor == 1.0 else grown / growth.factor ** POWERS[part]


def _spread(
    name: str, value: Tensor, growth: TensorGrowth, shape: tuple[int, ...], copies: bool, base: Tensor | None = None
) -> Tensor:
    """Old entries at their new places, over ``base`` or zeros."""
    sources = [np.arange(n) for n in value.shape]
    for axis, axis_map in growth.axes.items():
        if axis >= value.dim() or axis_map.old_size != value.shape[axis]:
            raise BadInputError(name, f"its state has shape {list(value.shape)}, which the growth map does not fit")
        source = axis_map.source()
        if copies:
            source = np.maximum(source, axis_map.copied())
        sources[axis] = source
    if tuple(len(s) for s in sources) != shape:
        raise BadInputError(name, f"its state grows to {[len(s) for s in sources]}, the parameter has {list(shape)}")
    grown = torch.zeros(shape, dtype=value.dtype, device=value.device) if base is None else base.clone()
    if not shape:
        return value.clone()
    places = [torch.from_numpy(np.flatnonzero(s >= 0)).to(value.device) for s in sources]
    taken = [torch.from_numpy(s[s >= 0]).to(value.device) for s in sources]
    grown[torch.meshgrid(*places, indexing="ij")] = value[torch.meshgrid(*taken, indexing="ij")]
    return grown


def _warn(state: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    old = max((group.get("lr", 0.0) for group in state["param_groups"]), default=0.0)
    new = max((group.get("lr", 0.0) for group in target["param_groups"]), default=0.0)
    betas = next((group["betas"] for group in target["param_groups"] if "betas" in group), None)
    if betas is None or not old or new <= LARGER * old:
        return
    first = (1 - betas[0]) / math.sqrt(1 - betas[1])
    warnings.warn(
        f"the learning rate {float(new):.3g} is {float(new / old):.1f} times the old one; with kept step counts new "
        f"entries first move by {first:.1f} times that: use policy='fresh' or EntryRates(adam_steps=True)",
        stacklevel=3,
    )


def grow_average(
    average: Mapping[str, Tensor], growth_map: GrowthMap, grown: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Averaged weights (EMA, SWA) of the original as a start for those of the grown model.

    Old entries are the average's, multiplied by the growth's factor; new ones are the grown model's own.

    Args:
        average: Initializer name → averaged tensor of the original.
        growth_map: Of the growth.
        grown: Initializer name → tensor of the grown model.

    Raises:
        BadInputError: Shapes that do not belong together.
    """
    result = {}
    for name, own in grown.items():
        growth = growth_map.tensors.get(name, TensorGrowth())
        value = average.get(growth.of or name)
        if value is None:
            result[name] = own.clone()
            continue
        scaled = value if growth.factor == 1.0 else value * growth.factor
        result[name] = _spread(name, scaled.to(own.dtype), growth, tuple(own.shape), copies=False, base=own)
    return result
