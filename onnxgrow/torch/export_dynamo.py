"""Exporting by ``torch.export``, without the optimisations that fold and rename parameters.

The exporter's own optimiser folds batch normalisation into convolutions, which keep their names, and transposes weights
under new ones. It is left out; constants are folded here, but for what is computed of a parameter.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from onnxgrow.errors import EnvironmentFault, UnsupportedError

__all__ = ["OPSET", "dynamo_model"]

OPSET = 18
"""The lowest that this exporter writes without converting."""


def dynamo_model(
    module: nn.Module,
    example_inputs: Sequence[Any],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_shapes: Any,
    opset_version: int,
) -> ir.Model:
    """The model of a module in evaluation mode, its parameters apart and under their names.

    Raises:
        EnvironmentFault: The package onnxscript is not installed.
        UnsupportedError: PyTorch cannot export the module.
    """
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise EnvironmentFault("onnxscript", "this package is not installed", "pip install onnxscript") from error
    registry = logging.getLogger("torch.onnx")
    level = registry.level
    try:
        registry.setLevel(logging.ERROR)  # of packages that it could support and that are not there
        program = torch.onnx.export(
            module,
            tuple(example_inputs),
            dynamo=True,
            optimize=False,
            opset_version=opset_version,
            input_names=list(input_names) if input_names else None,
            output_names=list(output_names) if output_names else None,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, torch.onnx.errors.OnnxExporterError) as error:
        reason = f"PyTorch cannot export it: {(str(error).strip().splitlines() or [''])[0][:300]}"
        raise UnsupportedError(type(module).__name__, reason) from error
    finally:
        registry.setLevel(level)
    assert program is not None
    model: ir.Model = program.model
    own = {*module.state_dict()}

    def should_fold(node: ir.Node) -> bool | None:
        if node.op_type in ("Shape", "Size"):
            return None  # the exporter's own rule: sizes of parameters are constants
        return False if any(v is not None and v.name in own for v in node.inputs) else None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
    _drop_zero_biases(model.graph, own)
    RemoveUnusedNodesPass()(model)
    return model


def _drop_zero_biases(graph: ir.Graph, own: set[str]) -> None:
    """Take off the zeros that the exporter gives a convolution without a bias: the class has no such parameter."""
    for node in graph:
        bias = node.inputs[2] if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3 else None
        tensor = bias.const_value if bias is not None and bias.name not in own else None
        if tensor is not None and not tensor.numpy().any():
            node.resize_inputs(2)
