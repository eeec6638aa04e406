"""The report file: everything about one run as JSON, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnxgrow.errors import EnvironmentFault

__all__ = ["Subject", "document", "dumps", "versions", "write_json"]

FORMAT = "onnxgrow.report"
VERSION = 1
PACKAGES = ("onnxgrow", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        command: The command.
        files: Role → name as the user gave it.
        started: When the work began, in seconds since the epoch.
    """

    command: str
    files: Mapping[str, str]
    started: float


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the result depends on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def document(
    about: Subject,
    *,
    plan: Mapping[str, Any] | None = None,
    growth_map: Mapping[str, Any] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as plain data.

    Args:
        about: The run.
        plan: Data of the plan.
        growth_map: Data of the growth map; the report keeps a summary, the grown model all of it.
        evidence: Data of the verification report.

    Returns:
        ``format``, ``version``, ``command``, ``files``, ``verdict`` (null without evidence), ``plan``, ``growth``,
        ``verification``, ``versions``, ``started`` (UTC, ISO 8601), ``seconds``.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": about.command,
        "files": dict(about.files),
        "verdict": None if evidence is None else evidence["verdict"],
        "plan": plan,
        "growth": None if growth_map is None else _summary(growth_map),
        "verification": evidence,
        "versions": versions(),
        "started": datetime.fromtimestamp(about.started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - about.started, 3),
    }


def _summary(growth_map: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("original", "generation", "seed", "exact", "sets", "inserted", "removed", "recipe", "versions")
    counted = ("values", "tensors", "nodes", "history")
    return {k: growth_map[k] for k in kept} | {f"{k}_listed": len(growth_map[k]) for k in counted}


def dumps(data: Mapping[str, Any]) -> str:
    """JSON text in ASCII, so that any terminal, file and name can hold it; infinities and NaN as texts."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    return x


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a report; a file that is there is replaced in one step, and stays as it is when that fails.

    Raises:
        EnvironmentFault: The file system refused; nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.partial")
    try:
        try:
            with open(partial, "x", encoding="ascii") as file:
                file.write(dumps(data) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as e:
        raise EnvironmentFault(str(path), f"the report cannot be written: {e.strerror or e}") from e
