"""The sample models: small, valid, trained, with names and metadata that users can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "models"
OPERATORS = {
    "digits_mlp": {"Flatten": 1, "Gemm": 3, "Relu": 2},
    "digits_cnn": {
        "Conv": 5,
        "BatchNormalization": 5,
        "Relu": 5,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Gemm": 1,
    },
    "digits_tokens": {"Conv": 3, "Concat": 1, "LayerNormalization": 3, "Erf": 2, "MatMul": 4, "Gemm": 1},
}


def logits_of(name: str, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    runtime: Any = onnxruntime
    session = runtime.InferenceSession(FOLDER / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": images})[0])


@pytest.fixture(params=OPERATORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_is_valid_small_and_built_of_the_operators_it_is_said_to_show(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size < 300_000
    found = [n.op_type for n in model.graph.node]
    assert {op: found.count(op) for op in OPERATORS[name]} == OPERATORS[name]


def test_its_weights_have_the_names_of_parameters(name: str) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    kinds = {i.name.rpartition(".")[2] for i in model.graph.initializer}
    assert kinds <= {"weight", "bias", "running_mean", "running_var"}


def test_it_says_how_good_it_is_and_where_it_comes_from(name: str) -> None:
    told = {p.key: p.value for p in onnx.load(FOLDER / f"{name}.onnx").metadata_props}
    assert float(told["accuracy"]) > 0.95
    assert "handwritten digits" in told["dataset"]
    assert (FOLDER.parent / told["script"]).is_file()


@pytest.mark.parametrize("batch", [1, 32])
def test_it_runs_on_the_sample_images_at_any_batch_size(name: str, batch: int) -> None:
    images = np.load(FOLDER / "digits_sample.npz")["image"]
    assert images.dtype == np.float32
    assert images.shape[1:] == (1, 8, 8)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert logits_of(name, images[:batch]).shape == (batch, 10)


def test_the_models_agree_on_most_of_the_sample_images() -> None:
    images = np.load(FOLDER / "digits_sample.npz")["image"]
    votes = [np.argmax(logits_of(name, images), axis=1) for name in OPERATORS]
    agree = np.mean((votes[0] == votes[1]) & (votes[1] == votes[2]))
    assert agree >= 0.9
    assert len(set(votes[0].tolist())) > 5
