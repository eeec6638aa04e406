"""Tensors of the file that are joined from several entries of the checkpoint, or entries that the file has in parts.

Query, key and value weights that were packed into one; the gates of recurrent layers, which ONNX orders otherwise than
PyTorch; the two biases of an LSTM in one tensor. They are taken apart where it is certain which piece the new entries
belong to: pieces of one size that grew to pieces of one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from onnxgrow.torch.checkpoint.origin import Held, as_bits, same_bits

__all__ = ["Joined", "Pool", "put_together", "take_apart"]

CHUNKS = (1, 2, 3, 4)
ATTEMPTS = 20_000


@dataclass(frozen=True)
class Chunk:
    """One of ``count`` equal parts of a source along its first axis, after ``transposed``.

    Attributes:
        source: Key of an entry, or name of a tensor.
        index, count: Which of how many parts.
        transposed: Whether the source's two axes are exchanged first.
    """

    source: str
    index: int
    count: int
    transposed: bool


@dataclass(frozen=True)
class Joined:
    """A tensor (without its axes of size one, ``axis`` in front) is these chunks, one after the other."""

    axis: int
    chunks: tuple[Chunk, ...]

    @property
    def sources(self) -> list[str]:
        """What it is joined from, each once."""
        return list(dict.fromkeys(chunk.source for chunk in self.chunks))


class Pool:
    """The chunks that sources can be cut into, found by their first entry.

    Args:
        sources: Name → tensor.
        parts: Numbers of equal parts that are tried.
    """

    def __init__(self, sources: Mapping[str, Tensor], parts: Sequence[int] = CHUNKS) -> None:
        self._starting_with: dict[int, list[tuple[Chunk, Tensor]]] = {}
        for name, tensor in sources.items():
            whole = tensor.squeeze()
            if not whole.dim() or not whole.numel():
                continue
            for transposed in (False, True) if whole.dim() == 2 else (False,):
                turned = whole.t() if transposed else whole
                for count in (n for n in parts if turned.shape[0] % n == 0):
                    for index, part in enumerate(turned.chunk(count)):
                        found = self._starting_with.setdefault(_first(part), [])
                        found.append((Chunk(name, index, count, transposed), part))

    def fitting(self, rows: Tensor) -> Iterator[tuple[Chunk, int]]:
        """The chunks that the rows begin with, and how many rows they are."""
        for chunk, part in self._starting_with.get(_first(rows), ()):
            if part.shape[1:] == rows.shape[1:] and same_bits(part, rows[: part.shape[0]]):
                yield chunk, part.shape[0]

    def join(self, target: Tensor) -> Joined | str | None:
        """Chunks that give the target; a reason where several choices do; None where none does.

        One chunk alone is no join.
        """
        whole = target.squeeze()
        reason = None
        for axis in range(whole.dim() if whole.numel() else 0):
            found = self._search(whole.movedim(axis, 0), axis)
            if isinstance(found, Joined):
                return found
            reason = reason or found
        return reason

    def _search(self, rows: Tensor, axis: int) -> Joined | str | None:
        found: dict[tuple[tuple[str, bool, Fraction, Fraction], ...], tuple[Chunk, ...]] = {}
        left = ATTEMPTS

        def go(position: int, taken: tuple[Chunk, ...]) -> None:
            nonlocal left
            if position == rows.shape[0]:
                if len(taken) > 1 and _complete(taken):
                    merged = _merged(taken)
                    found[merged] = min(taken, found.get(merged, taken), key=len)
                return
            for chunk, length in self.fitting(rows[position:]):
                left -= 1
                if len(found) > 1 or left < 0:
                    return
                if chunk not in taken and not _at_odds(chunk, taken):
                    go(position + length, (*taken, chunk))

        go(0, ())
        if left < 0 or len(found) > 1:
            return "it can be put together in more than one way"
        return Joined(axis, next(iter(found.values()))) if found else None


def _merged(taken: Sequence[Chunk]) -> tuple[tuple[str, bool, Fraction, Fraction], ...]:
    """The same for all ways to cut the same stretches of sources into chunks."""
    stretches: list[tuple[str, bool, Fraction, Fraction]] = []
    for chunk in taken:
        start, end = Fraction(chunk.index, chunk.count), Fraction(chunk.index + 1, chunk.count)
        if stretches and stretches[-1][:2] == (chunk.source, chunk.transposed) and stretches[-1][3] == start:
            start = stretches.pop()[2]
        stretches.append((chunk.source, chunk.transposed, start, end))
    return tuple(stretches)


def _first(tensor: Tensor) -> int:
    return int(as_bits(tensor.reshape(-1)[:1])[0])


def _at_odds(chunk: Chunk, taken: Sequence[Chunk]) -> bool:
    """Whether a source was begun in parts of another size, or turned otherwise."""
    return any(t.source == chunk.source and (t.count, t.transposed) != (chunk.count, chunk.transposed) for t in taken)


def _complete(taken: Sequence[Chunk]) -> bool:
    used: dict[str, int] = {}
    for chunk in taken:
        used[chunk.source] = used.get(chunk.source, 0) + 1
    return all(used[chunk.source] == chunk.count for chunk in taken)


def take_apart(held: Held, join: Joined, entries: Mapping[str, Tensor]) -> dict[str, Tensor] | str:
    """The grown entries that a grown tensor is joined from; a reason where that is not certain."""
    assert held.original is not None
    axes = [i for i, n in enumerate(held.original.shape) if n != 1]
    if any(axis not in axes for axis in held.positions):
        return "an axis of size one grew"
    grown = held.grown.reshape([held.grown.shape[i] for i in axes]).movedim(join.axis, 0)
    old = [entries[c.source].numel() // c.count for c in join.chunks]
    rows = held.original.shape[axes[join.axis]]
    lengths = [n * rows // held.original.numel() for n in old]
    kept = held.positions.get(axes[join.axis], torch.arange(rows))
    bounds = _bounds(lengths, kept, grown.shape[0])
    if isinstance(bounds, str):
        return bounds
    pieces = {chunk: grown[a:b] for chunk, (a, b) in zip(join.chunks, bounds, strict=True)}
    result = {}
    for name in join.sources:
        mine = sorted((c for c in pieces if c.source == name), key=lambda c: c.index)
        whole = torch.cat([pieces[c] for c in mine])
        whole = whole.t() if mine[0].transposed else whole
        shape = list(entries[name].shape)
        wide = [i for i, n in enumerate(shape) if n != 1]
        for axis, size in zip(wide, whole.shape, strict=True):
            shape[axis] = size
        result[name] = whole.reshape(shape).contiguous()
    return result


def _bounds(lengths: Sequence[int], kept: Tensor, size: int) -> list[tuple[int, int]] | str:
    """Begin and end of each piece on the grown axis."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    if size == sum(lengths):
        return [(a, a + n) for a, n in zip(starts, lengths, strict=True)]
    if len(set(lengths)) > 1 or size % len(lengths):
        return "its pieces are of different sizes, and which of them grew cannot be seen"
    step = size // len(lengths)
    for i, start in enumerate(starts):
        mine = kept[start : start + lengths[i]]
        if bool((mine < i * step).any()) or bool((mine >= (i + 1) * step).any()):
            return "its pieces did not grow alike"
    return [(i * step, (i + 1) * step) for i in range(len(lengths))]


def put_together(join: Joined, entries: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The tensor, of the given shape, that chunks of entries are joined to."""
    parts = []
    for chunk in join.chunks:
        whole = entries[chunk.source].squeeze()
        parts.append((whole.t() if chunk.transposed else whole).chunk(chunk.count)[chunk.index])
    return torch.cat(parts).movedim(0, join.axis).reshape(tuple(shape))
