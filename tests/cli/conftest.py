"""A working directory, a model in it, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, parsed

from onnxgrow.cli.main import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("COLUMNS", raising=False)
    return work


@pytest.fixture
def mlp(folder: Path) -> Path:
    """``mlp.onnx`` in the working directory."""
    onnx.save(parsed(), folder / "mlp.onnx")
    return Path("mlp.onnx")


@pytest.fixture
def onnxgrow(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line here; what native code writes to stderr is caught as well."""

    def call(*arguments: str | os.PathLike[str]) -> Outcome:
        capfd.readouterr()
        code = run([os.fspath(a) for a in arguments])
        caught = capfd.readouterr()
        return Outcome(code, caught.out, caught.err)

    return call
