"""Small models that are grown by hand in numpy, without any of the product's passes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrow.axis_map import AxisMap
from onnxgrow.growth_map import GrowthMap, SetGrowth, TensorGrowth, ValueGrowth
from onnxgrow.io import model_digest

MLP = """
<ir_version: 8, opset_import: ["" : 17]>
mlp (float[N,6] x) => (float[N,3] y) {
    h = Gemm(x, w1, b1)
    a = Relu(h)
    y = Gemm(a, w2, b2)
}
"""

CNN = """
<ir_version: 8, opset_import: ["" : 17]>
cnn (float[N,3,H,H] x) => (float[N,5] y) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1)
    n = BatchNormalization (c, scale, bias, mean, var)
    a = Relu(n)
    p = GlobalAveragePool(a)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w2, b2)
}
"""


def text_model(text: str, weights: Mapping[str, np.ndarray]) -> ir.Model:
    """A text model with its weights as initializers."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    return ir.from_proto(proto)


def random(shape: tuple[int, ...], seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def mlp(hidden: int = 4, dtype: type = np.float32) -> ir.Model:
    return text_model(
        MLP.replace("float[", "double[" if dtype is np.float64 else "float["),
        {
            "w1": random((6, hidden), 1, dtype),
            "b1": random((hidden,), 2, dtype),
            "w2": random((hidden, 3), 3, dtype),
            "b2": random((3,), 4, dtype),
        },
    )


def cnn(channels: int = 4) -> ir.Model:
    return text_model(
        CNN,
        {
            "w1": random((channels, 3, 3, 3), 1),
            "b1": random((channels,), 2),
            "scale": random((channels,), 3),
            "bias": random((channels,), 4),
            "mean": random((channels,), 5),
            "var": np.abs(random((channels,), 6)) + 0.5,
            "w2": random((5, channels), 7),
            "b2": random((5,), 8),
        },
    )


def copy(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy().copy()


def set_weight(model: ir.Model, name: str, array: np.ndarray) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)


def appended(old: int, new: int) -> AxisMap:
    return AxisMap.from_source([*range(old), *[-1] * (new - old)])


def grow(
    model: ir.Model,
    tensors: Mapping[str, Mapping[int, AxisMap]],
    values: Mapping[str, Mapping[int, AxisMap]],
    sets: tuple[SetGrowth, ...] = (),
    zero_axis: Mapping[str, int] | None = None,
    seed: int = 9,
    exact: bool = True,
) -> tuple[ir.Model, GrowthMap]:
    """Grow ``tensors`` with random new entries; where ``zero_axis`` is new, entries at old other indices are zero."""
    grown = copy(model)
    listed = {}
    for name, axes in tensors.items():
        old = weight(model, name)
        shape = tuple(axes[a].new_size if a in axes else n for a, n in enumerate(old.shape))
        new = np.abs(random(shape, seed)).astype(old.dtype) + old.dtype.type(0.1)
        new *= np.where(np.random.default_rng(seed).integers(0, 2, shape), 1, -1 if name != "var" else 1)
        if zero_axis and name in zero_axis:
            axis = zero_axis[name]
            block = [axes[a].positions() if a in axes else np.arange(n) for a, n in enumerate(old.shape)]
            block[axis] = np.flatnonzero(axes[axis].source() < 0)
            new[np.ix_(*block)] = 0
        new[np.ix_(*[axes[a].positions() if a in axes else np.arange(n) for a, n in enumerate(old.shape)])] = old
        set_weight(grown, name, new.astype(old.dtype))
        listed[name] = TensorGrowth(axes, sha256=hashlib.sha256(new.astype(old.dtype).tobytes()).hexdigest())
        seed += 1
    for value in [v for node in grown.graph for v in node.outputs]:
        if value.name in values and value.shape is not None:
            dims = list(value.shape)
            for axis, axis_map in values[value.name].items():
                dims[axis] = axis_map.new_size
            value.shape = ir.Shape(dims)
    growth = GrowthMap(
        original=model_digest(model),
        exact=exact,
        sets=sets,
        tensors=listed,
        values={name: ValueGrowth(axes) for name, axes in values.items()},
    )
    return grown, growth


def grown_mlp(
    model: ir.Model | None = None, old: int = 4, new: int = 7, method: str = "zero-fan-out"
) -> tuple[ir.Model, ir.Model, GrowthMap]:
    model = model or mlp(old)
    axis = appended(old, new)
    grown, growth = grow(
        model,
        {"w1": {1: axis}, "b1": {0: axis}, "w2": {0: axis}},
        {"h": {1: axis}, "a": {1: axis}},
        (SetGrowth("w1", old, new, ("w1", "b1"), ("w2",), method),),
        {"w2": 0} if method != "zero-fan-in" else {"w1": 1, "b1": 0},
    )
    return model, grown, growth


def grown_cnn(old: int = 4, new: int = 6) -> tuple[ir.Model, ir.Model, GrowthMap]:
    model = cnn(old)
    axis = appended(old, new)
    grown, growth = grow(
        model,
        {"w1": {0: axis}, **{n: {0: axis} for n in ("b1", "scale", "bias", "mean", "var")}, "w2": {1: axis}},
        {name: {1: axis} for name in ("c", "n", "a", "p", "f")},
        (SetGrowth("w1", old, new, ("w1", "b1"), ("w2",)),),
        {"w2": 1},
    )
    return model, grown, growth
