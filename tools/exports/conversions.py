"""Exports rewritten by other tools: quantised by ONNX Runtime, in half precision, and cast to bfloat16.

Quantisation follows https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from tools.exports.case import ByPosition, Case

__all__ = ["CONVERSIONS", "CONVERTED", "Conversion", "in_bfloat16"]

Feeds = Mapping[str, Any]
Conversion = Callable[[Path, Path, Feeds], None]
"""Reads one file, writes the other; the feeds are inputs it runs with."""


@contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The file with all shapes known, which the quantiser asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True, skip_optimization=True)
        yield path


class _Feeds:
    """Calibration data as ONNX Runtime reads it."""

    def __init__(self, feeds: Feeds) -> None:
        self.rest = [dict(feeds)]

    def get_next(self) -> dict[str, Any] | None:
        return self.rest.pop() if self.rest else None


def _static(source: Path, target: Path, feeds: Feeds) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _prepared(source) as path:
        quantize_static(
            str(path),
            str(target),
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )


def _dynamic(source: Path, target: Path, feeds: Feeds) -> None:
    from onnxruntime.quantization import quantize_dynamic

    with _prepared(source) as path:
        quantize_dynamic(str(path), str(target))


def _half(source: Path, target: Path, feeds: Feeds) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


CONVERSIONS: dict[str, tuple[Conversion, float]] = {
    "qdq": (_static, 0.5),
    "dynamic": (_dynamic, 0.5),
    "fp16": (_half, 0.02),
}
"""Conversion → how, and how far its result may be from the module, relative to the largest output."""

CONVERTED: dict[str, Sequence[str]] = {
    "torch_pyramid": ("qdq", "fp16", "bf16"),
    "torch_unet": ("qdq",),
    "torch_lstm_lm": ("dynamic",),
    "hf_bert": ("qdq", "dynamic", "fp16"),
    "hf_gpt2": ("dynamic", "fp16"),
    "hf_llama": ("dynamic", "fp16", "bf16"),
    "hf_vit": ("qdq", "fp16"),
    "timm_efficientnet_b0": ("qdq", "fp16"),
}
"""Network → the conversions that are made of it. ``bf16`` is an export of the module itself."""


class Bfloat16(ByPosition):
    """A module in bfloat16 between inputs and outputs in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.bfloat16()

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.module(*(v.bfloat16() if v.is_floating_point() else v for v in values))
        return tuple(t.float() for t in ((found,) if isinstance(found, torch.Tensor) else found))


def in_bfloat16(case: Case) -> Case:
    """The case with its module in bfloat16."""
    return Case(Bfloat16(case.module), case.inputs, case.outputs, case.dynamic)


def reference_outputs(path: Path, feeds: Feeds) -> list[Any]:
    """Outputs by onnx's own evaluator: ONNX Runtime has few CPU kernels for bfloat16."""
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(value) for value in ReferenceEvaluator(str(path)).run(None, dict(feeds))]
