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

import onnx_ir as ir
import torch
from torch import Tensor, nn

from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.io import load, save
from onnxgrow.torch.export_dynamo import OPSET as DYNAMO_OPSET
from onnxgrow.torch.export_dynamo import dynamo_model
from onnxgrow.torch.source import Source
from onnxgrow.torch.tensors import to_torch

__all__ = ["ExportCheck", "check_export", "export_for_growth"]

OPSET = 17


@dataclass(frozen=True)
class ExportCheck:
    """How the floating-point entries of a ``state_dict`` are found in an ONNX file.

    Attributes:
        matched: Keys that are there under their own name (a tied parameter under one of its names), equal bit for bit.
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
    tied = _tied(module)
    for leaf in Source.read(source, ("*",), ()).found.leaves:
        found.setdefault(leaf.name, []).append(to_torch(leaf.tensor))
    matched, problems = [], {}
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        wanted = value.detach().cpu()
        # A tied parameter has several keys, and one name in a file: any of them will do.
        own = next((k for k in (key, *tied.get(key, ())) if k in found), key)
        if own not in found:
            problems[key] = _whereabouts(wanted, found)
        elif any(torch.equal(wanted, tensor) for tensor in found[own]):
            matched.append(key)
        else:
            problems[key] = "it has other values: something was folded into it"
    check = ExportCheck(tuple(matched), problems)
    if problems:
        warnings.warn(f"the file was exported with folding or renaming: {check}", stacklevel=2)
    return check


def _tied(module: nn.Module) -> dict[str, list[str]]:
    """Key → the other keys of the same parameter."""
    keys: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        keys.setdefault(id(parameter), []).append(key)
    return {key: [k for k in group if k != key] for group in keys.values() for key in group}


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
    opset_version: int | None = None,
    dynamo: bool = False,
    dynamic_shapes: Any = None,
    overwrite: bool = False,
) -> ExportCheck:
    """Write a module as an ONNX file that keeps parameters, names and batch normalisation apart.

    Uses the TorchScript-based exporter without constant folding, in its form for training; or, with ``dynamo``, the one
    of ``torch.export`` without its optimiser, and folds what is not computed of parameters. The module is exported in
    evaluation mode, and gets its own mode back afterwards.

    Args:
        module: The module; its weights are not changed.
        example_inputs: Positional inputs of ``forward``.
        path: Where to write the file, atomically.
        input_names, output_names: As for ``torch.onnx.export``.
        dynamic_axes: Input → axis → name of a size that may vary; with ``dynamo``, inputs by ``input_names``.
        opset_version: By default 17, with ``dynamo`` 18.
        dynamo: Take the exporter of ``torch.export``; needs the package onnxscript.
        dynamic_shapes: With ``dynamo``, in the place of ``dynamic_axes``: as for ``torch.export.export``.
        overwrite: Whether ``path`` may exist.

    Returns:
        What of the state matches by name and value; warns where not all of it does.

    Raises:
        UnsupportedError: PyTorch cannot export the module.
        UsageError, EnvironmentFault: The file cannot be written, or axes are given that fit no input.
    """
    if dynamic_shapes is not None and (not dynamo or dynamic_axes):
        raise UsageError("dynamic_shapes", "it is for dynamo=True, in the place of dynamic_axes")
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        if dynamo:
            shapes = _shapes(dynamic_axes, input_names, len(example_inputs)) if dynamic_axes else dynamic_shapes
            model = dynamo_model(
                module, example_inputs, input_names, output_names, shapes, opset_version or DYNAMO_OPSET
            )
            save(model, path, overwrite=overwrite)
            return check_export(model, module)
        with tempfile.TemporaryDirectory() as folder:
            model = _traced(
                module,
                example_inputs,
                Path(folder) / "model.onnx",
                input_names,
                output_names,
                dynamic_axes,
                opset_version,
            )
            save(model, path, overwrite=overwrite)
            return check_export(model, module)
    finally:
        for part, training in modes:
            part.training = training


def _shapes(
    axes: Mapping[str, Mapping[int, str]], names: Sequence[str] | None, count: int
) -> tuple[dict[int, str] | None, ...]:
    """The dynamic axes of each input, in order."""
    listed = list(names or ())[:count]
    unknown = sorted(set(axes) - set(listed))
    if unknown:
        raise UsageError(unknown[0], "dynamic axes of something that input_names does not list")
    return tuple(dict(axes[name]) if name in axes else None for name in [*listed, *[""] * (count - len(listed))])


def _traced(
    module: nn.Module,
    example_inputs: Sequence[Any],
    exported: Path,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
    opset_version: int | None,
) -> ir.Model:
    """The model by the TorchScript-based exporter, which needs a file to write to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter: the other one folds and renames
        try:
            torch.onnx.export(
                module,
                tuple(example_inputs),
                os.fspath(exported),
                dynamo=False,
                opset_version=opset_version or OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=list(input_names) if input_names else None,
                output_names=list(output_names) if output_names else None,
                dynamic_axes={k: dict(v) for k, v in (dynamic_axes or {}).items()},
            )
        except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = f"PyTorch cannot export it: {(str(error).splitlines() or [''])[0][:300]}"
            raise UnsupportedError(type(module).__name__, reason) from error
        return load(exported).model
