"""Where a use of a constant needs zeros, and how copies share a weight, for any region of the constant.

What an op asks of its operand follows from which of the operand's indices are new, axis by axis. Behind transposes it
still does; behind reshapes it has to be written out over the whole constant (one byte, or eight, for each entry).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.demand import Masks
from onnxgrow.passes.pull_back import SAME, PullBack
from onnxgrow.passes.regions import Region
from onnxgrow.passes.roles import Role

__all__ = ["Mask", "Share", "share_of", "zero_mask"]

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mask:
    """Entries of a tensor: those with a chosen index on any of some axes, and on none of others.

    Attributes:
        some, none: Axis → which of its indices are chosen.
        rank: Of the tensor.
        whole: All of it written out, where axes alone do not say it.
    """

    some: Mapping[int, Bools]
    none: Mapping[int, Bools]
    rank: int
    whole: Bools | None = None

    @classmethod
    def where_all(cls, masks: Masks, shape: tuple[int, ...]) -> Mask:
        """Entries whose index is chosen on every axis; None stands for all of an axis."""
        chosen = {a: m for a, m in enumerate(masks) if m is not None}
        if not chosen:
            return cls({}, {}, len(shape), np.ones(shape, bool))
        first = next(iter(chosen))
        return cls({first: chosen.pop(first)}, {a: ~m for a, m in chosen.items()}, len(shape))

    def at(self, region: Region) -> Bools:
        """The mask over a region; axes that do not matter may have size 1."""
        if self.whole is not None:
            return self.whole[region.slices]
        result = np.zeros([1] * self.rank, bool)
        for axis, chosen in self.some.items():
            result = result | _along(chosen, axis, self.rank, region)
        for axis, chosen in self.none.items():
            result = result & ~_along(chosen, axis, self.rank, region)
        return result


@dataclass(frozen=True)
class Share:
    """What each entry is divided by, one number of copies for each index of some axes.

    Attributes:
        counts: (axis, number of copies of the channel at each index), in the order of division.
        rank: Of the tensor.
        whole: The resulting factors written out, where axes alone do not say them; NaN where the use reads nothing.
    """

    counts: tuple[tuple[int, Counts], ...]
    rank: int
    whole: npt.NDArray[np.float64] | None = None

    def at(self, region: Region) -> npt.NDArray[np.float64]:
        """The factors of a region, float64 of its shape."""
        if self.whole is not None:
            return self.whole[region.slices]
        share = np.ones(region.shape, np.float64)
        for axis, counts in self.counts:
            share /= _along(counts, axis, self.rank, region)
        return share


def _along(values: npt.NDArray[Any], axis: int, rank: int, region: Region) -> npt.NDArray[Any]:
    return values[region.slices[axis]].reshape([-1 if i == axis else 1 for i in range(rank)])


def zero_mask(
    analysis: Analysis, growth: Growth, role: Role, shape: tuple[int, ...], subject: str, *, writers: bool
) -> Mask | None:
    """Entries of a grown constant that one use needs to be zero; None when there are none.

    Zero fan-out: old output × new input. Zero fan-in (``writers``): new output, any input.

    Args:
        shape: Of the grown constant.
        subject: Its name, for errors.

    Raises:
        UnsupportedError: The use sees the constant through an op that is not understood.
    """
    use = role.linear
    assert use is not None
    if writers and not use.in_axes and use.data >= 0:
        return None  # a depthwise weight passes zeros through
    terms = analysis.dims.at((use.node, use.index)) or []
    new = [layout(analysis.dims.forest, t, growth) < 0 for t in terms]
    chosen, others = (use.out_axes, ()) if writers else (use.in_axes, use.out_axes)
    if not any(new[a].any() for a in chosen):
        return None
    mask = Mask({a: new[a] for a in chosen}, {a: new[a] for a in others}, len(terms))
    axes = _axes_behind(role, len(terms))
    if axes is not None:
        some, none = ({axes[a]: v for a, v in part.items()} for part in (mask.some, mask.none))
        return Mask(some, none, len(terms))
    ends = tuple(n.size for n in new)
    whole = np.ascontiguousarray(np.broadcast_to(mask.at(_all(ends)), ends))
    whole = PullBack(analysis, growth, subject).along(whole, role.way, False).reshape(shape)
    return Mask({}, {}, len(shape), whole) if whole.any() else None


def share_of(
    analysis: Analysis,
    growth: Growth,
    picks: Mapping[Term, Counts],
    role: Role,
    shape: tuple[int, ...],
    subject: str,
) -> Share:
    """How the readers of copied channels share the old weight (Net2WiderNet): arguments as :func:`zero_mask`.

    Args:
        picks: Atom → the old index that each new index copies.
    """
    use = role.linear
    assert use is not None
    terms = analysis.dims.at((use.node, use.index)) or []
    counts = []
    for a in use.in_axes:
        source = layout(analysis.dims.forest, terms[a], growth, picks)
        counts.append((a, np.bincount(source, minlength=int(source.max(initial=0)) + 1)[source]))
    axes = _axes_behind(role, len(terms))
    if axes is not None:
        return Share(tuple((axes[a], n) for a, n in counts), len(terms))
    ends = tuple(layout(analysis.dims.forest, t, growth).size for t in terms)
    whole = Share(tuple(counts), len(terms)).at(_all(ends))
    return Share((), len(shape), PullBack(analysis, growth, subject).along(whole, role.way, np.nan).reshape(shape))


def _all(shape: tuple[int, ...]) -> Region:
    return Region(0, tuple(slice(0, n) for n in shape), shape)


def _axes_behind(role: Role, rank: int) -> list[int] | None:
    """For each axis at the op the axis of the constant; None where an op on the way does more than permute axes."""
    axes = list(range(rank))
    for step in reversed(role.way):
        if step.node.op_type == "Transpose":
            order = step.node.attributes.get_ints("perm", ()) or tuple(range(rank))[::-1]
            axes = [order[a] for a in axes]
        elif step.node.op_type not in SAME:
            return None
    return axes
