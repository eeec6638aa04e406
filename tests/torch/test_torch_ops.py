from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

from op_cases import CASES, Case, model_of_case  # noqa: E402 # only where PyTorch is installed

from onnxgrow.errors import UnsupportedError  # noqa: E402
from onnxgrow.torch import OnnxModule  # noqa: E402
from onnxgrow.torch.registry import find_op, registered_ops  # noqa: E402

torch.set_num_threads(1)


def runtime(model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def problems(case: Case) -> list[str]:
    model, feeds = model_of_case(case)
    expected = runtime(model, feeds)
    module = OnnxModule(model)
    got = as_tuple(module(**{k: torch.from_numpy(v) for k, v in feeds.items()}))
    assert len(expected) == len(got)
    found = []
    for want, have in zip(expected, (g.detach().numpy() for g in got), strict=True):
        if want.shape != have.shape or want.dtype != have.dtype:
            found.append(f"{have.dtype}{have.shape}, ONNX Runtime gives {want.dtype}{want.shape}")
            continue
        scale = max(float(np.abs(want).max(initial=0)), 1e-6) if want.dtype.kind == "f" else 1.0
        gap = np.abs(want.astype(np.float64) - have.astype(np.float64)).max(initial=0) / scale
        if not np.array_equal(want, have) and not gap <= case.tolerance:
            found.append(f"differs by {gap:.3g}")
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_is_what_onnx_runtime_computes(case: Case):
    assert problems(case) == []


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=str)
def test_gradients_are_those_of_finite_differences(case: Case):
    model, feeds = model_of_case(case)
    module = OnnxModule(model).double()
    names = list(feeds)
    inputs = [torch.from_numpy(feeds[k]).double().requires_grad_() for k in names]

    def smooth_outputs(*values):
        outputs = as_tuple(module(**dict(zip(names, values, strict=True))))
        return tuple(y for y in outputs if y.is_floating_point())

    assert torch.autograd.gradcheck(smooth_outputs, inputs, eps=1e-6, atol=1e-5, fast_mode=True)


STEPS_AND_SELECTIONS = frozenset(
    "And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil ConstantOfShape DynamicQuantizeLSTM "
    "DynamicQuantizeLinear Equal EyeLike Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual "
    "MatMulInteger NonZero Not Or QuantizeLinear Range Round Shape Sign Size Xor".split()
)
"""Ops whose results are no numbers, or do not vary continuously: they have no gradient to compare."""
ONLY_ELSEWHERE = frozenset({("com.microsoft", "LayerNormalization"), ("com.microsoft", "SimplifiedLayerNormalization")})
"""Names under which old files have an op that ONNX Runtime takes in its own domain: the same kernel."""


def test_every_kernel_has_a_case_and_every_float_op_one_with_gradients():
    tried = {(case.domain, case.op_type) for case in CASES}
    smooth = {(case.domain, case.op_type) for case in CASES if case.smooth}
    known = {key for key in registered_ops() if key not in ONLY_ELSEWHERE}
    assert known - tried == set()
    assert {key for key in known - smooth if key[1] not in STEPS_AND_SELECTIONS} == set()


def test_a_wrong_kernel_is_seen(monkeypatch):
    case = next(c for c in CASES if c.op_type == "Gemm" and not c.attributes)
    op = find_op("", "Gemm", 17)
    monkeypatch.setitem(op.__dict__, "build", lambda spec: lambda a, b, c=None: 0.5 * a @ b)
    assert problems(case)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_the_index_of_an_extreme_is_one_of_the_axis_even_among_nans(op_type, last):
    x = np.array([[1, np.nan, 3], [np.nan, np.nan, np.nan], [2, 1, 2]], np.float32)
    model, _ = model_of_case(Case(op_type, [x], {"axis": 1, "keepdims": 0, "select_last_index": last}))
    found = OnnxModule(model)(torch.from_numpy(x)).tolist()
    extremes = [0, 2] if op_type == "ArgMax" else [1, 1]
    assert found == [1, 2 * last, extremes[last]]


def test_before_opset_7_operands_are_aligned_at_an_axis():
    x, y = np.ones((2, 3, 4), np.float32), np.array([1, 2, 3], np.float32)
    model, _ = model_of_case(Case("Add", [x, y], {"broadcast": 1, "axis": 1}, opset=6))
    got = OnnxModule(model)(torch.from_numpy(x), torch.from_numpy(y))
    assert np.array_equal(got.numpy(), x + y[None, :, None])


def test_an_unknown_op_is_refused_at_construction_by_name_opset_and_node():
    model, _ = model_of_case(Case("Hydra", [(2, 2)], domain="my.domain"))
    model.graph.node[0].name = "the_node"
    with pytest.raises(UnsupportedError, match=r"my\.domain::Hydra \(opset 1\) the_node"):
        OnnxModule(model)


def test_a_form_of_an_op_that_is_not_covered_is_refused_at_construction():
    case = Case("MaxPool", [(1, 1, 4, 4)], {"kernel_shape": [2, 2]}, outputs=2)
    with pytest.raises(UnsupportedError, match="indices"):
        OnnxModule(model_of_case(case)[0])
