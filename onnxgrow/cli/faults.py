"""Any exception as one line, ``CODE: object: reason: hint``, and an exit code."""

from __future__ import annotations

import click

from onnxgrow.errors import EnvironmentFault, GrowError, UsageError

__all__ = ["INTERNAL", "INTERRUPTED", "describe"]

INTERNAL = 70
"""Exit code of a fault in onnxgrow itself: EX_SOFTWARE of sysexits.h, apart from all that the user can mend."""
INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""


def describe(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for an exception."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "INTERRUPTED: onnxgrow: stopped on request", INTERRUPTED
    known = _known(error)
    if known is not None:
        return str(known), known.exit_code
    text = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"INTERNAL: onnxgrow: {what}: run again with --debug and report this as a bug", INTERNAL


def _known(error: BaseException) -> GrowError | None:
    if isinstance(error, GrowError):
        return error
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "onnxgrow"
        return UsageError(path, _sentence(error.format_message()), f"see `{path} --help`")
    if isinstance(error, click.ClickException):
        return UsageError("onnxgrow", _sentence(error.format_message()))
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("onnxgrow"):
        return EnvironmentFault(str(error.name), "this package is not installed", "pip install onnxgrow")
    if isinstance(error, MemoryError):
        return EnvironmentFault(
            "memory", "there is not enough of it for this model", "free some, or use a larger machine"
        )
    if isinstance(error, OSError):
        subject = str(error.filename) if error.filename else "the system"
        return EnvironmentFault(subject, error.strerror or str(error) or type(error).__name__)
    return None


def _sentence(message: str) -> str:
    """Click's message as a reason: on one line, without a full stop."""
    text = " ".join(message.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
