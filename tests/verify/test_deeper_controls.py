"""Negative controls: faults that published code has, injected into the passes; the verifier has to stop each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from support import model_of

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import NotEquivalentError
from onnxgrow.passes import EnlargeKernel, Fold, InsertIdentity, Proof, kernel_plan
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.fold import linear
from onnxgrow.verify.report import Report, TierStatus

CNN = """g (float[2,3,9,9] x) => (float[2,2,p,q] y) {{
    c = Conv(x, u)  r = Relu(c)  y = Conv<{}>(r, v)
}}"""


def cnn(kernel: int = 3, attributes: str = "pads=[1,1,1,1]") -> ir.Model:
    return model_of(CNN.format(attributes), {"u": (6, 3, 1, 1), "v": (2, 6, kernel, kernel)})


def refused(step: Any, model: ir.Model) -> dict[str, TierStatus]:
    """The tiers of the report with which a result is refused."""
    with pytest.raises(NotEquivalentError) as caught:
        step(model)
    report = caught.value.report
    assert isinstance(report, Report)
    return {t.name: t.status for t in report.tiers}


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_an_identity_with_its_tap_one_further(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 1 at tap ⌊k/2⌋ + 1 (for k = 2, which has no such tap, − 1), with the pads of the right one."""
    step = InsertIdentity("r", kernel=kernel, actiswitch=False)
    assert step(cnn()).report.ok
    right = Builder.identity

    def wrong(self: Builder, shape: Any, dtype: ir.DataType, name: str) -> str:
        made = right(self, shape, dtype, name)
        value = self.rewriter.value(made)
        assert value.const_value is not None
        shifted = np.roll(value.const_value.numpy(), 1 if kernel > 2 else -1, axis=(2, 3))
        value.const_value = ir.Tensor(shifted, name=made)
        return made

    monkeypatch.setattr(Builder, "identity", wrong)
    found = refused(step, cnn())
    assert found["certificate"] is TierStatus.FAILED
    assert found["float64"] is TierStatus.FAILED
    assert found["runtime"] is TierStatus.FAILED


@pytest.mark.parametrize(("kernel", "to"), [(3, 4), (2, 3), (4, 7)])
def test_an_enlarged_kernel_whose_odd_tap_goes_to_the_other_side(
    kernel: int, to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight and growth map agree, but the pads belong to the other side: everything moves by one pixel."""
    model = cnn(kernel)
    assert EnlargeKernel("v", to=to)(model).report.ok
    right = kernel_plan._around

    def wrong(old: int, front: int, behind: int) -> AxisMap:
        return right(old, behind, front)

    monkeypatch.setattr(kernel_plan, "_around", wrong)
    found = refused(EnlargeKernel("v", to=to), model)
    assert found["certificate"] is TierStatus.FAILED
    assert found["runtime"] is TierStatus.FAILED


@pytest.mark.parametrize(("mode", "size", "to"), [("UPPER", 8, 3), ("UPPER", 8, 5), ("LOWER", 9, 4)])
def test_same_padding_kept_where_the_kernel_is_smaller_than_the_stride(
    mode: str, size: int, to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 1x1 kernel with stride 2 was not padded at all; what SAME pads a larger one is not where its old tap is."""
    node = f'y = Conv<auto_pad="SAME_{mode}",strides=[2,2]>(x, w)'
    text = f"g (float[1,4,{size},{size}] x) => (float[1,4,p,q] y) {{ {node} }}"
    model = model_of(text, {"w": (4, 4, 1, 1)})
    assert EnlargeKernel("w", to=to)(model).report.ok
    monkeypatch.setattr(kernel_plan, "placed", lambda window, front, behind: {})
    found = refused(EnlargeKernel("w", to=to), model)
    assert found["certificate"] is TierStatus.FAILED
    assert found["runtime"] is TierStatus.FAILED


def test_two_padded_convolutions_folded_into_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels composed, the pads added: right in the middle of an image, wrong along its borders."""
    model = InsertIdentity("r", kernel=3, bias=False).grow(cnn()).model
    weight = model.graph.initializers["r.identity.weight"]
    weight.const_value = ir.tensor(
        np.random.default_rng(5).normal(size=(6, 6, 3, 3)).astype(np.float32), name=weight.name
    )
    model.metadata_props.clear()
    step = Fold(merge=True, proof=Proof(max_change=1e-4))
    result = step(model)
    assert result.report.ok
    assert result.plan["notes"]  # it leaves them two

    def naive(first: Any, w1: npt.NDArray[Any], b1: Any, second: Any) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        made = np.zeros((second.weight.shape[0], w1.shape[1], 5, 5))
        for i, j in _taps():
            part = np.einsum("om,mi...->oi...", second.weight[:, :, i, j], w1)
            made[:, :, i : i + 3, j : j + 3] += part
        return made, {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}

    monkeypatch.setattr(linear, "_convolution", naive)
    with pytest.raises(NotEquivalentError) as caught:
        step(model)
    report = caught.value.report
    assert isinstance(report, Report)
    assert report.change is not None
    assert report.change > 0.01


def _taps() -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(3) for j in range(3))
