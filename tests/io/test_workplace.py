"""What killed writers leave behind goes with the next writer, and never before they are dead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgrow.io import folder as workplaces
from onnxgrow.io.folder import Workplace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells systems apart")


def _dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def _left(folder: Path, pid: int, machine: str) -> Path:
    """A workplace whose writer was killed before it had its lock, or after it had removed it."""
    left = folder / f".onnxgrow-{pid}-{machine}0123abcd"
    left.mkdir()
    (left / "data").write_bytes(b"half")
    return left


def test_a_workplace_without_a_lock_goes_when_its_writer_is_dead(tmp_path: Path) -> None:
    left = _left(tmp_path, _dead(), f"{workplaces._machine()}-")
    Workplace(tmp_path).close()
    assert not left.exists()


@pytest.mark.parametrize("machine", ["", "00000000-"])
def test_a_young_one_of_another_machine_stays(tmp_path: Path, machine: str) -> None:
    """Its process number means nothing here."""
    left = _left(tmp_path, _dead(), machine)
    Workplace(tmp_path).close()
    assert left.exists()
    os.utime(left, (0, 0))
    Workplace(tmp_path).close()
    assert not left.exists()


def test_that_of_a_living_writer_stays(tmp_path: Path) -> None:
    left = _left(tmp_path, os.getpid(), f"{workplaces._machine()}-")
    Workplace(tmp_path).close()
    assert left.exists()


def test_workplaces_say_which_machine_they_are_of(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    assert place.path.name.split("-")[2] == workplaces._machine() != ""
    place.close()
