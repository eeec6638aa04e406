"""Inputs that the user gives as arrays in a ``.npz`` file (``--inputs FILE.npz``)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.pin import InputSpec, input_specs
from onnxgrow.errors import BadInputError, UsageError

__all__ = ["load_inputs"]

Array = npt.NDArray[np.generic]


def load_inputs(path: str | Path, model: ir.Model) -> dict[str, Array]:
    """Read a value for every real graph input.

    Arrays are named by the input, or ``in_`` and the input; ``/`` in a name may be written ``__``. Arrays
    named ``out_…`` are ignored. Nothing is unpickled.

    Raises:
        BadInputError: The file is missing, damaged, or holds pickled objects.
        UsageError: An input has no array, an array fits no input, or dtype, rank or a static dimension
        disagree.
    """
    arrays = _read(Path(path))
    specs = input_specs(model)
    accepted: dict[str, InputSpec] = {}
    for spec in specs:
        written = spec.name.replace("/", "__")
        for name in (spec.name, written, f"in_{spec.name}", f"in_{written}"):
            other = accepted.setdefault(name, spec)
            if other is not spec and name in arrays and name != other.name:
                raise UsageError(f"array {name!r}", f"it fits inputs {other.name!r} and {spec.name!r}")
    feeds: dict[str, Array] = {}
    for name, array in arrays.items():
        match = accepted.get(name)
        if match is None:
            if name.startswith("out_"):
                continue
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"array {name!r} of {path}", "the model has no such input", f"inputs are: {names}")
        if match.name in feeds:
            raise UsageError(f"input {match.name!r}", f"{path} holds two arrays for it")
        feeds[match.name] = _checked(match, array)
    lacking = [spec.name for spec in specs if spec.name not in feeds]
    if lacking:
        raise UsageError(f"input {lacking[0]!r}", f"{path} holds no array for it")
    return {spec.name: feeds[spec.name] for spec in specs}


def _read(path: Path) -> dict[str, Array]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise BadInputError(str(path), "it holds a single array", "save with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise BadInputError(str(path), "no such file") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        hint = "strings must be saved as a fixed-width array (dtype U), not as objects"
        raise BadInputError(str(path), f"no readable .npz file: {error}", hint) from error


def _checked(spec: InputSpec, array: Array) -> Array:
    subject = f"input {spec.name!r}"
    if spec.dtype == ir.DataType.STRING:
        if array.dtype.kind not in "US":
            raise UsageError(subject, f"its array is {array.dtype}, the model takes strings")
        texts = np.char.decode(array.astype(np.bytes_), "utf-8") if array.dtype.kind == "S" else array
        array = texts.astype(object)
    elif array.dtype != spec.dtype.numpy():
        raise UsageError(subject, f"its array is {array.dtype}, the model takes {spec.dtype.numpy()}")
    if spec.dims is None:
        return array
    if array.ndim != len(spec.dims):
        raise UsageError(subject, f"its array has shape {array.shape}, the model takes {len(spec.dims)} dimensions")
    for axis, dim in enumerate(spec.dims):
        if dim.size and dim.size != array.shape[axis]:
            raise UsageError(subject, f"dimension {axis} is {array.shape[axis]}, the model fixes it at {dim.size}")
    return array
