"""Strict reading: each reader takes its own kind of data and nothing that merely looks like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from onnxgrow import strict_json as js

SAMPLES: dict[str, Any] = {
    "null": None,
    "flag": True,
    "integer": 3,
    "zero": 0,
    "float": 3.0,
    "text": "3",
    "list": [1],
    "texts": ["a"],
    "object": {"a": 1},
    "indexed": {"0": 1, "10": 2},
    "not a number": math.nan,
    "infinity": -math.inf,
    "beyond float": 10**400,
}


@pytest.mark.parametrize(
    ("read", "taken"),
    [
        (js.flag, {"flag"}),
        (js.integer, {"integer", "zero", "beyond float"}),
        (lambda v, w: js.integer(v, w, least=1), {"integer", "beyond float"}),
        (js.number, {"integer", "zero", "float"}),
        (js.text, {"text"}),
        (js.items, {"list", "texts"}),
        (lambda v, w: js.items(v, w, 2), set()),
        (js.texts, {"texts"}),
        (js.mapping, {"object", "indexed"}),
        (lambda v, w: js.record(v, w, ["a"]), {"object"}),
        (lambda v, w: js.record(v, w, [], ["a", "b"]), {"object"}),
        (lambda v, w: js.record(v, w, ["a", "b"]), set()),
        (js.indexed, {"indexed"}),
    ],
)
def test_each_reader_takes_only_its_own_kind(read: Callable[[Any, str], Any], taken: set[str]) -> None:
    for name, value in SAMPLES.items():
        if name in taken:
            read(value, "place")
        else:
            with pytest.raises(ValueError, match=r"^place: ."):
                read(value, "place")


@pytest.mark.parametrize("key", ["", "00", "01", "-1", "+1", " 1", "1.0", "1_0", "²", "a"])
def test_an_index_is_written_in_one_way_only(key: str) -> None:
    with pytest.raises(ValueError, match="a key is no index"):
        js.indexed({key: 0}, "place")


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '[{"b":{"a":1,"a":2}}]', "NaN", "[Infinity]", "-Infinity", "[" * 10**5]
)
def test_json_that_parsers_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^JSON: ."):
        js.loads(text)


def test_plain_json_is_read() -> None:
    assert js.loads('{"a":[1,2.5,"x",null,true]}') == {"a": [1, 2.5, "x", None, True]}
