"""Parameter groups of a grown module, and rates for single entries of its tensors.

An optimizer has one rate per tensor, but a grown tensor holds old and new entries side by side. ``EntryRates`` gives
them rates of their own, whatever the optimizer: after each step the update of the masked entries is scaled.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import BadInputError, UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.torch.module import OnnxModule

__all__ = ["EntryRates", "new_entries", "param_groups"]

ACTISWITCH = "actiswitch"


def _map_of(module: nn.Module, growth_map: GrowthMap | None) -> GrowthMap:
    own = module.growth_map if isinstance(module, OnnxModule) else None
    found = growth_map if growth_map is not None else own
    if found is None:
        raise UsageError("growth map", "the model does not carry one", "give the growth map, or grow the model first")
    return found


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the names that the growth map has for them."""
    return dict(module.named_onnx_parameters() if isinstance(module, OnnxModule) else module.named_parameters())


def new_entries(module: nn.Module, growth_map: GrowthMap | None = None) -> dict[str, Tensor]:
    """Where the entries are that a growth added.

    Args:
        module: The grown module; or one of the user's own class, with the growth by its names
            (:attr:`onnxgrow.torch.NameMap.growth`).
        growth_map: By default the one that the file carries.

    Returns:
        Initializer name → bool mask of the parameter's shape, on its device, for parameters that have new entries.

    Raises:
        UsageError: There is no growth map.
        BadInputError: The growth map belongs to tensors of other shapes.
    """
    found = _map_of(module, growth_map)
    inserted = set(found.inserted)
    readers = module.onnx_readers() if isinstance(module, OnnxModule) else {}
    masks = {}
    for name, parameter in _parameters(module).items():
        growth = found.tensors.get(name)
        if readers.get(name) and readers[name] <= inserted:
            masks[name] = torch.ones(parameter.shape, dtype=torch.bool, device=parameter.device)
        elif growth is not None and growth.axes:
            mask = torch.zeros(parameter.shape, dtype=torch.bool)
            for axis, axis_map in growth.axes.items():
                mask |= _along(name, parameter, axis, axis_map)
            masks[name] = mask.to(parameter.device)
    return {name: mask for name, mask in masks.items() if mask.any()}


def _along(name: str, parameter: Tensor, axis: int, axis_map: AxisMap) -> Tensor:
    if axis >= parameter.dim() or axis_map.new_size != parameter.shape[axis]:
        raise BadInputError(name, f"the growth map does not fit its shape {list(parameter.shape)}")
    shape = [1] * parameter.dim()
    shape[axis] = -1
    return torch.from_numpy(np.asarray(axis_map.source() < 0)).reshape(shape)


