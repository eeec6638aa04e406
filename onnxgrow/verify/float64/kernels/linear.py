"""Matrix products in float64.

Spec: https://onnx.ai/onnx/operators/onnx__Gemm.html, …MatMul.html, …Einsum.html
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxgrow.verify.float64.kernels.pieces import Derived, Large, is_large, spans, to_float64, whole
from onnxgrow.verify.float64.kernels.registry import Array, Call, kernel

__all__: list[str] = []


@kernel("Gemm", piecewise=(0, 1), contraction=True)
def _gemm(call: Call) -> tuple[Array]:
    a, b, c = call.inputs[0], call.inputs[1], call.input(2)
    y = _product(call, a, b, bool(call.attr("transA", 0)), bool(call.attr("transB", 0)))
    if call.attr("alpha", 1.0) != 1.0:
        y = y * call.attr("alpha")
    if c is None:
        return (y,)
    return (y + (c if call.attr("beta", 1.0) == 1.0 else c * call.attr("beta")),)


@kernel("MatMul", piecewise=(0, 1), contraction=True)
def _matmul(call: Call) -> tuple[Array]:
    return (_product(call, *call.inputs),)


@kernel("FusedMatMul", domain="com.microsoft", piecewise=(0, 1), contraction=True)
def _fused_matmul(call: Call) -> tuple[Array]:
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise call.unsupported("transBatchA and transBatchB are not covered")
    a, b = call.inputs[:2]
    y = _product(call, a, b, bool(call.attr("transA", 0)), bool(call.attr("transB", 0)))
    return (np.asarray(y * call.attr("alpha", 1.0)),)


def _product(call: Call, a: Large, b: Large, swap_a: bool = False, swap_b: bool = False) -> Array:
    """``a @ b``, the last two axes of either swapped on request; a large matrix is read in pieces of its rows."""
    if is_large(b) and b.ndim == 2 and not is_large(a):
        left = _plain(a, swap_a)
        if not swap_b:  # its rows are contracted
            return _sum(_times(call, left[..., p], to_float64(b[p])) for p in _fine(call.parts(b.shape[0]), b.shape[1]))
        rows = (_cut(call, left, to_float64(b[p]).T) for p in spans(b.shape[0], b.shape[1]))
        return np.concatenate(list(rows), axis=-1)
    right = _plain(b, swap_b)
    if is_large(a) and a.ndim == 2 and right.ndim == 2:
        if swap_a:
            return _sum(_times(call, to_float64(a[p]).T, right[p]) for p in _fine(call.parts(a.shape[0]), a.shape[1]))
        return np.concatenate([_cut(call, to_float64(a[p]), right) for p in spans(a.shape[0], a.shape[1])])
    return _cut(call, _plain(a, swap_a), right)


def _plain(x: Large, swap: bool) -> Array:
    found: Array = whole(x) if isinstance(x, Derived) else to_float64(x)
    return np.swapaxes(found, -1, -2) if swap else found


def _fine(parts: list[slice], row: int) -> Iterator[slice]:
    """The parts, each in pieces of at most so many rows of ``row`` entries."""
    for part in parts:
        for piece in spans(part.stop - part.start, row):
            yield slice(part.start + piece.start, part.start + piece.stop)


def _cut(call: Call, a: Array, b: Array) -> Array:
    parts = call.parts(a.shape[-1])
    if len(parts) < 2:
        return _times(call, a, b)
    return _sum(_times(call, a[..., p], b[..., p, :] if b.ndim > 1 else b[p]) for p in parts)


def _times(call: Call, a: Array, b: Array) -> Array:
    return np.asarray(np.matmul(call.spaced(a, -1), call.spaced(b, -2 if b.ndim > 1 else 0)))


def _sum(terms: Iterator[Any]) -> Array:
    return np.asarray(functools.reduce(operator.add, terms))


@kernel("Einsum", contraction=True)
def _einsum(call: Call) -> tuple[Array]:
    equation = str(call.attr("equation")).replace(" ", "")
    label = _contracted(equation, call.inputs) if call.cuts else ""
    if not label:
        return (np.asarray(np.einsum(equation, *call.inputs, optimize=True)),)
    terms = equation.split("->")[0].split(",")
    axes = [term.find(label) for term in terms]
    size = next(x.shape[axis] for axis, x in zip(axes, call.inputs, strict=True) if axis >= 0)
    cut = (
        [
            x if axis < 0 else call.spaced(x[(slice(None),) * axis + (p,)], axis)
            for axis, x in zip(axes, call.inputs, strict=True)
        ]
        for p in call.parts(size)
    )
    return (_sum(np.einsum(equation, *part, optimize=True) for part in cut),)


def _contracted(equation: str, inputs: tuple[Any, ...]) -> str:
    """The longest axis that is summed up, among those that every term names once; empty where there is none."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation:  # axes behind an ellipsis have no fixed place
        return ""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, inputs, strict=True):
        sizes |= dict(zip(term, x.shape, strict=True))
    summed = [
        label
        for label in sizes
        if (label not in right if arrow else left.count(label) > 1) and all(t.count(label) <= 1 for t in terms)
    ]
    return max(summed, key=lambda label: (sizes[label], label), default="")
