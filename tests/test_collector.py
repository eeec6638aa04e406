from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from onnxgrow.collector import without_collection


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


@without_collection
def _inner() -> bool:
    return gc.isenabled()


@without_collection
def _outer(fail: bool = False) -> tuple[bool, bool]:
    inside = _inner()
    if fail:
        raise KeyError
    return inside, gc.isenabled()


def test_collection_is_off_inside_nested_calls_and_on_after() -> None:
    assert _outer() == (False, False)
    assert gc.isenabled()


def test_collection_is_on_again_after_an_error() -> None:
    with pytest.raises(KeyError):
        _outer(fail=True)
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    _outer()
    assert not gc.isenabled()
