"""Small models for the tests of ``onnxgrow.concrete``, written as text."""

from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import onnx_ir as ir
import pytest


@pytest.fixture(scope="session")
def parse() -> Callable[..., ir.Model]:
    """``parse(graph, opset=17, ir_version=8)``: the model of a graph in ONNX's text form."""

    def parse_text(graph: str, opset: int = 17, ir_version: int = 8, others: str = "") -> ir.Model:
        header = f'<ir_version: {ir_version}, opset_import: ["": {opset}{others}]>'
        return ir.from_proto(onnx.parser.parse_model(f"{header} {graph}"))

    return parse_text
