"""One case per form of an op: what it reads and how; run in ONNX Runtime and as a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["CASES", "Case", "model_of_case"]


@dataclass(frozen=True)
class Case:
    """A node: arrays or shapes of its inputs (None: absent), attributes, opset.

    Floating-point inputs are graph inputs, all others initializers, unless ``fixed`` names their position. ``smooth``:
    whether finite differences apply.
    """

    op_type: str
    inputs: Sequence[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    domain: str = ""
    fixed: Sequence[int] = ()
    smooth: bool = True
    tolerance: float = 2e-6

    def __str__(self) -> str:
        attributes = "-".join(f"{k}={v}" for k, v in self.attributes.items() if not isinstance(v, onnx.TensorProto))
        return f"{self.op_type}{self.opset}-{attributes}"

    def arrays(self) -> list[np.ndarray | None]:
        rng = np.random.default_rng(7)
        made: list[np.ndarray | None] = []
        for given in self.inputs:
            if isinstance(given, tuple):
                made.append(rng.normal(size=given).astype(np.float32))
            else:
                made.append(given)
        return made


def model_of_case(case: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model of one node, and feeds for its inputs."""
    names, feeds, initializers = [], {}, []
    for i, array in enumerate(case.arrays()):
        if array is None:
            names.append("")
            continue
        names.append(f"x{i}")
        if array.dtype == np.float32 and i not in case.fixed:
            feeds[f"x{i}"] = array
        else:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), f"x{i}"))
    node = helper.make_node(
        case.op_type, names, [f"y{i}" for i in range(case.outputs)], domain=case.domain, **case.attributes
    )
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v.shape) for k, v in feeds.items()],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(case.outputs)],
        initializers,
    )
    imports = [helper.make_opsetid("", case.opset), *([helper.make_opsetid(case.domain, 1)] if case.domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def signed(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 37 % 255 - 127).astype(np.int8).reshape(shape)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def one(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def positive(*shape: int) -> np.ndarray:
    return (np.random.default_rng(3).random(shape) * 0.8 + 0.1).astype(np.float32)


X = (2, 3, 4)
IMAGE = (2, 4, 7, 6)
MASK = np.array([[True, False, True]] * 2)

CASES: list[Case] = [
    *[
        Case(name, [X])
        for name in "Abs Neg Exp Erf Sin Cos Atan Sinh Cosh Asinh Sigmoid Tanh Softplus Softsign HardSigmoid".split()
    ],
    *[Case(name, [positive(2, 3)]) for name in "Sqrt Log Reciprocal Tan Asin Acos Atanh".split()],
    Case("Acosh", [positive(2, 3) + np.float32(1.5)]),
    *[Case(name, [X], smooth=False) for name in "Floor Ceil Round Sign IsNaN".split()],
    Case("IsInf", [floats(1, -np.inf, np.inf)], {"detect_negative": 0}, smooth=False),
    *[Case(name, [X]) for name in "Relu LeakyRelu Elu Celu Selu ThresholdedRelu HardSwish Identity Shrink".split()],
    Case("Mish", [X], opset=18),
    Case("Swish", [X], {"alpha": 0.7}, opset=24),
    Case("Gelu", [X], opset=20),
    Case("Gelu", [X], {"approximate": "tanh"}, opset=20),
    Case("Gelu", [X], domain="com.microsoft"),
    Case("QuickGelu", [X], domain="com.microsoft"),
    Case("BiasGelu", [X, (4,)], domain="com.microsoft"),
    Case("FastGelu", [X, (4,)], domain="com.microsoft"),
    Case("LeakyRelu", [X], {"alpha": 0.3}),
    Case("Elu", [X], {"alpha": 0.3}),
    Case("Celu", [X], {"alpha": 0.6}),
    Case("PRelu", [X, (3, 1)]),
    *[Case(n, [X], {"axis": a}, opset=o) for n in ("Softmax", "LogSoftmax") for a, o in ((1, 11), (1, 13), (-1, 17))],
    Case("Hardmax", [X], {"axis": 1}, smooth=False),
    *[Case(name, [X, (3, 1)]) for name in ("Add", "Sub", "Mul")],
    Case("Div", [X, positive(3, 1)]),
    Case("Div", [ints(7, -7, 7, -7), ints(2, 2, -2, -2)], smooth=False),
    Case("Pow", [positive(2, 3), one(2.5)]),
    Case("Pow", [positive(2, 3), one(2, np.int64)]),
    Case("Mod", [ints(7, -7, 7, -7), ints(3, 3, -3, -3)], smooth=False),
    Case("Mod", [floats(7, -7), floats(3, 3)], {"fmod": 1}),
    *[Case(n, [X, (2, 1, 4)], smooth=False) for n in "Greater Less GreaterOrEqual LessOrEqual Equal".split()],
    *[Case(n, [MASK, MASK[:, :1]], smooth=False) for n in ("And", "Or", "Xor")],
    Case("Not", [MASK], smooth=False),
    *[Case(n, [ints(6, 5), ints(3, 3)], opset=18, smooth=False) for n in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")],
    Case("BitwiseNot", [ints(6, -5)], opset=18, smooth=False),
    *[
        Case("BitShift", [np.array([6, 5, m], t), np.array([1, 2, 0], t)], {"direction": d}, smooth=False)
        for d in ("LEFT", "RIGHT")
        for t, m in ((np.uint8, 2**8 - 1), (np.uint32, 2**32 - 1), (np.uint64, 2**64 - 1))
    ],
    *[Case(n, [X, (3, 1), (4,)]) for n in ("Sum", "Mean", "Max", "Min")],
    Case("Where", [np.array([[True], [False], [True]]), X, (4,)]),
    Case("Clip", [X], {"min": -0.5, "max": 0.7}, opset=6),
    Case("Clip", [X, one(-0.5), one(0.7)], opset=13, fixed=(1, 2)),
    Case("Clip", [X, None, one(0.7)], opset=13, fixed=(2,)),
    Case("Clip", [X, one(-0.5), one(0.7)], opset=13),
    Case("Cast", [X], {"to": onnx.TensorProto.INT32}, smooth=False),
    Case("Cast", [ints(0, 3)], {"to": onnx.TensorProto.FLOAT}, smooth=False),
    Case("Cast", [X], {"to": onnx.TensorProto.FLOAT}),
    Case("CastLike", [ints(0, 3), (1,)], smooth=False),
    Case("CastLike", [X, (1,)]),
    Case("Dropout", [X], {"ratio": 0.4}, opset=11),
    Case("Dropout", [X, one(0.4)], outputs=2, fixed=(1,)),
    # linear
    Case("MatMul", [(2, 3, 4), (4, 5)]),
    Case("MatMul", [(4,), (2, 4, 5)]),
    Case("Gemm", [(3, 4), (4, 5), (5,)]),
    Case("Gemm", [(3, 4), (5, 4), (5,)], {"transB": 1}),
    Case("Gemm", [(4, 3), (5, 4), (3, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [(3, 4), (4, 5)], {"alpha": 0.5}),
    Case("Einsum", [(2, 3, 4), (4, 5)], {"equation": "bij, jk -> bik"}),
    Case("Einsum", [(2, 3, 4), (2, 3, 4)], {"equation": "...j,...j->..."}),
    Case("FusedMatMul", [(2, 3, 4), (2, 5, 4)], {"transB": 1, "alpha": 0.5}, domain="com.microsoft"),
    Case("FusedGemm", [(3, 4), (4, 5), (5,)], {"activation": "Relu"}, domain="com.microsoft"),
    Case("Det", [(3, 3)]),
    # convolution
    Case("Conv", [(2, 4, 9), (6, 4, 3), (6,)], {"pads": [1, 1]}),
    Case("Conv", [IMAGE, (6, 4, 3, 3), (6,)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    Case("Conv", [IMAGE, (6, 2, 3, 2)], {"group": 2, "pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    *[Case("Conv", [IMAGE, (5, 4, 3, 4)], {"auto_pad": p, "strides": [2, 2]}) for p in ("SAME_UPPER", "SAME_LOWER")],
    Case("Conv", [IMAGE, (5, 4, 3, 4)], {"auto_pad": "VALID"}),
    Case("Conv", [(1, 2, 4, 4, 4), (3, 2, 2, 2, 2), (3,)]),
    Case("FusedConv", [IMAGE, (4, 4, 3, 3), (4,)], {"activation": "Relu"}, domain="com.microsoft"),
    Case("ConvTranspose", [(1, 4, 5), (4, 3, 3), (3,)], {"strides": [2], "output_padding": [1]}),
    Case("ConvTranspose", [IMAGE, (4, 3, 3, 3), (6,)], {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("ConvTranspose", [IMAGE, (4, 3, 3, 3), (3,)], {"pads": [0, 1, 2, 1], "dilations": [2, 1]}),
    Case("Col2Im", [(2, 8, 12), ints(4, 5), ints(2, 2)], opset=18),
    Case(
        "Col2Im",
        [(1, 12, 16), ints(7, 6), ints(2, 3)],
        {"pads": [1, 0, 0, 2], "strides": [2, 1], "dilations": [1, 2]},
        opset=18,
    ),
    Case("Col2Im", [(1, 16, 4), ints(2, 3, 3), ints(2, 2, 2)], opset=18),
    Case("ConvTranspose", [IMAGE, (4, 3, 3, 3)], {"output_shape": [15, 12], "strides": [2, 2]}),
    *[
        Case("ConvTranspose", [IMAGE, (4, 3, 3, 3)], {"auto_pad": p, "strides": [2, 2]})
        for p in ("SAME_UPPER", "SAME_LOWER")
    ],
    # pooling
    Case("MaxPool", [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    Case("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("MaxPool", [(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}),
    Case("AveragePool", [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", [IMAGE], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    Case("AveragePool", [IMAGE], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    Case("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}),
    Case("LpPool", [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "p": 3}),
    *[Case(n, [IMAGE]) for n in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")],
    # normalisation
    Case(
        "BatchNormalization", [IMAGE, (4,), (4,), floats(0.1, 0, -1, 2), positive(4)], {"epsilon": 1e-3}, fixed=(3, 4)
    ),
    Case("BatchNormalization", [IMAGE, (4,), (4,), (4,), positive(4)]),
    Case("LayerNormalization", [X, (4,), (4,)]),
    Case("LayerNormalization", [X, (3, 4), (3, 4)], {"axis": 1, "epsilon": 1e-3}, outputs=3),
    Case("LayerNormalization", [X, (4,)], {"axis": -1}),
    Case("InstanceNormalization", [IMAGE, (4,), (4,)]),
    Case("GroupNormalization", [IMAGE, (2,), (2,)], {"num_groups": 2}, opset=18),
    Case("GroupNormalization", [IMAGE, (4,), (4,)], {"num_groups": 2}, opset=21),
    Case("LpNormalization", [X], {"axis": 1, "p": 2}),
    Case("MeanVarianceNormalization", [IMAGE], tolerance=1e-5),
    Case("LRN", [IMAGE], {"size": 3, "alpha": 0.5, "beta": 0.6}),
    Case("SimplifiedLayerNormalization", [X, (4,)]),
    Case("RMSNormalization", [X, (4,)], opset=23),
    Case("RMSNormalization", [X, (3, 4)], {"axis": 1, "epsilon": 1e-3}, opset=23),
    Case("SkipLayerNormalization", [X, X, (4,), (4,), (4,)], domain="com.microsoft"),
    Case("SkipSimplifiedLayerNormalization", [X, X, (4,)], domain="com.microsoft"),
    # reduction
    *[
        Case(name, [positive(2, 3, 4)], {"axes": [1], "keepdims": keep}, opset=11)
        for name in (
            "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum"
            " ReduceLogSumExp"
        ).split()
        for keep in (0, 1)
    ],
    Case("ReduceMean", [X, ints(-1, 0)], {"keepdims": 0}, opset=18),
    Case("ReduceSum", [X, ints(1)], opset=13),
    Case("ReduceSum", [X], {"noop_with_empty_axes": 1}, opset=13),
    Case("ReduceMax", [X], {"keepdims": 0}, opset=18),
    Case("ReduceProd", [positive(2, 3, 4)], opset=13),
    Case("ArgMax", [floats(1, 3, 3, 0).reshape(2, 2)], {"axis": 0}, smooth=False),
    Case("ArgMax", [floats(3, 1, 3)], {"select_last_index": 1, "keepdims": 0}, smooth=False),
    Case("ArgMin", [X], {"axis": -1}, smooth=False),
    Case("CumSum", [X, one(1, np.int64)]),
    Case("CumSum", [X, one(-1, np.int64)], {"exclusive": 1, "reverse": 1}),
    # movement
    Case("Reshape", [X, ints(0, -1)]),
    Case("Reshape", [X, ints(4, 6)]),
    Case("Flatten", [X], {"axis": 2}),
    Case("Flatten", [X], {"axis": 0}),
    Case("Transpose", [X]),
    Case("Transpose", [X], {"perm": [1, 0, 2]}),
    Case("Squeeze", [(2, 1, 3, 1), ints(1, -1)]),
    Case("Squeeze", [(2, 1, 3, 1)]),
    Case("Squeeze", [(2, 1, 3, 1)], {"axes": [1]}, opset=11),
    Case("Unsqueeze", [X, ints(0, -1)]),
    Case("Unsqueeze", [X], {"axes": [1]}, opset=11),
    Case("Concat", [X, X, (2, 1, 4)], {"axis": 1}),
    Case("Split", [X, ints(1, 3)], {"axis": 2}, outputs=2),
    Case("Split", [X], {"axis": 2}, outputs=2, opset=11),
    Case("Split", [(7, 2)], {"num_outputs": 3}, outputs=3, opset=18),
    Case("Split", [X], {"axis": -1, "split": [1, 3]}, outputs=2, opset=11),
    Case("Slice", [X], {"starts": [1, 0], "ends": [9, -1], "axes": [1, 2]}, opset=9),
    Case("Slice", [X, ints(0), ints(4), ints(2), ints(2)]),
    Case("Slice", [X, ints(-1, 2), ints(-9, 0), ints(2, 1), ints(-2, -1)]),
    Case("Slice", [X, ints(99), ints(1), ints(2), ints(-1)]),
    Case("Expand", [(3, 1), ints(2, 1, 4)]),
    Case("Expand", [X, ints(4)]),
    Case("Tile", [X, ints(1, 2, 3)]),
    Case("Pad", [IMAGE], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, opset=10),
    Case("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1), one(0.5)], fixed=(2,)),
    Case("Pad", [IMAGE, ints(0, 0, -1, 2, 0, 0, 0, -1)]),
    *[Case("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": m}) for m in ("reflect", "edge")],
    Case("Pad", [X, ints(0, 1, 2, 0, 1, 3)], {"mode": "wrap"}, opset=19),
    Case("Pad", [IMAGE, ints(1, 2), None, ints(-1)], opset=18),
    *[Case("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2, "mode": m}) for m in ("DCR", "CRD")],
    Case("SpaceToDepth", [(1, 2, 4, 6)], {"blocksize": 2}),
    Case("Trilu", [(4, 4), one(1, np.int64)], {"upper": 0}),
    Case("Trilu", [X]),
    Case("Trilu", [X], {"upper": 0}, domain="com.microsoft"),
    Case("ReverseSequence", [(4, 3, 2), ints(1, 2, 4)], {"batch_axis": 1, "time_axis": 0}),
    # indexing
    Case("Gather", [(5, 3), ints(4, 0, -1).reshape(1, 3)]),
    Case("Gather", [X, one(-1, np.int64)], {"axis": 1}),
    Case("Gather", [X, ints(2, 0)], {"axis": 2}),
    Case("GatherElements", [(3, 3), ints(0, 2, -1, 1, 0, 0).reshape(2, 3)]),
    Case("GatherND", [X, ints(0, 1, 1, -1).reshape(2, 2)]),
    Case("GatherND", [X, ints(1, 2).reshape(2, 1)], {"batch_dims": 1}),
    Case("ScatterElements", [(3, 3), ints(1, 0, 2).reshape(1, 3), (1, 3)]),
    Case("ScatterElements", [(3, 3), ints(1, 1, 2).reshape(1, 3), (1, 3)], {"axis": 1, "reduction": "add"}, opset=16),
    Case("Scatter", [(3, 3), ints(1, 0, 2).reshape(1, 3), (1, 3)], opset=10),
    Case("ScatterND", [X, ints(0, 1, 1, -1).reshape(2, 2), (2, 4)]),
    Case("ScatterND", [X, ints(0, 0).reshape(2, 1), (2, 3, 4)], {"reduction": "add"}, opset=16),
    Case("OneHot", [ints(0, 2, -1, 5), one(3, np.int64), floats(-1, 2)], {"axis": 0}),
    Case("TopK", [X, ints(2)], {"axis": 1}, outputs=2),
    Case("TopK", [floats(1, 2, 2, 0), ints(3)], {"largest": 0}, outputs=2, smooth=False),
    Case("NonZero", [floats(0, 1, 0, 2).reshape(2, 2)], smooth=False),
    Case("Compress", [X, np.array([True, False, True])], {"axis": 1}),
    # shapes
    Case("Shape", [X], {"start": 1}, smooth=False),
    Case("Size", [X], smooth=False),
    Case("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(floats(1.5))}, smooth=False),
    Case("Range", [one(1, np.int64), one(9, np.int64), one(3, np.int64)], smooth=False),
    Case("EyeLike", [(3, 4)], {"k": 1}, smooth=False),
    # recurrent
    *[
        Case(kind, [(3, 2, 4), (d, g * 5, 4), (d, g * 5, 5), (d, 2 * g * 5)], {"hidden_size": 5, **a}, outputs=outputs)
        for kind, g, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
        for d, a in (
            (1, {}),
            (1, {"direction": "reverse"}),
            (2, {"direction": "bidirectional"}),
            (1, {"clip": 0.3} if kind != "RNN" else {"activations": ["Relu"]}),
        )
    ],
    Case(
        "GRU",
        [(3, 2, 4), (2, 15, 4), (2, 15, 5), (2, 30)],
        {"hidden_size": 5, "linear_before_reset": 1, "direction": "bidirectional"},
        outputs=2,
    ),
    Case("GRU", [(3, 2, 4), (1, 15, 4), (1, 15, 5), None, None, (1, 2, 5)], {"hidden_size": 5}, outputs=2),
    Case(
        "LSTM",
        [(3, 2, 4), (1, 20, 4), (1, 20, 5), (1, 40), np.array([3, 1], np.int32), (1, 2, 5), (1, 2, 5), (1, 15)],
        {"hidden_size": 5},
        outputs=3,
    ),
    *[
        Case(
            "DynamicQuantizeLSTM",
            [
                *((3, 2, 4), signed(d, 4, 20), signed(d, 5, 20), (d, 40)),
                *(None, (d, 2, 5), (d, 2, 5), None, floats(*[0.01] * d), np.full(d, 3, np.int8)),
                *(floats(*[0.02] * d), np.zeros(d, np.int8)),
            ],
            {"hidden_size": 5, **a},
            outputs=3,
            domain="com.microsoft",
            fixed=(8, 10),
            smooth=False,
        )
        for d, a in ((1, {}), (2, {"direction": "bidirectional"}))
    ],
    # attention
    Case("MultiHeadAttention", [(2, 3, 8), (2, 5, 8), (2, 5, 8)], {"num_heads": 2}, domain="com.microsoft"),
    Case("Attention", [(2, 3, 8), (8, 24), (24,)], {"num_heads": 2}, domain="com.microsoft"),
    Case("Attention", [(2, 3, 8), (8, 24), (24,)], {"num_heads": 2, "unidirectional": 1}, domain="com.microsoft"),
    Case("Attention", [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), (3, 5)], {"scale": 0.3}, opset=23),
    Case(
        "Attention", [(1, 3, 8), (1, 3, 4), (1, 3, 4)], {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1}, opset=23
    ),
    Case("RotaryEmbedding", [(1, 2, 3, 4), (1, 3, 2), (1, 3, 2)], opset=23),
    Case("RotaryEmbedding", [(1, 2, 3, 4), (1, 3, 2), (1, 3, 2)], {"interleaved": 1}, opset=23),
    Case(
        "RotaryEmbedding",
        [(1, 2, 3, 4), ints(0, 1, 2).reshape(1, 3), (5, 2), (5, 2)],
        domain="com.microsoft",
        fixed=(2, 3),
    ),
    # resampling
    *[
        Case("Resize", [(1, 2, 4, 5), None, floats(1, 1, 2, 1.5)], {"mode": mode, **a}, fixed=(2,))
        for mode in ("nearest", "linear", "cubic")
        for a in (
            {},
            {
                "coordinate_transformation_mode": "asymmetric",
                **({"nearest_mode": "floor"} if mode == "nearest" else {}),
            },
            {"coordinate_transformation_mode": "align_corners"},
            {"coordinate_transformation_mode": "pytorch_half_pixel"},
        )
    ],
    Case("Resize", [(1, 2, 4, 5), None, None, ints(1, 2, 3, 8)], {"mode": "linear"}),
    Case("Resize", [(1, 1, 4, 5), None, floats(1, 1, 0.6, 0.6)], {"mode": "cubic", "exclude_outside": 1}, fixed=(2,)),
    Case("Resize", [(1, 2, 4, 5), floats(1, 1, 2, 2)], opset=10, fixed=(1,)),
    *[
        Case(
            "GridSample", [(2, 3, 4, 5), (2, 3, 2, 2)], {"mode": m, "padding_mode": p, "align_corners": c}, smooth=False
        )
        for m, p, c in (("nearest", "zeros", 0), ("bicubic", "zeros", 1), ("bilinear", "reflection", 0))
    ],
    Case("GridSample", [(2, 3, 4, 5), (2, 3, 2, 2)], {"padding_mode": "border"}, opset=16),
    Case("GridSample", [(1, 2, 3, 4, 3), (1, 2, 2, 2, 3)], {"mode": "linear", "align_corners": 1}, opset=20),
    Case("GridSample", [(2, 3, 4, 5), (2, 3, 2, 2)], {"mode": "cubic"}, opset=20),
    Case("Upsample", [(1, 2, 4, 5), floats(1, 1, 2, 2)], {"mode": "linear"}, opset=9, fixed=(1,)),
    # Fourier transforms
    Case("DFT", [(2, 5, 1)]),
    Case("DFT", [(2, 5, 2), one(4, np.int64)], {"inverse": 1}),
    Case("DFT", [(2, 3, 6, 1)], {"axis": 2, "onesided": 1}),
    Case("DFT", [(2, 3, 6, 1), one(8, np.int64), one(1, np.int64)], opset=20),
    Case("STFT", [(2, 12, 1), one(3, np.int64), (6,)]),
    Case("STFT", [(2, 12), one(3, np.int64), (6,)]),
    Case("STFT", [(2, 12, 1), one(3, np.int64), None, one(4, np.int64)], {"onesided": 0}),
    # ai.onnx.ml
    Case("Scaler", [(3, 2)], {"offset": [0.5, -1.0], "scale": [2.0, 3.0]}, domain="ai.onnx.ml"),
    *[Case("Normalizer", [positive(3, 2)], {"norm": n}, domain="ai.onnx.ml") for n in ("MAX", "L1", "L2")],
    # quantisation
    *[
        Case("DequantizeLinear", [np.array([[1, 200], [3, 4]], np.uint8), one(0.5), one(7, np.uint8)], domain=d)
        for d in ("", "com.microsoft")
    ],
    Case(
        "DequantizeLinear",
        [np.array([[1, -20], [3, 4]], np.int8), floats(0.5, 2), np.array([1, -1], np.int8)],
        {"axis": 0},
    ),
    *[
        Case("QuantizeLinear", [floats(-9, -0.75, 0.25, 0.75, 200), one(0.5), one(7, np.uint8)], domain=d, smooth=False)
        for d in ("", "com.microsoft")
    ],
    Case("QuantizeLinear", [floats(-3, 0.5, 1.5, 2.5, 300), one(1.0)], smooth=False),
    Case(
        "QuantizeLinear",
        [(2, 3, 4), floats(0.5, 0.01, 0.003), np.array([1, -1, 127], np.int8)],
        {"axis": -2},
        smooth=False,
    ),
    Case("QuantizeLinear", [floats(-9, 0.3, 9e4), one(0.5), one(7, np.uint16)], domain="com.microsoft", smooth=False),
    Case("DynamicQuantizeLinear", [X], outputs=3, smooth=False),
    Case(
        "MatMulInteger",
        [np.array([[1, 250]], np.uint8), np.array([[3], [-4]], np.int8), one(7, np.uint8)],
        smooth=False,
    ),
]