def param_groups(
    module: OnnxModule,
    growth_map: GrowthMap | None = None,
    *,
    lr: float,
    weight_decay: float = 0.0,
    new_rate: float = 1.0,
    actiswitch_rate: float = 10.0,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: ``old``, ``new`` (tensors that the growth made), ``actiswitch`` and ``no-decay``.

    A tensor that holds old and new entries is in an old group; see :class:`EntryRates`. Vectors, the biases of
    recurrent layers and the two numbers of an ActiSwitch get no weight decay. Empty groups are left out.

    Args:
        lr: Learning rate of old tensors.
        weight_decay: Of weights.
        new_rate, actiswitch_rate: Factors on ``lr`` for new tensors and ActiSwitches.

    Returns:
        Dictionaries with ``name``, ``params``, ``param_names`` (keys of ``state_dict``), ``lr`` and ``weight_decay``.
    """
    grown = growth_map if growth_map is not None else module.growth_map
    masks = new_entries(module, grown) if grown is not None else {}
    roles = module.onnx_roles()
    keys = {name: key for key, name in module.onnx_names().items()}
    biases = module.onnx_recurrent_biases()
    groups: dict[str, dict[str, Any]] = {}

    def group(name: str, rate: float, decay: float) -> dict[str, Any]:
        empty = {"name": name, "params": [], "param_names": [], "lr": rate, "weight_decay": decay}
        return groups.setdefault(name, empty)

    for name, parameter in module.named_onnx_parameters():
        plain = parameter.dim() < 2 or name in biases
        if roles.get(name) == ACTISWITCH:
            chosen = group("actiswitch", lr * actiswitch_rate, 0.0)
        elif name in masks and bool(masks[name].all()):
            chosen = group("new no-decay" if plain else "new", lr * new_rate, 0.0 if plain else weight_decay)
        else:
            chosen = group("no-decay" if plain else "old", lr, 0.0 if plain else weight_decay)
        chosen["params"].append(parameter)
        chosen["param_names"].append(keys[name])
    return list(groups.values())


class EntryRates:
    """Rates for the old and the new entries of grown tensors: ``rate × update`` after every optimizer step.

    Rate 0 freezes entries, weight decay included. Works with every optimizer that updates its parameters in ``step``.
    Stays in force until ``remove`` is called or the ``with`` block is left.

    Args:
        optimizer: Its parameters are the module's.
        module: The grown module, as for :func:`new_entries`.
        growth_map: By default the one that the file carries.
        old, new: The rates.
        warm_up: Number of steps over which the new entries' rate rises linearly to ``new``.
        adam_steps: Give new entries, whose moments start from zero, the bias correction of their own number of steps.
            Adam and AdamW count steps per tensor: without this, at an old count, they first move new entries by
            (1 − β₁) / √(1 − β₂) times the rate, 3.2 for the usual values. Exact up to Adam's ε.

    Raises:
        UsageError: ``adam_steps`` with another optimizer, no growth map, or parameters that FSDP has shared out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        module: nn.Module,
        growth_map: GrowthMap | None = None,
        *,
        old: float = 1.0,
        new: float = 1.0,
        warm_up: int = 0,
        adam_steps: bool = False,
    ) -> None:
        if adam_steps and not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
            raise UsageError("adam_steps", f"{type(optimizer).__name__} has no bias correction to give to new entries")
        masks = new_entries(module, _map_of(module, growth_map))
        parameters = _parameters(module)
        if any(hasattr(parameter, "full_tensor") for parameter in parameters.values()):
            raise UsageError("EntryRates", "the parameters are shared out among processes", "use it with DDP, not FSDP")
        self._masked: list[tuple[nn.Parameter, Tensor]] = [(parameters[name], mask) for name, mask in masks.items()]
        self._before: list[Tensor] = []
        self._optimizer = optimizer
        self._rates = (old, new)
        self._warm_up = warm_up
        self._adam = adam_steps
        self.steps = 0
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._scale),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Let the optimizer step as it did."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._before = [], []

    def _remember(self, *_: Any) -> None:
        self._before = [parameter.detach().clone() for parameter, _ in self._masked]

    def _scale(self, *_: Any) -> None:
        self.steps += 1
        old, new = self._rates
        new *= min(1.0, self.steps / self._warm_up) if self._warm_up else 1.0
        with torch.no_grad():
            for (parameter, mask), before in zip(self._masked, self._before, strict=True):
                rate = new * (self._correction(parameter) if self._adam else 1.0)
                scale = torch.where(mask, rate, old).to(parameter.dtype)
                scaled = torch.where(scale == 0, before, before + (parameter - before) * scale)
                parameter.copy_(torch.where(scale == 1, parameter, scaled))  # exact where nothing is scaled
        self._before = []

    def _correction(self, parameter: nn.Parameter) -> float:
        """What turns the bias correction at the tensor's step count into that at the new entries' own."""
        state = self._optimizer.state.get(parameter, {})
        if "step" not in state:
            return 1.0
        total, own = float(state["step"]), self.steps
        group = next(g for g in self._optimizer.param_groups if any(p is parameter for p in g["params"]))
        first, second = group["betas"]
        return float((1 - first**total) / (1 - first**own) * ((1 - second**own) / (1 - second**total)) ** 0.5)
