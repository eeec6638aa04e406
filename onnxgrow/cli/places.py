"""Where results may go: never over something they are made from, and known to be writable before the work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from onnxgrow.errors import EnvironmentFault, UsageError

__all__ = ["check_apart", "check_folder", "check_report", "choose_output", "is_same"]


def choose_output(model: Path, output: Path | None, in_place: bool, force: bool) -> Path:
    """The file that a grown model is written to.

    Args:
        model: The file it is grown from.
        output: The user's choice; by default ``<stem>.grown.onnx`` beside the model.
        in_place: Replace ``model``.
        force: Whether the file may exist.

    Raises:
        UsageError: The options contradict each other, the file exists, or its folder does not.
        EnvironmentFault: The folder cannot be written to.
    """
    if in_place and output is not None:
        raise UsageError("--in-place", "it excludes -o", "give one of them")
    if in_place and force:
        raise UsageError("--in-place", "it excludes --force", "--in-place replaces the model by itself")
    if in_place:
        target = Path(os.path.realpath(model))
        check_folder(target)
        return target
    target = output if output is not None else model.with_name(f"{model.stem or 'model'}.grown.onnx")
    if is_same(target, model):
        raise UsageError(str(target), "this is the model itself", "use --in-place to replace it")
    if not target.name or target.is_dir():
        raise UsageError(str(target), "this is a folder, not a file name")
    if os.path.lexists(target) and not force:
        raise UsageError(str(target), "the file exists", "use --force to replace it, or -o to choose another name")
    check_folder(target)
    return target


def check_folder(target: Path) -> None:
    """Refuse a file whose folder is missing or read-only, before any work is done.

    Raises:
        UsageError: The folder does not exist.
        EnvironmentFault: It cannot be written to.
    """
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(str(target), "its folder does not exist", "create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentFault(str(target), "its folder cannot be written to", "choose another folder")


def check_report(report: Path) -> None:
    """Refuse a report file that would replace something other than a report.

    Raises:
        UsageError: It is no regular file, or holds something else than JSON; its folder does not exist.
        EnvironmentFault: It cannot be written or looked at.
    """
    check_folder(report)
    if not os.path.lexists(report):
        return
    if not report.is_file():
        raise UsageError(str(report), "this is not a file", "give the name of a file for the report")
    try:
        with report.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as e:
        raise EnvironmentFault(str(report), f"cannot be read: {e.strerror or e}") from e
    if start and not start.startswith(b"{"):
        raise UsageError(str(report), "it exists and is no report", "choose another name for the report")


def check_apart(result: Path, option: str, sources: Iterable[Path]) -> None:
    """Refuse a result that would replace one of the files it is made from.

    Raises:
        UsageError: It is one of them, also through links.
    """
    for source in sources:
        if is_same(result, source):
            raise UsageError(option, f"{result} is the same file as {source}", "choose another name")


def is_same(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, through links and whether it exists or not."""
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):
        return os.path.realpath(a) == os.path.realpath(b)
