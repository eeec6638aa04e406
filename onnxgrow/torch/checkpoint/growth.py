"""The growth in the layout of the user's own class: where each old entry of a checkpoint lies in the grown one.

A class has other names than the file, its weights may be transposed, and several of them joined in one tensor. The ways
that values take from the file into the checkpoint are taken by their positions instead, and read off there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import SCALED, GrowthMap, TensorGrowth
from onnxgrow.torch.checkpoint.match import Found, joined
from onnxgrow.torch.checkpoint.origin import Held
from onnxgrow.torch.checkpoint.pieces import take_apart

__all__ = ["growth_of_entries"]


def growth_of_entries(found: Mapping[str, Found], entries: Mapping[str, Tensor]) -> GrowthMap:
    """What grew, by the keys of the checkpoint, for :func:`onnxgrow.torch.grow_optimizer` and ``grow_average``.

    New entries are ``any``, copies among them too.

    Args:
        found: Key → what stands for the entry.
        entries: The checkpoint before the growth.
    """
    tensors = {}
    for key, entry in found.items():
        old = entries[key]
        factor = entry.tensors[0].factor
        axes = {} if entry.value.shape == old.shape else _axes(key, entry, entries)
        if axes or factor != 1:
            tensors[key] = TensorGrowth(axes=axes, formula="" if factor == 1 else SCALED, factor=factor)
    return GrowthMap(tensors=tensors)


def _axes(key: str, entry: Found, entries: Mapping[str, Tensor]) -> dict[int, AxisMap]:
    """Axis → where its old indices went."""
    before, after = (marks.numpy() for marks in _marked(key, entry, entries))
    place = np.zeros(before.max() + 1, np.int64)
    place[before.reshape(-1)] = np.arange(before.size)
    index = np.unravel_index(place[np.maximum(after, 0)], before.shape)
    axes = {}
    for axis, along in enumerate(index):
        sources = np.moveaxis(np.where(after < 0, -1, along), axis, 0).reshape(after.shape[axis], -1).max(1)
        axes[axis] = AxisMap.from_source(sources)
    return {axis: axis_map for axis, axis_map in axes.items() if not axis_map.is_identity}


def _marked(key: str, entry: Found, entries: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Each old number of the file as a mark of its own, as they lie in the entry before and after; −1 for new ones."""
    still, moved = [], []
    first = 0
    for held in entry.tensors:
        assert held.original is not None
        marks = torch.arange(first, first + held.original.numel()).reshape(held.original.shape)
        first += marks.numel()
        still.append(replace(held, original=marks, grown=marks, positions={}))
        moved.append(replace(held, original=marks, grown=_spread(marks, held)))
    return _entry(key, entry, still, entries), _entry(key, entry, moved, entries)


def _entry(key: str, entry: Found, tensors: list[Held], entries: Mapping[str, Tensor]) -> Tensor:
    """The entry of a checkpoint that tensors of the file become."""
    held = tensors[0]
    value: Tensor | str | None
    if entry.relation is not None:
        value = entry.relation.forward(held.grown, _original(held).shape)
    elif entry.join is None or len(tensors) > 1 or held.name in entry.join.sources:
        assert entry.join is not None
        value = joined(entry.join, {h.name: h for h in tensors}, entries[key])
    else:
        pieces = take_apart(held, entry.join, entries)
        value = pieces if isinstance(pieces, str) else pieces[key]
    assert isinstance(value, Tensor)
    return value


def _original(held: Held) -> Tensor:
    assert held.original is not None
    return held.original


def _spread(before: Tensor, held: Held) -> Tensor:
    """The numbers at their places in the grown tensor, −1 elsewhere."""
    grown = torch.full(held.grown.shape, -1)
    places = [held.positions.get(axis, torch.arange(n)) for axis, n in enumerate(before.shape)]
    grown[torch.meshgrid(*places, indexing="ij")] = before
    return grown
