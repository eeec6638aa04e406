"""How a tensor of the file lies in an entry of the checkpoint: its axes permuted, then reshaped.

Exporters transpose the weights of linear layers, and write a 1×1 convolution for a linear layer or the other way round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from onnxgrow.torch.checkpoint.origin import as_bits, same_bits

__all__ = ["Relation", "fingerprint", "relations"]

RANK = 5


@dataclass(frozen=True)
class Relation:
    """``tensor.permute(order).reshape(shape)``.

    Attributes:
        order: Axes of the file's tensor in the checkpoint's order.
        shape: Of the checkpoint's entry, before the growth.
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]

    def describe(self, old: Sequence[int]) -> str:
        """The relation in a word, for a tensor of the file that had shape ``old``."""
        moved = [old[i] for i in self.order]
        words = []
        if self.order != tuple(range(len(self.order))):
            words.append("transposed" if len(self.order) == 2 else "permuted")
        if tuple(moved) != self.shape:
            words.append("reshaped")
        return " and ".join(words) or "same"

    def shape_of(self, old: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
        """The entry's shape when the file's tensor grows from ``old`` to ``new``; None where it cannot be said."""
        was, now = [old[i] for i in self.order], [new[i] for i in self.order]
        if tuple(was) == self.shape:
            return tuple(now)
        result: list[int] = []
        for sizes, begin, end in _blocks(was, self.shape):
            if was[begin:end] == now[begin:end]:
                result += sizes
                continue
            wide = [i for i, n in enumerate(sizes) if n != 1]
            from_one = end - begin > 1 and any(was[i] == 1 != now[i] for i in range(begin, end))
            if len(wide) > 1 or not sizes or from_one:
                return None  # one grown axis stands for several: which of them grew is not known
            grown = [*sizes]
            grown[wide[0] if wide else 0] = math.prod(now[begin:end])
            result += grown
        return tuple(result) if math.prod(result) == math.prod(now) else None

    def forward(self, tensor: Tensor, old: Sequence[int]) -> Tensor | None:
        """The entry that a tensor of the file becomes; None where its shape cannot be said."""
        shape = self.shape_of(old, tensor.shape)
        return None if shape is None else tensor.permute(self.order).reshape(shape).contiguous()

    def back(self, entry: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of the file, of the given shape, that an entry stands for."""
        inverse = [self.order.index(i) for i in range(len(self.order))]
        return entry.reshape([shape[i] for i in self.order]).permute(inverse)


def _blocks(was: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[list[int], int, int]]:
    """The smallest groups of axes of equal product: sizes of the entry's, begin and end of the tensor's."""
    begin = at = 0
    while at < len(shape) or begin < len(was):
        sizes: list[int] = []
        end = begin
        left = right = 1
        while not sizes or end == begin or left != right:
            if at < len(shape) and (right <= left or end >= len(was)):
                right *= shape[at]
                sizes.append(shape[at])
                at += 1
            elif end < len(was):
                left *= was[end]
                end += 1
            else:
                break
        if at >= len(shape):
            end = len(was)
        yield sizes, begin, end
        begin = end


def relations(tensor: Tensor, entry: Tensor) -> Iterator[Relation]:
    """The relations by which an original tensor gives an entry of the checkpoint, the plain one first."""
    if tensor.numel() != entry.numel() or tensor.dtype != entry.dtype:
        return
    seen = set()
    orders = list(itertools.permutations(range(tensor.dim() if tensor.dim() <= RANK else 0)))
    orders = orders if tensor.dim() <= RANK else [tuple(range(tensor.dim()))]
    orders.sort(key=lambda order: [tensor.shape[i] for i in order] != list(entry.shape))
    for order in orders:
        # Axes of size one may lie anywhere: one order of the others is enough.
        wide = tuple(i for i in order if tensor.shape[i] != 1)
        if wide in seen:
            continue
        seen.add(wide)
        if same_bits(tensor.permute(order).reshape(entry.shape), entry):
            yield Relation(order, tuple(entry.shape))


def fingerprint(tensor: Tensor) -> tuple[int, str, int]:
    """The same for tensors that hold the same bits in any order."""
    bits = as_bits(tensor).numpy().reshape(-1).astype(np.uint64)
    bits = (bits + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(32)
    return tensor.numel(), str(tensor.dtype), int(bits.sum(dtype=np.uint64))
