"""What a model says never makes onnxgrow touch a file outside of the model's folder, or the network.

Python's audit events show every file that is opened or changed, by whatever module; ``tools/trace_files.py`` shows the
same of the whole process where ``strace`` is installed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from saving import posix, with_weight

from onnxgrow.errors import BadInputError, GrowError
from onnxgrow.io import load, model_digest, save
from tools.trace_files import ESCAPES, lay_trap

WATCHED = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.rename",
    "os.link",
    "os.symlink",
}
_SEEN: list[tuple[str, tuple[Any, ...]]] = []
_WATCHING = [False]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING[0] and (event in WATCHED or event.startswith("socket.")):
        _SEEN.append((event, arguments))


sys.addaudithook(_hook)  # it cannot be taken off again


@contextmanager
def watched() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """What is done to files and sockets meanwhile."""
    _SEEN.clear()
    _WATCHING[0] = True
    try:
        yield _SEEN
    finally:
        _WATCHING[0] = False


def outside(seen: list[tuple[str, tuple[Any, ...]]], folder: Path) -> list[str]:
    """Events that concern anything but the folder; modules that are imported meanwhile do not count."""
    found = []
    for event, arguments in seen:
        if event.startswith("socket."):
            found.append(event)
        for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            if os.path.basename(path) == path:
                continue  # relative to a folder's descriptor (rmtree works so); that folder was opened by its path
            # The last part is not followed by what renames and removes, and io opens it with O_NOFOLLOW.
            place, name = os.path.split(os.fsdecode(path))
            real = os.path.join(os.path.realpath(place), name)
            if not (real + os.sep).startswith(str(folder) + os.sep) and not real.endswith((".py", ".pyc", ".so")):
                found.append(f"{event} {real}")
    return found


@posix
@pytest.mark.parametrize("escape", ESCAPES)
def test_locations_of_external_data_do_not_lead_out(tmp_path: Path, escape: str) -> None:
    model = lay_trap(tmp_path.resolve(), escape)
    with watched() as seen, pytest.raises(BadInputError):
        load(model)
    assert any(event == "open" for event, _ in seen), "the watch does not work"
    assert outside(seen, model.parent) == []


@posix
def test_a_reader_without_a_guard_would_be_seen(tmp_path: Path) -> None:
    model = lay_trap(tmp_path.resolve(), "parent")
    with watched() as seen, suppress(Exception):
        (model.parent / ".." / "secret").read_bytes()
    assert outside(seen, model.parent) == [f"open {model.parent.parent / 'secret'}"]
    with watched() as seen, socket.socket():
        pass
    assert outside(seen, model.parent)


def test_the_telemetry_of_onnx_runtime_is_off_unless_asked_for() -> None:
    program = "import os, onnxgrow; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in ((None, "1"), ("0", "0")):
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2])} | (
            {"ORT_DISABLE_TELEMETRY": given} if given else {}
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def _stale_link(folder: Path, outer: Path) -> None:
    (folder / f".onnxgrow-{2**22 + 1}-00000000").symlink_to(outer)


def _stale_lock_link(folder: Path, outer: Path) -> None:
    stale = folder / f".onnxgrow-{2**22 + 1}-00000000"
    stale.mkdir()
    (stale / ".lock").symlink_to(outer / "secret")
    (stale / "data").symlink_to(outer)


def _data_link(folder: Path, outer: Path) -> None:
    first = save(load(folder / "m.onnx").model, folder / "other.onnx", external_data=True)
    [data] = folder.glob("other-*.data")
    (folder / f"m{data.name.removeprefix('other')}").symlink_to(outer / "secret")
    first.unlink()


def _old_link(folder: Path, outer: Path) -> None:
    (folder / "m-0123456789abcdef.data").symlink_to(outer / "secret")


@posix
@pytest.mark.parametrize("trap", [_stale_link, _stale_lock_link, _data_link, _old_link])
def test_saving_does_not_follow_what_lies_in_the_folder(
    tmp_path: Path, mlp: onnx.ModelProto, trap: Callable[[Path, Path], None]
) -> None:
    folder, outer = tmp_path.resolve() / "work", tmp_path.resolve() / "outer"
    folder.mkdir()
    outer.mkdir()
    (outer / "secret").write_bytes(b"secret")
    model: ir.Model = with_weight(mlp)
    save(model, folder / "m.onnx")
    trap(folder, outer)
    with watched() as seen, suppress(GrowError):
        save(model, folder / "m.onnx", external_data=True, overwrite=True)
    assert outside(seen, folder) == []
    assert [p.name for p in outer.iterdir()] == ["secret"]
    assert (outer / "secret").read_bytes() == b"secret"
    assert model_digest(load(folder / "m.onnx")) == model_digest(model)
