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
from onnxgrow.init import Key, cast, fill, fill_ranges, is_elementwise, near_zero_ranges
from onnxgrow.passes.masks import Mask, Share
from onnxgrow.passes.regions import Region, grid, runs
from onnxgrow.passes.stored import Stored

__all__ = [
    "Draw",
    "Drawing",
    "Fans",
    "Layer",
    "Layers",
    "drawn",
    "drawn_in",
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

Draw = Callable[[Sequence[range]], Array]
"""Ranges of the tensor's flat random stream → their values, one range after the other, in the tensor's type."""

SHORTEST_RUN = 256
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


def filled(value: float, form: Stored | None = None) -> Layer:
    """One value everywhere, as ``form`` stores it."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        values[...] = value if form is None else form.store(np.full((), value), region)
        undecided[...] = False

    return lay


def zeros(mask: Mask, form: Stored | None = None) -> Layer:
    """Zeros where the mask holds, as ``form`` stores them."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = mask.at(region)
        if not here.any():
            return
        np.copyto(values, np.zeros((), values.dtype) if form is None else form.zero(region), where=here)
        np.copyto(undecided, False, where=here)

    return lay


def near_zeros(mask: Mask, key: Key, sigma: float) -> Layer:
    """N(0, ``sigma``²) where the mask holds."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = np.ascontiguousarray(np.broadcast_to(mask.at(region), region.shape))
        _draw_into(values, here, region, lambda ranges: near_zero_ranges(key, ranges, sigma, values.dtype))
        undecided[here] = False

    return lay


def drawn_in(mask: Mask, draw: Draw) -> Layer:
    """Random values where the mask holds and nothing is decided yet."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        here = np.ascontiguousarray(undecided & mask.at(region))
        _draw_into(values, here, region, draw)
        undecided[here] = False

    return lay


def drawn(draw: Draw, form: Stored | None = None) -> Layer:
    """Random values wherever nothing is decided yet; with a ``form`` to store them, ``draw`` gives float64."""

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        if form is None:
            _draw_into(values, undecided, region, draw)
        elif undecided.any():
            wide = np.zeros(region.shape, np.float64)
            _draw_into(wide, undecided, region, draw)
            np.copyto(values, form.store(wide, region), where=undecided)
        undecided[...] = False

    return lay


def _draw_into(values: Array, where: Bools, region: Region, draw: Draw) -> None:
    if not where.any():
        return
    flat, chosen = values.reshape(-1), where.reshape(-1)
    found = runs(chosen, SHORTEST_RUN)
    new = draw([range(region.start + low, region.start + high) for low, high in found])
    at = 0
    for low, high in found:
        if chosen[low:high].all():
            flat[low:high] = new[at : at + high - low]
        else:
            np.copyto(flat[low:high], new[at : at + high - low], where=chosen[low:high])
        at += high - low


def shared(shares: Sequence[Share], subject: str) -> Layer:
    """Values times the share that every use asks for.

    The layer raises UnsupportedError where two uses differ.
    """

    def lay(region: Region, values: Array, undecided: Bools) -> None:
        share, *others = (s.at(region) for s in shares)
        for other in others:
            both = ~np.isnan(share) & ~np.isnan(other)
            if not np.array_equal(share[both], other[both]):
                raise UnsupportedError(subject, "its uses would need different shares", "use zero-fan-out")
            share = np.where(np.isnan(share), other, share)
        share = np.where(np.isnan(share), 1.0, share)
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
    _whole: Array | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, ranges: Sequence[range]) -> Array:
        fans = self.fans
        if is_elementwise(self.scheme):
            drawn = fill_ranges(
                self.scheme,
                self.shape,
                ranges,
                self.dtype,
                fan_in=fans.fan_in,
                fan_out=fans.fan_out,
                gain=fans.gain,
                key=self.key,
                out_axes=fans.out_axes,
            )
            return np.negative(drawn) if self.negated else drawn
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
                self._whole = cast(np.negative(values) if self.negated else values, self.dtype).reshape(-1)
        return np.concatenate([self._whole[part.start : part.stop] for part in ranges])
