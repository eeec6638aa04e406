"""Layers of values: what the entries of a grown tensor are made of, for any region of it.

Each layer lays its values over those of the layers before it; drawing comes last and only where no other layer has
spoken, since it costs more than everything else together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxgrow.errors import UnsupportedError
from onnxgrow.init import Key, cast, fill, fill_block, is_elementwise, near_zero_block
from onnxgrow.passes.masks import Mask, Share
from onnxgrow.passes.regions import Region, grid, runs

__all__ = [
    "Draw",
    "Drawing",
    "Fans",
    "Layer",
    "Layers",
    "drawn",
    "filled",
    "kept",
    "near_zeros",
    "shared",
    "taken",
    "zeros",
]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

Layer = Callable[[Region, Array, Bools], None]
"""(region, values, undecided): overwrite values of the region, and mark what was written as decided."""

Draw = Callable[[int, int], Array]
"""(start, count) → that range of the tensor's flat random stream, in the tensor's type."""

SHORTEST_RUN = 2048
"""Entries from which a range is worth a draw of its own."""


@dataclass(frozen=True)
class Layers:
    """The entries of any region; see :data:`onnxgrow.passes.grown_tensor.Entries`."""

    layers: tuple[Layer, ...]
    dtype: np.dtype[Any]

    def __call__(self, region: Region) -> Array:
        values = np.zeros(region.shape, self.dtype)
        undecided = np.ones(region.shape, bool)
        for layer in self.layers:
            layer(region, values, undecided)
        return values


def taken(old: Array, sources: Sequence[Array]) -> Layer:
    """Every entry repeats the old one at the given old indices, one array an axis."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        values[...] = old[grid([s[r] for s, r in zip(sources, region.slices, strict=True)])]
        undecided[...] = False

    return lay


def kept(old: Array, layouts: Sequence[Array]) -> Layer:
    """Old entries in their new places; ``layouts`` holds the old index, or −1, of every new index of each axis."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = [s[r] for s, r in zip(layouts, region.slices, strict=True)]
        where = grid([np.flatnonzero(s >= 0) for s in here])
        values[where] = old[grid([s[s >= 0] for s in here])]
        undecided[where] = False

    return lay


def filled(value: float) -> Layer:
    """One value everywhere."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        values[...] = value
        undecided[...] = False

    return lay


def zeros(mask: Mask) -> Layer:
    """Zeros where the mask holds."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = mask.at(region)
        np.copyto(values, np.zeros((), values.dtype), where=here)
        np.copyto(undecided, False, where=here)

    return lay


def near_zeros(mask: Mask, key: Key, sigma: float) -> Layer:
    """N(0, ``sigma``²) where the mask holds."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = np.ascontiguousarray(np.broadcast_to(mask.at(region), region.shape))
        _draw_into(
            values, here, region, lambda start, count: cast(near_zero_block(key, start, count, sigma), values.dtype)
        )
        undecided[here] = False

    return lay


def drawn(draw: Draw) -> Layer:
    """Random values wherever nothing is decided yet."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        _draw_into(values, undecided, region, draw)
        undecided[...] = False

    return lay


def _draw_into(values: Array, where: Bools, region: Region, draw: Draw) -> None:
    flat, chosen = values.reshape(-1), where.reshape(-1)
    for low, high in runs(chosen, SHORTEST_RUN):
        np.copyto(flat[low:high], draw(region.start + low, high - low), where=chosen[low:high])


def shared(shares: Sequence[Share], subject: str) -> Layer:
    """Values times the share that every use asks for.

    The layer raises UnsupportedError where two uses differ.
    """

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        share, *others = (s.at(region) for s in shares)
        if any(not np.array_equal(share, other) for other in others):
            raise UnsupportedError(subject, "its uses would need different shares", "use zero-fan-out")
        if not (share == 1).all():
            values[...] = cast(values.astype(np.float64) * share, values.dtype)

    return lay


@dataclass(frozen=True)
class Fans:
    """What a scheme needs to know of the use of a weight; see :func:`onnxgrow.init.fill`."""

    fan_in: int
    fan_out: int
    gain: float
    out_axes: tuple[int, ...]


@dataclass
class Drawing:
    """A :data:`Draw` by a named scheme. One that is not elementwise is drawn whole, once, when it is first needed.

    Attributes:
        scheme, shape, fans, key: See :func:`onnxgrow.init.fill`.
        negated: Whether the values get the other sign.
        dtype: Of the result.
    """

    scheme: str
    shape: tuple[int, ...]
    fans: Fans
    key: Key
    negated: bool
    dtype: np.dtype[Any]
    _whole: Array | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, start: int, count: int) -> Array:
        fans = self.fans
        if is_elementwise(self.scheme):
            values = fill_block(
                self.scheme,
                self.shape,
                start=start,
                count=count,
                fan_in=fans.fan_in,
                fan_out=fans.fan_out,
                gain=fans.gain,
                key=self.key,
                out_axes=fans.out_axes,
            )
            return self._rounded(values)
        with self._lock:
            if self._whole is None:
                values = fill(
                    self.scheme,
                    self.shape,
                    fan_in=fans.fan_in,
                    fan_out=fans.fan_out,
                    gain=fans.gain,
                    key=self.key,
                    out_axes=fans.out_axes,
                )
                self._whole = self._rounded(values).reshape(-1)
        return self._whole[start : start + count]

    def _rounded(self, values: npt.NDArray[np.float64]) -> Array:
        return cast(np.negative(values, out=values) if self.negated else values, self.dtype)
