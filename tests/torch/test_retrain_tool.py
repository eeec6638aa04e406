from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import torch

import onnxgrow
from tools import retrain

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "digits_mlp.onnx"
CNN = ROOT / "models" / "digits_cnn.onnx"


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def validation_loss(path):
    _, held_out = retrain.load_data()
    images, labels = (t.numpy() for t in held_out.tensors)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: images})[0].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    picked = logits[np.arange(len(labels)), labels]
    return float((np.log(np.exp(logits).sum(1)) - picked).mean())


def test_a_grown_file_is_trained_and_the_best_state_written(tmp_path):
    grown, out, curves = tmp_path / "grown.onnx", tmp_path / "out.onnx", tmp_path / "curves.csv"
    onnxgrow.widen(CNN, factor=1.25, provider="cpu", output=grown)
    assert retrain.main([str(grown), "-o", str(out), "--epochs", "2", "--curves", str(curves), "--rate", "3e-3"]) == 0
    rows = rows_of(curves)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert validation_loss(out) == pytest.approx(min(row["validation_loss"] for row in rows), abs=1e-5)
    before, after = onnx.load(grown), onnx.load(out)
    assert [n.name for n in before.graph.node] == [n.name for n in after.graph.node]
    assert [i.name for i in before.graph.initializer] == [i.name for i in after.graph.initializer]


def test_training_that_harms_gives_the_file_back_as_it_was(tmp_path):
    out = tmp_path / "out.onnx"
    assert retrain.main([str(MODEL), "-o", str(out), "--epochs", "1", "--rate", "5"]) == 0
    assert validation_loss(out) == pytest.approx(validation_loss(MODEL), abs=1e-6)
    with pytest.raises(SystemExit):
        retrain.main([str(MODEL), "-o", str(out), "--epochs", "1"])


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    options = [str(MODEL), "--rate", "1e-3", "--epochs", "3", "--amp", "bf16"]
    checkpoint = tmp_path / "state.pt"
    parser = [*options, "-o", str(tmp_path / "b.onnx"), "--checkpoint", str(checkpoint)]
    train = retrain.train
    stopped = []

    def stop_after_two(arguments):
        for row in train(arguments):
            stopped.append(row)
            if row["epoch"] == 2:
                return
            yield row

    retrain.train = stop_after_two
    try:
        retrain.main(parser)
    finally:
        retrain.train = train
    assert not (tmp_path / "b.onnx").exists()
    assert retrain.main([*parser, "--curves", str(tmp_path / "b.csv")]) == 0
    assert [row["epoch"] for row in rows_of(tmp_path / "b.csv")] == [0, 3]
    assert (tmp_path / "b.onnx").exists()


def test_two_processes_train_one_model(tmp_path):
    out, curves = tmp_path / "out.onnx", tmp_path / "curves.csv"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["tools.retrain", str(CNN), "-o", str(out), "--epochs", "1", "--curves", str(curves)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert validation_loss(out) == pytest.approx(min(r["validation_loss"] for r in rows_of(curves)), abs=1e-5)


def test_curves_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    shown = []

    class Writer:
        def __init__(self, folder):
            assert folder == str(tmp_path / "board")

        def add_scalar(self, name, value, epoch):
            shown.append((name, epoch))

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    options = [str(MODEL), "--epochs", "1", "--tensorboard", str(tmp_path / "board")]
    assert retrain.main([*options, "-o", str(tmp_path / "a.onnx")]) == 0
    assert {("train_loss", 1), ("accuracy", 0), ("accuracy", 1)} <= set(shown)
    assert ("train_loss", 0) not in shown, "there is none before the first epoch"


def test_a_missing_tensorboard_is_said_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "a.onnx"
    assert retrain.main([str(MODEL), "--epochs", "1", "-o", str(out), "--tensorboard", str(tmp_path)]) == 5
    assert "TensorBoard is not installed" in capsys.readouterr().err
    assert not out.exists()
