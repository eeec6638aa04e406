"""Whatever goes wrong ends in one line and an exit code, and the code never denies what was done."""

from __future__ import annotations

import errno

import pytest
from command_line import listing

from onnxgrow.cli.faults import describe
from onnxgrow.errors import (
    BadInputError,
    EnvironmentFault,
    GrowError,
    NotEquivalentError,
    UnsupportedError,
    UsageError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(NotEquivalentError, 1), (UsageError, 2), (BadInputError, 3), (UnsupportedError, 4), (EnvironmentFault, 5)],
)
def test_errors_of_the_library_keep_their_code(kind: type[GrowError], code: int):
    line, found = describe(kind("thing", "it\nis off", "mend it"))
    assert found == code
    assert line == f"{kind.code}: thing: it is off: mend it"


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (MemoryError(), 5, "ENVIRONMENT: memory: "),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), 5, "ENVIRONMENT: /tmp/x: No space left"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 5, "ENVIRONMENT: onnx: "),
        (ModuleNotFoundError("No module named 'onnxgrow.x'", name="onnxgrow.x"), 70, "INTERNAL: "),
        (ZeroDivisionError("a\nb"), 70, "INTERNAL: onnxgrow: ZeroDivisionError: a b: "),
        (KeyboardInterrupt(), 130, "INTERRUPTED: "),
    ],
)
def test_other_exceptions_have_a_line_too(error, code, start):
    line, found = describe(error)
    assert found == code
    assert line.startswith(start)
    assert "\n" not in line


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (MemoryError(), 5), (RuntimeError("surprise"), 70), (SystemExit(143), 143)],
)
def test_a_failure_during_verification_leaves_nothing(error, code, mlp, folder, onnxgrow, monkeypatch):
    """Then the result is already written as a temporary file."""
    before = listing(folder)
    monkeypatch.setattr("onnxgrow.passes.base.prove", fail_with(error))
    outcome = onnxgrow("widen", mlp, "--report", "r.json")
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 1
    assert listing(folder) == before


def test_debug_shows_the_traceback_before_the_line(mlp, onnxgrow, monkeypatch):
    monkeypatch.setattr("onnxgrow.passes.base.prove", fail_with(RuntimeError("surprise")))
    outcome = onnxgrow("widen", mlp, "--debug")
    assert outcome.code == 70
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("INTERNAL: onnxgrow: RuntimeError: surprise")


def test_an_interrupt_after_the_model_is_in_place_does_not_deny_it(mlp, folder, onnxgrow, monkeypatch):
    monkeypatch.setattr("onnxgrow.report.evidence_table", fail_with(KeyboardInterrupt()))
    outcome = onnxgrow("widen", mlp)
    assert "mlp.grown.onnx" in listing(folder)
    assert outcome.code == 0


def test_a_report_that_fails_after_the_model_is_in_place_is_said(mlp, folder, onnxgrow, monkeypatch):
    monkeypatch.setattr("onnxgrow.report.write_json", fail_with(EnvironmentFault("r.json", "the disk is full")))
    outcome = onnxgrow("widen", mlp, "--report", "r.json", "-q")
    assert outcome.code == 0
    assert outcome.error == "ENVIRONMENT: r.json: the disk is full (mlp.grown.onnx is written and proved)"
    assert "mlp.grown.onnx" in listing(folder)


def test_a_damaged_onnxruntime_is_said_before_the_model_is_read(mlp, folder, onnxgrow, monkeypatch):
    fault = EnvironmentFault("onnxruntime", "two variants overwrite each other", "pip uninstall")
    monkeypatch.setattr("onnxgrow.verify.sessions.check_runtime", fail_with(fault))
    for arguments in (("widen", "gone.onnx"), ("inspect", "gone.onnx"), ("verify", "gone.onnx", "gone.onnx")):
        outcome = onnxgrow(*arguments)
        assert outcome.code == 5
        assert outcome.error.startswith("ENVIRONMENT: onnxruntime: ")
