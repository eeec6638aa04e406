from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")

import torch

from onnxgrow.torch import OnnxModule
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
