"""Reading JSON data without guessing: what could be meant in two ways is refused, with place and reason.

``bool("false")`` is true, ``int(3.7)`` is 3, and of a key given twice the last value wins: a convenience
elsewhere, wrong for data that a proof rests on. All functions raise ValueError; ``where`` names the place in
its message.

Ground floor: imports nothing of this package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "flag",
    "indexed",
    "integer",
    "items",
    "loads",
    "mapping",
    "number",
    "record",
    "require",
    "text",
    "texts",
]


def require(condition: bool, where: str, reason: str) -> None:
    """Raise ``where: reason`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{where}: {reason}")


def text(value: Any, where: str) -> str:
    """A string."""
    require(isinstance(value, str), where, "not a string")
    return str(value)


def flag(value: Any, where: str) -> bool:
    """``true`` or ``false``, not a number or string that stands for it."""
    require(isinstance(value, bool), where, "neither true nor false")
    return bool(value)


def integer(value: Any, where: str, least: int | None = None) -> int:
    """An integer, at least ``least``; neither a Boolean nor a float."""
    require(isinstance(value, int) and not isinstance(value, bool), where, "not an integer")
    require(least is None or value >= least, where, f"less than {least}")
    return int(value)


def number(value: Any, where: str) -> float:
    """A finite number."""
    require(isinstance(value, int | float) and not isinstance(value, bool), where, "not a number")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        finite = False
    require(finite, where, "not finite")
    return float(value)


def items(value: Any, where: str, size: int | None = None) -> list[Any]:
    """A list, of ``size`` entries if that is given."""
    require(isinstance(value, list | tuple), where, "not a list")
    require(size is None or len(value) == size, where, f"not of length {size}")
    return list(value)


def texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(text(v, where) for v in items(value, where))


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object."""
    require(isinstance(value, Mapping) and all(isinstance(k, str) for k in value), where, "not an object")
    return dict(value)


def record(value: Any, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """An object with all ``required`` keys and no others but ``optional`` ones."""
    found = mapping(value, where)
    missing = sorted(set(required) - set(found))
    require(not missing, where, f"without {missing}")
    unknown = sorted(set(found) - {*required, *optional})
    require(not unknown, where, f"unknown {unknown}")
    return found


def indexed(value: Any, where: str) -> dict[int, Any]:
    """An object whose keys are non-negative integers in their shortest form, so that no two mean the same."""
    found = mapping(value, where)
    canonical = all(k == "0" or (k.isascii() and k.isdigit() and k[0] != "0") for k in found)
    require(canonical, where, "a key is no index")
    return {int(k): v for k, v in found.items()}


def loads(text: str) -> Any:
    """Like ``json.loads``, but refuses a key given twice, NaN, infinities and data nested too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as e:
        raise ValueError("JSON: nested too deeply") from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    require(len(record) == len(pairs), "JSON", "a key is given twice")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"JSON: {name} is no JSON number")
