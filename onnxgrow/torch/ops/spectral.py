"""Fourier transforms. Specs: https://onnx.ai/onnx/operators/onnx__DFT.html, https://onnx.ai/onnx/operators/onnx__STFT.html

Numbers lie on the last axis: one entry for real, two for complex ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onnxgrow.torch.registry import Kernel, NodeSpec, register

__all__: list[str] = []


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]


def _transform(x: Tensor, length: int, axis: int, onesided: bool, inverse: bool = False) -> Tensor:
    """Over an axis of numbers that are whole entries: padded with zeros, or cut, to the length."""
    y = torch.fft.ifft(x, length, axis) if inverse else torch.fft.fft(x, length, axis)
    return torch.view_as_real(y.narrow(axis, 0, length // 2 + 1) if onesided else y)


@register("DFT", sizes=(1,), since_version=17)
def dft(op: NodeSpec) -> Kernel:
    axis = op.attr("axis", 1)
    return _dft(op, lambda given: axis)


@register("DFT", sizes=(1, 2), since_version=20)
def dft_with_axis(op: NodeSpec) -> Kernel:
    return _dft(op, lambda given: -2 if given is None else given)


def _dft(op: NodeSpec, axis_of: Kernel) -> Kernel:
    onesided, inverse = bool(op.attr("onesided", 0)), bool(op.attr("inverse", 0))
    if onesided and inverse:
        op.fail("it is the inverse of a half")

    def run(x: Tensor, length: int | None = None, axis: int | None = None) -> Tensor:
        place = axis_of(axis) % x.dim()
        return _transform(_complex(x), x.shape[place] if length is None else length, place, onesided, inverse)

    return run


@register("STFT", sizes=(1, 3), since_version=17)
def stft(op: NodeSpec) -> Kernel:
    """Frames of a signal [N, L, 1 or 2] or [N, L], each times the window, transformed: [N, frames, frequencies, 2]."""
    onesided = bool(op.attr("onesided", 1))

    def run(signal: Tensor, step: int, window: Tensor | None = None, length: int | None = None) -> Tensor:
        size = length if length is not None else window.shape[0] if window is not None else signal.shape[1]
        frames = (_complex(signal) if signal.dim() == 3 else signal).unfold(1, size, step)
        return _transform(frames if window is None else frames * window, size, 2, onesided)

    return run
