"""Activations of ONNX Runtime's own domain: channels grow through them, and the whole verification agrees."""

from __future__ import annotations

import pytest
from support import model_of

from onnxgrow.passes import Widen
from onnxgrow.verify.report import Verdict

DOMAIN = ', "com.microsoft": 1'
AB = {"wa": (6, 4), "wb": (4, 3)}


def text(call: str) -> str:
    return f"g (float[N,6] x) => (float[N,3] y) {{ h = MatMul(x, wa) a = com.microsoft.{call} y = MatMul(a, wb) }}"


@pytest.mark.parametrize(
    ("call", "more"),
    [
        ("Gelu(h)", {}),
        ("QuickGelu(h)", {}),
        ("FastGelu(h)", {}),
        ("FastGelu(h, b)", {"b": (4,)}),
        ("BiasGelu(h, b)", {"b": (4,)}),
    ],
)
def test_channels_grow_through_them(call: str, more: dict[str, tuple[int, ...]]) -> None:
    model = model_of(text(call), AB | more, imports=DOMAIN)
    assert Widen(add=2)(model).report.verdict is Verdict.EQUIVALENT
