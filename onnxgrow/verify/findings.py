"""Findings of one check, up to so many that more would not change the verdict."""

from __future__ import annotations

from onnxgrow.verify.report import Finding

__all__ = ["MAX_FINDINGS", "EnoughFindingsError", "Findings"]

MAX_FINDINGS = 20


class EnoughFindingsError(Exception):
    """Enough findings: the rest would not change the verdict."""


class Findings:
    """What a check found.

    Attributes:
        findings: In the order in which they were found.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def fault(self, subject: str, reason: str) -> None:
        """Note what is wrong.

        Raises:
            EnoughFindingsError: There are :data:`MAX_FINDINGS` of them.
        """
        self.findings.append(Finding(subject, reason))
        if len(self.findings) >= MAX_FINDINGS:
            raise EnoughFindingsError
