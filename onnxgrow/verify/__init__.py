"""Verification: does the grown model compute the same function, and on what evidence?"""

from __future__ import annotations

from onnxgrow.verify.report import AliveResult, Finding, Report, TierResult, TierStatus, Verdict
from onnxgrow.verify.verify import verify

__all__ = ["AliveResult", "Finding", "Report", "TierResult", "TierStatus", "Verdict", "verify"]
