"""Writing to stdout and stderr such that a closed pipe never changes the exit code, and no name can do mischief."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO

from onnxgrow.errors import EnvironmentFault

__all__ = ["close_quietly", "complain", "deliver", "printable", "silence"]


def printable(text: str) -> str:
    """The text with control characters escaped: names come from files and must not steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def complain(text: str) -> None:
    """Write a line to stderr."""
    if sys.stderr is None:
        return
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def deliver(text: str) -> None:
    """Write data to stdout. A reader that went away is no error.

    Raises:
        EnvironmentFault: The data could not be written, as on a full disk.
    """
    if sys.stdout is None:
        return
    try:
        print(text, file=sys.stdout, flush=True)
    except OSError as e:
        silence(sys.stdout)
        if not _is_closed_pipe(e):
            raise EnvironmentFault("stdout", f"cannot be written: {e.strerror or e}") from e


def silence(stream: TextIO) -> None:
    """Lead a stream that takes nothing any more to nowhere; else its buffer fails again when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def close_quietly() -> None:
    """Flush what is left, where a closed pipe does not matter."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)


def _is_closed_pipe(e: OSError) -> bool:
    return isinstance(e, BrokenPipeError) or e.errno in (errno.EPIPE, errno.EINVAL)
