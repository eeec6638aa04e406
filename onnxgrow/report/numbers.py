"""Numbers for people."""

from __future__ import annotations

from typing import Any

__all__ = ["amount", "figure", "file_size", "share", "whole"]

_SCALES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def whole(n: int) -> str:
    """``1,024``"""
    return f"{n:,}"


def amount(n: int) -> str:
    """Three digits and a scale from 10,000 on: ``3,466``, ``88.3 k``, ``4.20 G``."""
    if n >= 10_000:
        for scale, letter in _SCALES:
            if n >= scale:
                return f"{_three(n / scale)} {letter}"
    return whole(n)


def file_size(n: int) -> str:
    """Bytes with decimal units: ``15.3 kB``."""
    for scale, letter in _SCALES:
        if n >= scale:
            return f"{_three(n / scale)} {letter}B"
    return f"{n} B"


def share(old: int, new: int) -> str:
    """How many times the old number the new one is: ``x2.59``; ASCII, for any terminal."""
    return f"x{new / old:.2f}" if old else ""


def figure(x: Any) -> str:
    """A measured number with three digits; anything else (``inf`` as text, nothing) as it is."""
    if isinstance(x, int | float) and not isinstance(x, bool):
        return "0" if x == 0 else f"{x:.3g}"
    return "?" if x is None else str(x)


def _three(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"
