"""What can go wrong, as exceptions: each carries a code, the object it is about, the reason and a hint.

On the command line an error is one line, ``CODE: object: reason: hint``, and the exit code is the class's.
"""

from __future__ import annotations

__all__ = [
    "BadInputError",
    "EnvironmentFault",
    "GrowError",
    "NotEquivalentError",
    "UnsupportedError",
    "UsageError",
]


class GrowError(Exception):
    """Base of all errors raised on purpose by onnxgrow.

    Args:
        subject: The object the error is about: a file, a node, a channel set, an option.
        reason: What is wrong with it, in one sentence without a trailing full stop.
        hint: What the user can do about it; may be empty.
    """

    code = "ERROR"
    exit_code = 1

    def __init__(self, subject: str, reason: str, hint: str = "") -> None:
        self.subject = subject
        self.reason = reason
        self.hint = hint
        super().__init__(subject, reason, hint)

    def __str__(self) -> str:
        parts = [self.code, self.subject, self.reason, self.hint]
        return ": ".join(" ".join(part.split()) for part in parts if part)


class NotEquivalentError(GrowError):
    """The result does not compute what was promised; nothing was written. ``report`` holds the evidence."""

    code = "NOT-EQUIVALENT"
    exit_code = 1

    def __init__(self, subject: str, reason: str, hint: str = "", report: object = None) -> None:
        super().__init__(subject, reason, hint)
        self.report = report


class UsageError(GrowError):
    """The request itself is off: an option, a selector, a recipe."""

    code = "USAGE"
    exit_code = 2


class BadInputError(GrowError):
    """A file that is missing, damaged, unsafe or no valid ONNX model."""

    code = "BAD-INPUT"
    exit_code = 3


class UnsupportedError(GrowError):
    """A valid request that cannot be done exactly; the reason names node, axis and cause."""

    code = "UNSUPPORTED"
    exit_code = 4


class EnvironmentFault(GrowError):
    """The machine, the installation or the file system is at fault."""

    code = "ENVIRONMENT"
    exit_code = 5
