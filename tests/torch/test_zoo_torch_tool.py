from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from support import model_of

pytest.importorskip("torch.nn", reason="PyTorch is not installed")

import torch

from onnxgrow.io import save
from onnxgrow.torch import OnnxModule
from onnxgrow.torch.source import Source
from tools import zoo_torch

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def folder(tmp_path):
    images = np.load(MODELS / "digits_sample.npz")["image"][:4]
    for name in ("digits_cnn", "digits_tokens"):
        shutil.copy(MODELS / f"{name}.onnx", tmp_path)
        np.savez(tmp_path / f"{name}.io.npz", in_image=images)
    return tmp_path


def test_the_samples_go_to_pytorch_and_back(folder):
    report = folder / "report.json"
    assert zoo_torch.main(["--models", str(folder), "--report", str(report)]) == 0
    rows = {row["model"]: row for row in json.loads(report.read_text(encoding="utf-8"))}
    assert set(rows) == {"digits_cnn", "digits_tokens"}
    for row in rows.values():
        assert row["state"] == "ok"
        assert row["trained"] == row["weights"] > 0
        assert row["changed"] > row["bound"], "a step that changes nothing proves nothing"


def test_a_module_that_computes_something_else_fails(folder, monkeypatch):
    forward = OnnxModule.forward
    monkeypatch.setattr(OnnxModule, "forward", lambda self, **named: forward(self, **named) * torch.tensor(1.001))
    assert zoo_torch.main(["--models", str(folder), "--only", "digits_cnn"]) == 1


def test_outputs_that_are_no_numbers_prove_nothing():
    nothing = np.full(3, np.nan, np.float32)
    assert zoo_torch.gap([nothing], [nothing]) == float("inf")
    assert zoo_torch.gap([np.zeros(0, np.float32)], [np.zeros(0, np.float32)]) == 0


def test_a_step_that_moves_nothing_proves_nothing(folder, monkeypatch):
    monkeypatch.setattr(zoo_torch, "STEPS", (0.0,))
    assert zoo_torch.main(["--models", str(folder), "--only", "digits_cnn"]) == 1


def test_a_bound_without_an_end_fails(folder, monkeypatch):
    monkeypatch.setattr(zoo_torch, "noise", lambda *_: float("inf"))
    assert zoo_torch.main(["--models", str(folder), "--only", "digits_cnn"]) == 1


def test_a_bound_is_never_more_than_a_tenth():
    assert [zoo_torch._bound(floor) for floor in (0.0, 1e-4, 1.0)] == [1e-5, 1e-3, 0.1]
    assert zoo_torch._bound(float("nan")) == 0


def test_one_parameter_that_is_not_written_back_is_seen(folder, monkeypatch):
    written = Source.written

    def but_one(self, tensors):
        return written(self, sorted(tensors, key=lambda pair: pair[1].numel())[1:])

    monkeypatch.setattr(Source, "written", but_one)
    row = zoo_torch.examine("digits_cnn", folder / "digits_cnn.onnx", feeds_of(folder))
    assert row.state == "failed"
    assert row.note.startswith("1 parameters are not in the file")


def test_uses_that_were_taken_apart_and_became_the_same_are_not_lost(tmp_path):
    body = "h = MatMul(x, w)  a = Add(h, b)  c = Add(h, b)  y = Add(a, c)"
    row = examined(tmp_path, body, {"w": (4, 3), "b": np.ones(3, np.float32)})
    assert (row.state, row.trained) == ("ok", 3)


def test_a_file_that_computes_something_else_fails_though_its_parameters_are_there(folder, monkeypatch):
    monkeypatch.setattr(zoo_torch, "lost", lambda *_: [])
    monkeypatch.setattr(OnnxModule, "to_onnx", lambda self: onnx.load(folder / "digits_cnn.onnx"))
    row = zoo_torch.examine("digits_cnn", folder / "digits_cnn.onnx", feeds_of(folder))
    assert (row.state, row.back > row.bound) == ("failed", True)


def test_outputs_that_are_equal_move(tmp_path):
    row = examined(tmp_path, "h = MatMul(x, w)  y = Softmax(h)", {"w": np.zeros((4, 3), np.float32)})
    assert (row.state, row.unmoved) == ("ok", [])
    assert row.changed >= 10 * row.back


def test_what_cannot_move_the_outputs_proves_nothing(tmp_path):
    body = "h = MatMul(x, w)  t = ReduceSum<keepdims: int = 1>(h)  p = Softmax<axis: int = 1>(t)  y = Expand(p, shape)"
    row = examined(tmp_path, body, {"w": (4, 3), "shape": np.array([2, 3])})
    assert (row.state, row.changed) == ("failed", None)
    assert "nothing is proved" in row.note


BFLOAT16 = "a = Cast<to: int = 16>(x)  b = Cast<to: int = 16>(w)  h = MatMul(a, b)  y = Cast<to: int = 1>(h)"


def test_where_runtime_has_no_kernel_the_evaluator_takes_its_place(tmp_path, monkeypatch):
    row = examined(tmp_path, BFLOAT16, {"w": (4, 3)})
    assert row.state == "ok"
    monkeypatch.setattr(zoo_torch, "session_run", refuse)
    row = examined(tmp_path, BFLOAT16, {"w": (4, 3)})
    assert (row.state, row.note) == ("ok", "ONNX Runtime has no kernels for it: against onnx's evaluator")


def test_a_file_that_is_no_valid_model_is_skipped_by_name(tmp_path, capsys):
    examined(tmp_path, "a = Cast<to: int = 7>(x)  y = Softmax(a)", {"w": (4, 3)})
    assert zoo_torch.main(["--models", str(tmp_path)]) == 1, "nothing was counted"
    assert "skipped: tiny: it is no valid model" in capsys.readouterr().out


def refuse(*_args, **_named):
    raise ort_errors.NotImplemented("no kernel")


def feeds_of(folder):
    return {"image": np.load(folder / "digits_cnn.io.npz")["in_image"]}


def examined(folder, body, weights):
    """The row of a small model of one input of shape (2, 4)."""
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    save(model_of(f"g (float[2,4] x) => (float[2,3] y) {{ {body} }}", weights), folder / "tiny.onnx", overwrite=True)
    np.savez(folder / "tiny.io.npz", in_x=x)
    return zoo_torch.examine("tiny", folder / "tiny.onnx", {"x": x})
