"""Memory that was freed, given back to the system between steps that need much of it."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["give_back_freed"]


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    """``malloc_trim`` of the GNU C library; None elsewhere, where freed memory goes back by itself or not at all."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no library without a name: Windows
        return None


def give_back_freed() -> None:
    """Let the C library return what it keeps of freed memory: after large runs that is most of what they took."""
    trim = _trim()
    if trim is not None:
        trim(0)
