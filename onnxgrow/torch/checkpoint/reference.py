"""The user's own checkpoint: which names a class has, and the values that they had before the growth."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnxgrow.errors import BadInputError, EnvironmentFault

__all__ = ["Reference", "read_reference"]

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Where training scripts keep the weights beside the optimizer's state."""


@dataclass(frozen=True)
class Reference:
    """A state dict.

    Attributes:
        tensors: Key → tensor, in the order of the file.
        metadata: Of a safetensors file; kept in what is written.
        sha256: Of the file, in hex.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sha256: str


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read a safetensors file, or one of ``torch.save``; the latter never runs code (``weights_only=True``).

    Raises:
        EnvironmentFault: The package safetensors is not installed.
        BadInputError: The file is missing, damaged, or holds something else than named tensors.
    """
    require_safetensors()
    place = Path(path)
    subject = str(place)
    try:
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(subject, f"cannot be read: {error.strerror or error}") from error
    if place.suffix == ".safetensors":
        tensors, metadata = _safetensors(place)
    else:
        tensors, metadata = _pickled(place), {}
    if not tensors:
        raise BadInputError(subject, "it holds no tensors")
    return Reference(tensors, metadata, digest)


def require_safetensors() -> None:
    """Raises EnvironmentFault where the package is missing; the rest of ``onnxgrow.torch`` does without it."""
    if importlib.util.find_spec("safetensors") is None:
        raise EnvironmentFault("safetensors", "this package is not installed", "pip install 'onnxgrow[torch]'")


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 # no mapping
    except (SafetensorError, ValueError, OSError) as error:
        raise BadInputError(str(path), f"it is no safetensors file: {_first_line(error)}") from error


def _pickled(path: Path) -> dict[str, Tensor]:
    subject = str(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors, and loading that could run code"
        raise BadInputError(subject, reason, "save module.state_dict() instead of the module") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError) as error:
        raise BadInputError(subject, f"PyTorch cannot read it: {_first_line(error)}") from error
    nested = [found[key] for key in NESTED if isinstance(found, Mapping) and _is_state(found.get(key))]
    if not _is_state(found) and len(nested) == 1:
        found = nested[0]
    if not _is_state(found):
        raise BadInputError(subject, "it is no state dict: a mapping of names to tensors", "save module.state_dict()")
    return {key: value.detach() for key, value in found.items() if isinstance(value, Tensor)}


def _is_state(value: object) -> bool:
    """Whether something maps names to tensors; versions and other plain entries that modules add are let pass."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    kinds = [isinstance(v, Tensor) for v in value.values()]
    return any(kinds) and not any(isinstance(v, Mapping) for v in value.values())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
