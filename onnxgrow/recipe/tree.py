"""The text of a recipe as a tree in which everything knows its line.

The data model is that of JSON, in the notation of YAML 1.2 (core schema): no tags, anchors or aliases, no key twice, so
that a text can be read in one way only and in time that is linear in its size.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from onnxgrow.errors import BadInputError, EnvironmentFault, UsageError

__all__ = ["Located", "parse", "read_text"]

LARGEST = 1_000_000
"""Bytes of a recipe; a longer file is something else."""

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Located:
    """A value and where it stands.

    Attributes:
        value: None, bool, int, float, str, a list of ``Located`` or a dict of text → ``Located``.
        file: Name of the recipe.
        line: From 1.
        key_lines: For a dict: the line of each key.
    """

    value: Any
    file: str
    line: int
    key_lines: dict[str, int]

    def fault(self, reason: str, hint: str = "", line: int | None = None) -> UsageError:
        """An error about this value, or about one of its lines."""
        return UsageError(f"{self.file}:{self.line if line is None else line}", reason, hint)

    def plain(self) -> Any:
        """The same as plain data."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def word(self) -> str:
        """What kind of value this is, for messages."""
        names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
        return names.get(type(self.value), "a number")


def read_text(path: Path) -> str:
    """The text of a recipe file.

    Raises:
        BadInputError: The file is missing, no regular file, too large, or no UTF-8 text.
        EnvironmentFault: It cannot be read.
    """
    try:
        if not path.is_file():
            reason = "this is no file" if path.exists() else "the file does not exist"
            raise BadInputError(str(path), reason, "give the name of a recipe, as in recipe.yaml")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as e:
        raise EnvironmentFault(str(path), f"cannot be read: {e.strerror or e}") from e
    if len(data) > LARGEST:
        raise BadInputError(str(path), "a recipe has at most 1 MB", "is this the model? the recipe comes first")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadInputError(str(path), "this is no text in UTF-8", "is this the model? the recipe comes first") from e


def parse(text: str, file: str = "recipe") -> Located:
    """The tree of a recipe's text.

    Raises:
        UsageError: No YAML, or something that could be read in two ways; the line is named.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise UsageError(f"{file}:1", "the recipe is empty", "it has a list of steps")
        return _located(node, file)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UsageError(f"{file}:{line}", f"this is no YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise UsageError(f"{file}:1", f"this is no YAML: {' '.join(str(e).split())[:200]}") from e
    except RecursionError as e:
        raise UsageError(f"{file}:1", "it is nested too deeply") from e


class _Loader(yaml.BaseLoader):
    """Every scalar stays text; aliases, which can make a short text endless, are refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not allowed", problem_mark=self.get_mark())
        return super().compose_node(parent, index)


def _located(node: yaml.Node, file: str) -> Located:
    line = node.start_mark.line + 1
    here = Located(None, file, line, {})
    if node.tag not in (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")):
        raise here.fault(f"tags such as {node.tag[:40]!r} are not allowed", "write the value without it")
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(item, file) for item in node.value], file, line, {})
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Located] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = _located(key, file)
            if not isinstance(key, yaml.ScalarNode):
                raise name.fault(f"a key is {name.word()}", "keys are texts")
            text = _joined(key.value, name)
            if text in found:
                raise name.fault(f"the key {text!r} is given twice", f"see line {lines[text]}")
            found[text], lines[text] = _located(value, file), name.line
        return Located(found, file, line, lines)
    assert isinstance(node, yaml.ScalarNode)
    return Located(_scalar(node.value, node.style is None, here), file, line, {})


def _joined(text: str, here: Located) -> str:
    """JSON writes characters beyond the first 65,536 as two escapes, which YAML reads as two halves of one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as e:
        raise here.fault("an escape in it is half a character") from e


def _scalar(text: str, is_plain: bool, here: Located) -> Any:
    if not is_plain:
        return _joined(text, here)
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise here.fault(f"{text[:40]} is too large a number")
        return value
    return text
