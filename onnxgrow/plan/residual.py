"""How a residual stream is widened: which of its ways fits the wanted size, and why none does."""

from __future__ import annotations

from onnxgrow.analysis import ChannelSet
from onnxgrow.analysis.stream import Residual
from onnxgrow.axis_map import COPY

__all__ = ["chosen_way", "residual_problem"]


def chosen_way(channel_set: ChannelSet, new: int) -> Residual | None:
    """The preferred way to ``new`` channels; None where there is none. Copies need a whole multiple of the old size."""
    return next((w for w in channel_set.ways if w.mode != COPY or new % channel_set.size == 0), None)


def residual_problem(channel_set: ChannelSet, new: int, method: str, init: str, *, asked: bool) -> str:
    """Why the width of a residual stream does not grow as wanted; empty when it does.

    Args:
        channel_set: The set.
        new: The wanted size.
        method, init: Of the request.
        asked: Whether the set was named, or residual widths were asked for.
    """
    if not asked:
        return f"{channel_set.ways[0].statistics[0]}: as the width of a residual stream it grows with --residual only"
    if method != "zero-fan-out" or init == "copy":
        return f"a residual stream grows by zero-fan-out and without --init copy only, not by {method} {init}"
    if chosen_way(channel_set, new) is None:
        size = channel_set.size
        return f"statistics over it stay the same only when all channels are repeated alike: use a multiple of {size}"
    return ""
