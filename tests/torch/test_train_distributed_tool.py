"""Two gloo processes on this machine against one: the same losses, whatever the strategy, and one ONNX file."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import onnx
import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("PyTorch was built without gloo", allow_module_level=True)

from onnxgrow.errors import UsageError  # noqa: E402 # only where PyTorch is installed
from onnxgrow.torch import OnnxModule  # noqa: E402
from tools import train_distributed  # noqa: E402

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_cnn.onnx"
COMMON = ["--epochs", "2", "--freeze-bn", "--batch", "256", "--overwrite"]


@pytest.fixture(scope="module")
def forkserver():
    """Processes that do not each import PyTorch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.train_distributed", "torch._dynamo", "torch.distributed.tensor"])
    return context


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def process(rank, runs):
    """One process with what ``torchrun`` would tell it; its runs are one after the other, as in a resumed job."""
    torch.set_num_threads(1)
    for port, arguments in runs:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
        os.environ.update(where, RANK=str(rank), WORLD_SIZE="2")
        code = train_distributed.main(arguments)
        if code:
            sys.exit(code)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def arguments(folder, name, *further):
    places = ["-o", str(folder / f"{name}.onnx"), "--curves", str(folder / f"{name}.csv")]
    return [str(MODEL), *places, *COMMON, *further]


def launched(context, *runs):
    """Two processes that do these runs together."""
    ported = [(free_port(), arguments) for arguments in runs]
    processes = [context.Process(target=process, args=(rank, ported)) for rank in range(2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(240)
        each.kill()
    assert [each.exitcode for each in processes] == [0, 0]


def weights(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_two_processes_train_like_one_and_a_run_goes_on_with_the_other_strategy(tmp_path, forkserver):
    assert train_distributed.main(arguments(tmp_path, "alone")) == 0
    alone = rows_of(tmp_path / "alone.csv")
    shared = ["--checkpoint", str(tmp_path / "checkpoint")]
    launched(
        forkserver,
        arguments(tmp_path, "first", "--strategy", "ddp", "--stop-after", "1", *shared),
        arguments(tmp_path, "both", "--strategy", "fsdp", *shared),
    )
    first, second = rows_of(tmp_path / "first.csv"), rows_of(tmp_path / "both.csv")
    assert [row["epoch"] for row in first + second] == [1, 2]
    for one, two in zip(alone, first + second, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)
    before, one, two = weights(MODEL), weights(tmp_path / "alone.onnx"), weights(tmp_path / "both.onnx")
    assert list(before) == list(one) == list(two)
    assert sorted(p.name for p in (tmp_path / "checkpoint").parent.iterdir() if p.is_dir()) == ["checkpoint"]
    for name, array in one.items():
        assert two[name] == pytest.approx(array, rel=0, abs=5e-5), name
    assert any(abs(before[name] - array).max() > 1e-3 for name, array in one.items()), "the training moved the weights"


def test_a_sharded_module_is_not_written_in_parts():
    module = OnnxModule(MODEL)
    sharded = type("Sharded", (torch.nn.Parameter,), {"full_tensor": lambda self: self})
    key, parameter = next(iter(module.named_parameters()))
    scope, _, last = key.rpartition(".")
    module.get_submodule(scope)._parameters[last] = sharded(parameter.detach())
    with pytest.raises(UsageError, match="shared out"):
        module.to_onnx()
