"""Exporting a PyTorch module so that its ONNX file can be grown and trained, and brought home by name.

By default the exporters fold batch normalisation into convolutions (some keep the convolution's name for the folded
weight), transpose the weights of linear layers under names of their own, and merge parameters of equal value. The
settings used here keep every parameter apart, under its name; whether they did is checked tensor by tensor.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxgrow.errors import UnsupportedError
from onnxgrow.io import load, save
from onnxgrow.torch.source import Source
from onnxgrow.torch.tensors import to_torch

__all__ = ["ExportCheck", "check_export", "export_for_growth"]

OPSET = 17


@dataclass(frozen=True)
class ExportCheck:
    """How the floating-point entries of a ``state_dict`` are found in an ONNX file.

    Attributes:
        matched: Keys that are there under their own name, equal bit for bit.
        problems: Key → what is wrong with it.
    """

    matched: tuple[str, ...]
    problems: Mapping[str, str]

    def __str__(self) -> str:
        total = len(self.matched) + len(self.problems)
        lines = [f"{len(self.matched)} of {total} entries of the state match by name and value"]
        return "\n".join([*lines, *(f"{key}: {why}" for key, why in self.problems.items())])


def check_export(source: object, module: nn.Module) -> ExportCheck:
    """Compare an ONNX file with the module that it was exported from.

    Args:
        source: Path, ``ModelProto`` or ``onnx_ir.Model``.
        module: The module, with the weights that it had.

    Warns:
        UserWarning: Something was folded, renamed or left out: training the file and loading the result back into the
            module by name would be wrong or impossible.
    """
    found: dict[str, list[Tensor]] = {}
    for leaf in Source.read(source, ("*",), ()).found.leaves:
        found.setdefault(leaf.name, []).append(to_torch(leaf.tensor))
    matched, problems = [], {}
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        wanted = value.detach().cpu()
        if key not in found:
            problems[key] = _whereabouts(wanted, found)
        elif any(torch.equal(wanted, tensor) for tensor in found[key]):
            matched.append(key)
        else:
            problems[key] = "it has other values: something was folded into it"
    check = ExportCheck(tuple(matched), problems)
    if problems:
        warnings.warn(f"the file was exported with folding or renaming: {check}", stacklevel=2)
    return check


def _whereabouts(wanted: Tensor, found: Mapping[str, Sequence[Tensor]]) -> str:
    for name, tensors in found.items():
        for tensor in tensors:
            if torch.equal(wanted, tensor):
                return f"it is called {name}"
            if wanted.dim() == 2 and torch.equal(wanted.t(), tensor):
                return f"it is called {name}, and is transposed"
    return "it is not in the file: folded into others, or never used"


def export_for_growth(
    module: nn.Module,
    example_inputs: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    opset_version: int = OPSET,
    overwrite: bool = False,
) -> ExportCheck:
    """Write a module as an ONNX file that keeps parameters, names and batch normalisation apart.

    Uses the TorchScript-based exporter without constant folding, in its form for training but with the module in
    evaluation mode, which is restored afterwards.

    Args:
        module: The module; its weights are not changed.
        example_inputs: Positional inputs of ``forward``.
        path: Where to write the file, atomically.
        input_names, output_names, dynamic_axes, opset_version: As for ``torch.onnx.export``.
        overwrite: Whether ``path`` may exist.

    Returns:
        What of the state matches by name and value; warns where not all of it does.

    Raises:
        UnsupportedError: PyTorch cannot export the module.
        UsageError, EnvironmentFault: The file cannot be written.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter: the other one folds and renames
            exported = Path(folder) / "model.onnx"
            try:
                torch.onnx.export(
                    module,
                    tuple(example_inputs),
                    os.fspath(exported),
                    dynamo=False,
                    opset_version=opset_version,
                    training=torch.onnx.TrainingMode.PRESERVE,
                    do_constant_folding=False,
                    input_names=list(input_names) if input_names else None,
                    output_names=list(output_names) if output_names else None,
                    dynamic_axes={k: dict(v) for k, v in (dynamic_axes or {}).items()},
                )
            except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
                reason = f"PyTorch cannot export it: {(str(error).splitlines() or [''])[0][:300]}"
                raise UnsupportedError(type(module).__name__, reason) from error
            model = load(exported).model
            save(model, path, overwrite=overwrite)
            return check_export(model, module)
    finally:
        for part, training in modes:
            part.training = training
