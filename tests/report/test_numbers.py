"""Numbers as people read them."""

from __future__ import annotations

import pytest

from onnxgrow.report.numbers import amount, figure, file_size, share, whole


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: whole(1024), "1,024"),
        (lambda: amount(0), "0"),
        (lambda: amount(9_999), "9,999"),
        (lambda: amount(10_000), "10.0 k"),
        (lambda: amount(4_200_000_000), "4.20 G"),
        (lambda: file_size(999), "999 B"),
        (lambda: file_size(15_300), "15.3 kB"),
        (lambda: share(4, 10), "x2.50"),
        (lambda: share(0, 10), ""),
        (lambda: figure(0.0), "0"),
        (lambda: figure(1.23456e-7), "1.23e-07"),
        (lambda: figure("inf"), "inf"),
        (lambda: figure(None), "?"),
    ],
)
def test_number(call, text):
    assert call() == text
