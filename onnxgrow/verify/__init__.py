"""Verification: does the grown model compute the same function, and on what evidence?

The package can be called: ``onnxgrow.verify(original, grown)`` is :func:`onnxgrow.api.verify`.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from onnxgrow.verify.report import AliveResult, Finding, Report, TierResult, TierStatus, Verdict

__all__ = ["AliveResult", "Finding", "Report", "TierResult", "TierStatus", "Verdict"]


class _CallableModule(ModuleType):
    """The subpackage and the function of one name: importing the one must not hide the other."""

    def __call__(self, original: object, grown: object, **options: Any) -> Report:
        """See :func:`onnxgrow.api.verify`, which is imported when it is first called."""
        from onnxgrow.api import verify

        return verify(original, grown, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from onnxgrow.api import verify

        return inspect.signature(verify)


sys.modules[__name__].__class__ = _CallableModule
