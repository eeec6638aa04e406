"""The options that functions share: spelled out for people, the same in each, and no other is taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
from support import model_of

import onnxgrow
from onnxgrow.io import stage
from onnxgrow.options import DEFAULTS, Form, InexactOptions, Options
from onnxgrow.passes import Proof

INEXACT = (onnxgrow.widen, onnxgrow.deepen, onnxgrow.add_actiswitch, onnxgrow.fold)
EXACT = (onnxgrow.enlarge_kernel, onnxgrow.add_blocks, onnxgrow.copy_blocks)
PASSES = {
    onnxgrow.widen: onnxgrow.Widen,
    onnxgrow.deepen: onnxgrow.InsertIdentity,
    onnxgrow.add_actiswitch: onnxgrow.AddActiSwitch,
    onnxgrow.fold: onnxgrow.Fold,
    onnxgrow.enlarge_kernel: onnxgrow.EnlargeKernel,
    onnxgrow.add_blocks: onnxgrow.AddBlocks,
    onnxgrow.copy_blocks: onnxgrow.CopyBlocks,
}


def model() -> ir.Model:
    text = "g (float[n,4] x) => (float[n,3] y) { h = MatMul(x, u)  a = Relu(h)  y = MatMul(a, v) }"
    return model_of(text, {"u": (4, 8), "v": (8, 3)})


@pytest.mark.parametrize("function", [*INEXACT, *EXACT])
def test_signatures_name_every_option_and_its_default(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    shared = set(InexactOptions.__annotations__ if function in INEXACT else Options.__annotations__)
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    assert set(DEFAULTS) & set(parameters) == shared
    assert {k: parameters[k].default for k in shared} == {k: DEFAULTS[k] for k in shared}


@pytest.mark.parametrize("function", PASSES)
def test_functions_take_what_their_passes_take(function: Callable[..., Any]) -> None:
    own = {k: p.default for k, p in inspect.signature(function).parameters.items() if k not in DEFAULTS}
    wanted = {k: p.default for k, p in inspect.signature(PASSES[function]).parameters.items() if k != "proof"}
    del own["model"]
    assert own == wanted


def test_defaults_are_those_of_what_takes_them() -> None:
    taken = inspect.signature(stage).parameters
    assert {k: taken[k].default for k in Form.__annotations__} == {k: DEFAULTS[k] for k in Form.__annotations__}
    proof = Proof()
    assert all(
        getattr(proof, k) == DEFAULTS[k] for k in ("inputs", "input_shapes", "provider", "max_change", "progress")
    )


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match=r"fold\(\): got an unexpected keyword argument 'tolerence'"):
        onnxgrow.fold(model(), tolerence=0.1)
    with pytest.raises(TypeError, match=r"enlarge_kernel\(\): missing a required argument: 'to'"):
        onnxgrow.enlarge_kernel(model())
    with pytest.raises(TypeError, match="max_change"):
        onnxgrow.add_blocks(model(), max_change=0.1)


def test_options_reach_the_proof_and_the_file(tmp_path: Any) -> None:
    said: list[str] = []
    path = tmp_path / "out.onnx"
    result = onnxgrow.deepen(model(), output=path, progress=said.append)
    assert result.report.verdict is onnxgrow.Verdict.EQUIVALENT
    assert path.exists()
    assert "writing" in said
    with pytest.raises(onnxgrow.UsageError, match="exists"):
        onnxgrow.deepen(model(), output=path)
