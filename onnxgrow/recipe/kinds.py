"""What the value of a key may be: how it is read, and how the JSON schema says it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from onnxgrow.names import STARTS
from onnxgrow.recipe.tree import Located

__all__ = ["Choice", "Data", "Flag", "Integer", "Kind", "Number", "Sizes", "Start", "Text", "Texts"]

LARGEST = 2**63 - 1


class Kind(Protocol):
    """One kind of value."""

    def read(self, given: Located) -> Any:
        """The value for the pass. Raises UsageError, with the line, where it is none of this kind."""

    def schema(self) -> dict[str, Any]:
        """The same as a JSON schema."""


def _integer(given: Located, least: int) -> int:
    if type(given.value) is not int:
        raise given.fault(f"{given.word()} where a whole number belongs")
    if not least <= given.value <= LARGEST:
        raise given.fault(f"{given.value} is not from {least} to 2^63 - 1")
    return given.value


@dataclass(frozen=True)
class Integer:
    """A whole number."""

    least: int = 0

    def read(self, given: Located) -> int:
        return _integer(given, self.least)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": LARGEST}


@dataclass(frozen=True)
class Number:
    """A finite number from 0 up."""

    def read(self, given: Located) -> float:
        if type(given.value) not in (int, float):
            raise given.fault(f"{given.word()} where a number belongs")
        if given.value < 0 or not math.isfinite(given.value):
            raise given.fault(f"{given.value} is not a number from 0 up")
        return float(given.value)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, given: Located) -> bool:
        if not isinstance(given.value, bool):
            raise given.fault(f"{given.word()} where true or false belongs")
        return given.value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text:
    """A text that is not empty."""

    def read(self, given: Located) -> str:
        if not isinstance(given.value, str) or not given.value:
            hint = "put quotes around it" if type(given.value) in (int, float, bool) else ""
            raise given.fault(f"{given.word()} where a text belongs" if given.value != "" else "an empty text", hint)
        return given.value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Texts:
    """One text or several.

    Attributes:
        numbers: Whether whole numbers are texts, too.
    """

    numbers: bool = False

    def read(self, given: Located) -> tuple[str, ...]:
        items = given.value if isinstance(given.value, list) else [given]
        if not items:
            raise given.fault("an empty list", "leave the key out")
        return tuple(str(i.value) if self.numbers and type(i.value) is int else Text().read(i) for i in items)

    def schema(self) -> dict[str, Any]:
        text = {"oneOf": [Text().schema(), {"type": "integer"}]} if self.numbers else Text().schema()
        return {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]}


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    options: tuple[str, ...]

    def read(self, given: Located) -> str:
        if given.value not in self.options:
            raise given.fault(f"{given.plain()!r} is none of these", f"one of {', '.join(self.options)}")
        return str(given.value)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Sizes:
    """A size, or one per spatial axis."""

    def read(self, given: Located) -> int | tuple[int, ...]:
        if not isinstance(given.value, list):
            return _integer(given, 1)
        if not given.value:
            raise given.fault("an empty list where sizes belong")
        return tuple(_integer(item, 1) for item in given.value)

    def schema(self) -> dict[str, Any]:
        size = Integer(1).schema()
        return {"oneOf": [size, {"type": "array", "items": size, "minItems": 1}]}


@dataclass(frozen=True)
class Start:
    """a and b of an ActiSwitch a·x + b·f(x): a pair of numbers, or a name for one."""

    def read(self, given: Located) -> tuple[float, float]:
        if isinstance(given.value, str) and given.value in STARTS:
            return STARTS[given.value]
        if not isinstance(given.value, list) or len(given.value) != 2:
            raise given.fault(f"{given.word()} where linear, nonlinear or [a, b] belongs")
        for item in given.value:
            if type(item.value) not in (int, float):
                raise item.fault(f"{item.word()} where a number belongs")
        a, b = (float(item.value) for item in given.value)
        return a, b

    def schema(self) -> dict[str, Any]:
        pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
        return {"oneOf": [{"enum": list(STARTS)}, pair]}


@dataclass(frozen=True)
class Data:
    """Options of a pass that onnxgrow does not know: a mapping of anything."""

    def read(self, given: Located) -> dict[str, Any]:
        if not isinstance(given.value, dict):
            raise given.fault(f"{given.word()} where a mapping of options belongs")
        found: dict[str, Any] = given.plain()
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}
