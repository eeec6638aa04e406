"""The float64 kernels against independent formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrow.verify.float64 import EvaluationError, NoFloat64Error, prepare

RNG = np.random.default_rng(5)
X = {"x": RNG.normal(size=(5, 6)).astype(np.float32)}
IMAGES = {"x": RNG.normal(size=(2, 3, 9, 9)).astype(np.float32)}


def evaluate(body: str, feeds: dict[str, np.ndarray], outputs: int = 1, opset: int = 18) -> list[np.ndarray]:
    """Outputs y0, y1 … of a text graph on ``feeds`` (all inputs are declared from their arrays)."""
    kinds = {"f": "double", "b": "bool", "i": "int64", "u": "uint8"}
    inputs = ", ".join(f"{kinds[x.dtype.kind]}[{','.join(map(str, x.shape))}] {n}" for n, x in feeds.items())
    results = ", ".join(f"double[] y{i}" for i in range(outputs))
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => ({results}) {{ {body} }}'
    )
    prepared = prepare(ir.from_proto(onnx.parser.parse_model(text)))
    run = prepared.interpreter(prepared.inputs(feeds), prepared.graph.outputs)
    for _ in run.steps():
        pass
    return [run.read(v) for v in prepared.graph.outputs]


def close(a: np.ndarray, b: np.ndarray, epsilon: float = 1e-15) -> bool:
    """Within ``epsilon`` of the scale: only double precision all the way passes."""
    return a.shape == b.shape and a.dtype == b.dtype and float(np.abs(a - b).max()) <= epsilon * float(np.abs(b).max())


POINTS = np.array([-6.5, -3.0, -1.0, -1 / 3, -1e-3, 0.0, 1e-3, 0.1, 0.7, 1.0, 2.9, 7.0])

UNARY = {
    "Erf": math.erf,
    "Gelu": lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2)),
    "Sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "Tanh": math.tanh,
    "Relu": lambda v: max(v, 0.0),
    "LeakyRelu<alpha = 0.5>": lambda v: v if v >= 0 else v / 2,
    "Elu": lambda v: v if v > 0 else math.expm1(v),
    "Celu<alpha = 2.0>": lambda v: max(v, 0) + min(0, 2 * math.expm1(v / 2)),
    "Selu": lambda v: 1.05070102214813232421875 * (v if v > 0 else 1.67326319217681884765625 * math.expm1(v)),
    "HardSigmoid<alpha = 0.25>": lambda v: min(max(v / 4 + 0.5, 0), 1),
    "HardSwish": lambda v: v * min(max(v / 6 + 0.5, 0), 1),
    "Mish": lambda v: v * math.tanh(math.log1p(math.exp(v))),
    "Softplus": lambda v: math.log1p(math.exp(v)),
    "Softsign": lambda v: v / (1 + abs(v)),
    "ThresholdedRelu<alpha = 0.5>": lambda v: v if v > 0.5 else 0.0,
    "Exp": math.exp,
    "Sin": math.sin,
    "Abs": abs,
}


@pytest.mark.parametrize("op", UNARY)
def test_unary_operator_is_right_to_double_precision(op: str) -> None:
    name, _, rest = op.partition("<")
    (y,) = evaluate(f"y0 = {name} {'<' + rest if rest else ''} (x)", {"x": POINTS}, opset=20)
    expected = np.array([UNARY[op](float(v)) for v in POINTS])
    assert np.all(np.abs(y - expected) <= 1e-15 * np.maximum(np.abs(expected), 1e-3))


def exact_mean(values: np.ndarray) -> float:
    return float(sum(Fraction(float(v)) for v in values.ravel()) / values.size)


def standardised(block: np.ndarray, epsilon: float) -> np.ndarray:
    mean = exact_mean(block)
    return (block - mean) / math.sqrt(exact_mean((block - mean) ** 2) + epsilon)


def test_normalisations_are_right_to_double_precision() -> None:
    x, s, b = RNG.normal(size=(2, 4, 5)), RNG.normal(size=4), RNG.normal(size=4)
    e = float(np.float32(1e-5))
    rows = np.stack([[standardised(x[n, c], e) for c in range(4)] for n in range(2)])
    (y,) = evaluate("y0 = InstanceNormalization(x, s, b)", {"x": x, "s": s, "b": b})
    assert close(y, rows * s[:, None] + b[:, None], 2e-15)

    groups = np.stack([np.concatenate([standardised(x[n, g : g + 2], e) for g in (0, 2)]) for n in range(2)])
    (y,) = evaluate("y0 = GroupNormalization<num_groups = 2>(x, s, b)", {"x": x, "s": s, "b": b}, opset=21)
    assert close(y, groups * s[:, None] + b[:, None], 2e-15)

    g, h = RNG.normal(size=5), RNG.normal(size=5)
    (y,) = evaluate("y0 = LayerNormalization(x, g, h)", {"x": x, "g": g, "h": h}, opset=17)
    assert close(y, rows * g + h, 2e-15)

    rms = x / np.sqrt([[[exact_mean(x[n, c] ** 2) + e] for c in range(4)] for n in range(2)])
    (y,) = evaluate("y0 = RMSNormalization(x, g)", {"x": x, "g": g}, opset=23)
    assert close(y, rms * g, 2e-15)

    mean, variance = RNG.normal(size=4), RNG.uniform(0.5, 2, size=4)
    (y,) = evaluate(
        "y0 = BatchNormalization(x, s, b, m, v)", {"x": x, "s": s, "b": b, "m": mean, "v": variance}, opset=15
    )
    line = (slice(None), None)
    assert close(y, (x - mean[line]) / np.sqrt(variance[line] + e) * s[line] + b[line], 2e-15)


def test_batch_normalisation_in_training_form_takes_its_own_statistics_and_mixes_them_in() -> None:
    x, s, b, m = RNG.normal(size=(2, 4, 6)), RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=4)
    v, line = RNG.uniform(0.5, 2, size=4), (slice(None), None)
    y, mean, variance = evaluate(
        "y0, y1, y2 = BatchNormalization<training_mode = 1, momentum = 0.7>(x, s, b, m, v)",
        {"x": x, "s": s, "b": b, "m": m, "v": v},
        outputs=3,
        opset=15,
    )
    own = np.array([exact_mean(x[:, c]) for c in range(4)])
    spread = np.array([exact_mean((x[:, c] - own[c]) ** 2) for c in range(4)])
    assert close(y, (x - own[line]) / np.sqrt(spread[line] + float(np.float32(1e-5))) * s[line] + b[line], 2e-14)
    kept = float(np.float32(0.7))
    assert close(mean, m * kept + own * (1 - kept), 2e-15)
    assert close(variance, v * kept + spread * (1 - kept), 2e-15)


def test_softmax_before_opset_13_normalises_all_trailing_axes() -> None:
    x = RNG.normal(size=(2, 3, 4))
    (new,), (old,) = evaluate("y0 = Softmax(x)", {"x": x}), evaluate("y0 = Softmax(x)", {"x": x}, opset=11)
    assert np.allclose(new.sum(axis=2), 1)
    assert np.allclose(old.sum(axis=(1, 2)), 1)


def naive_conv(x: np.ndarray, w: np.ndarray, pads: list[int], stride: int, dilation: int, group: int) -> np.ndarray:
    x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    size = [(x.shape[2 + i] - (w.shape[2 + i] - 1) * dilation - 1) // stride + 1 for i in range(2)]
    y = np.zeros((x.shape[0], w.shape[0], *size))
    per = w.shape[0] // group
    for n, o, i, j in np.ndindex(*y.shape):
        for c, u, v in np.ndindex(*w.shape[1:]):
            channel = o // per * w.shape[1] + c
            y[n, o, i, j] += w[o, c, u, v] * x[n, channel, i * stride + u * dilation, j * stride + v * dilation]
    return y


@pytest.mark.parametrize("columns", [200, 3100, 1_000_000], ids=["bands", "images two by two", "at once"])
@pytest.mark.parametrize(
    ("group", "stride", "dilation", "pads", "kernel"),
    [
        (1, 1, 1, [1, 1, 1, 1], (3, 3)),
        (1, 2, 1, [0, 1, 2, 0], (3, 2)),
        (2, 1, 2, [1, 0, 1, 0], (2, 3)),
        (4, 1, 1, [1, 1, 1, 1], (3, 3)),
        (4, 2, 2, [2, 2, 2, 2], (3, 3)),
    ],
)
def test_conv_equals_its_definition(
    group: int,
    stride: int,
    dilation: int,
    pads: list[int],
    kernel: tuple[int, int],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxgrow.verify.float64.kernels.conv.COLUMNS", columns)
    x, w = RNG.normal(size=(3, 4, 7, 6)), RNG.normal(size=(4, 4 // group, *kernel))
    attributes = f"group={group}, strides=[{stride},{stride}], dilations=[{dilation},{dilation}], pads={pads}"
    (y,) = evaluate(f"y0 = Conv<{attributes}>(x, w)", {"x": x, "w": w})
    assert close(y, naive_conv(x, w, pads, stride, dilation, group), 2e-15)


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose_is_the_adjoint_of_conv(group: int) -> None:
    # <Conv(x), z> = <x, ConvTranspose(z)> for every x and z
    x, w = RNG.normal(size=(1, 4, 9, 9)), RNG.normal(size=(6, 4 // group, 3, 3))
    attributes = f"group={group}, strides=[2,2], pads=[1,1,1,1]"
    (y,) = evaluate(f"y0 = Conv<{attributes}>(x, w)", {"x": x, "w": w})
    z = RNG.normal(size=y.shape)
    (back,) = evaluate(f"y0 = ConvTranspose<{attributes}>(z, w)", {"z": z, "w": w})
    assert back.shape == x.shape
    assert abs(np.vdot(y, z) - np.vdot(x, back)) < 1e-12


def test_pools_equal_their_definition() -> None:
    x = RNG.normal(size=(1, 2, 7, 7))
    window = "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"
    cells = [[x[:, :, max(i, 0) : i + 3, max(j, 0) : j + 3] for j in (-1, 1, 3, 5)] for i in (-1, 1, 3, 5)]
    (largest,) = evaluate(f"y0 = MaxPool<{window}>(x)", {"x": x})
    (mean,) = evaluate(f"y0 = AveragePool<{window}>(x)", {"x": x})
    (padded,) = evaluate(f"y0 = AveragePool<{window}, count_include_pad=1>(x)", {"x": x})
    for i, j in np.ndindex(4, 4):
        assert np.array_equal(largest[:, :, i, j], cells[i][j].max(axis=(2, 3)))
        assert np.allclose(mean[:, :, i, j], cells[i][j].mean(axis=(2, 3)), rtol=1e-14)
        assert np.allclose(padded[:, :, i, j], cells[i][j].sum(axis=(2, 3)) / 9, rtol=1e-14, atol=1e-16)


def test_lstm_stops_each_sequence_at_its_own_length() -> None:
    x = RNG.normal(size=(4, 2, 3))
    w, r = RNG.normal(size=(2, 8, 3)), RNG.normal(size=(2, 8, 2))
    body = 'y0, y1 = LSTM<hidden_size = 2, direction = "bidirectional">(x, w, r, , n)'
    y, last = evaluate(body, {"x": x, "w": w, "r": r, "n": np.array([4, 2])}, outputs=2)
    short, short_last = evaluate(
        'y0, y1 = LSTM<hidden_size = 2, direction = "bidirectional">(x, w, r)', {"x": x[:2], "w": w, "r": r}, outputs=2
    )
    assert np.array_equal(y[2:, :, 1], np.zeros((2, 2, 2)))
    assert np.allclose(y[:2, :, 1], short[:, :, 1], rtol=1e-14)
    assert np.allclose(last[:, 1], short_last[:, 1], rtol=1e-14)


def test_control_flow_bodies_keep_double_precision() -> None:
    body = """
        n = Constant<value = int64 {3}>()
        go = Constant<value = bool {1}>()
        y0, y1 = Loop (n, go, x) <body = step (int64 i, bool c, double[2] v) => (bool d, double[2] u, double[2] s) {
            d = Identity(c)
            third = Constant<value = float {0.5}>()
            t = Mul(v, third)
            u = Add(t, x)
            s = Erf(u)
        }>
    """
    x = np.array([1 / 3, -0.7])
    y, scanned = evaluate(body, {"x": x}, outputs=2)
    states = [x]
    for _ in range(3):
        states.append(states[-1] * 0.5 + x)
    assert np.array_equal(y, states[-1])
    assert close(scanned, np.array([[math.erf(v) for v in s] for s in states[1:]]))


def test_operators_without_a_double_implementation_are_named() -> None:
    with pytest.raises(NoFloat64Error, match="RandomNormalLike"):
        evaluate("y0 = RandomNormalLike(x)", {"x": POINTS})
    with pytest.raises(NoFloat64Error, match="nobody::Knows"):
        evaluate_unknown()


@pytest.mark.parametrize("depth", [np.array(4), np.array([4])], ids=["scalar", "one entry"])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_one_hot_takes_its_depth_at_either_rank(depth: np.ndarray, axis: int) -> None:
    indices, values = np.array([[0, 3, -1], [-4, 4, -5]]), np.array([0.5, 2.0])
    (y,) = evaluate(f"y0 = OneHot<axis = {axis}>(i, d, v)", {"i": indices, "d": depth, "v": values})
    row = lambda *hot: [2.0 if c in hot else 0.5 for c in range(4)]  # noqa: E731 - a table of rows
    expected = np.array([[row(0), row(3), row(3)], [row(0), row(), row()]])
    assert np.array_equal(y, np.moveaxis(expected, -1, axis))


def evaluate_unknown() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18, "nobody" : 1]>
        g (double[2] x) => (double[2] y) { y = nobody.Knows(x) }"""
    prepared = prepare(ir.from_proto(onnx.parser.parse_model(text)))
    for _ in prepared.interpreter(prepared.inputs({"x": np.ones(2)})).steps():
        pass


def test_a_node_that_fails_on_its_values_is_named() -> None:
    with pytest.raises(EvaluationError, match="MatMul"):
        evaluate("y0 = MatMul(x, x)", {"x": np.ones((2, 3))})


def test_nodes_may_be_stored_in_any_order() -> None:
    (y,) = evaluate("y0 = Neg(a) a = Abs(x)", {"x": POINTS})
    assert np.array_equal(y, -np.abs(POINTS))
