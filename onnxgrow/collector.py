"""Python's cycle collector, kept out of work that makes many objects which all stay."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["without_collection"]


P = ParamSpec("P")
R = TypeVar("R")


def without_collection(work: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``work`` to run without cycle collection, for code that is linear in its input.

    The collector looks through every object alive each time their number has grown by a share. While an analysis makes
    millions of objects, that costs more the more there are: at 50,000 nodes half of its time, for nothing to free.
    A collector that is off stays off.
    """

    @functools.wraps(work)
    def uncollected(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return work(*args, **kwargs)
        gc.disable()
        try:
            return work(*args, **kwargs)
        finally:
            gc.enable()

    return uncollected
