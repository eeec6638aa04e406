"""The text of recipes: what it means, and the line of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxgrow.errors import BadInputError, UsageError
from onnxgrow.recipe.tree import LARGEST, parse, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("2024-01-01", "2024-01-01"),
        ("enc.*", "enc.*"),
        ("[1, [a, 2.0]]", [1, ["a", 2.0]]),
        ("{a: {b: []}, c: }", {"a": {"b": []}, "c": None}),
        ('{"a": [1, null]}', {"a": [1, None]}),
        (r'{"\ud83d\udca1": "\ud83d\udca1/\u5c42"}', {"💡": "💡/层"}),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse(text).plain()
    assert found == value
    assert type(found) is type(value)


def test_everything_knows_its_line() -> None:
    top = parse("# first\nsteps:\n  - widen:\n      factor: 2\n  - fold\n", "r.yaml")
    steps = top.value["steps"]
    assert top.key_lines == {"steps": 2}
    assert [s.line for s in steps.value] == [3, 5]
    assert steps.value[0].value["widen"].key_lines == {"factor": 4}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "given twice"),
        ("a: &x 1\nb:\n  - *x", 3, "aliases"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "tags"),
        ("a: 1\nb: !mine 3", 2, "tags"),
        ("a: 1\n? [1, 2]\n: 3", 2, "a key is a list"),
        ("a: [1, 2", 1, "no YAML"),
        ("a: 1\n\tb: 2", 2, "no YAML"),
        ("a: 1\n---\nb: 2", 2, "no YAML"),
        ("a: 1\nb: 1e999", 2, "too large"),
        ("", 1, "empty"),
        ("a: \x00", 1, "no YAML"),
        (r'a: "\ud83d"', 1, "half a character"),
        ("[" * 5000, 1, "nested too deeply"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "r.yaml")
    assert caught.value.subject == f"r.yaml:{line}"
    assert words in caught.value.reason


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"\xff\xfe\x00", "no text"), (b"#" * (LARGEST + 1), "at most 1 MB")],
)
def test_a_file_that_is_no_text_is_bad_input(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match=words):
        read_text(path)
