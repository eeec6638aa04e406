"""Small text models, grown and run: what the tests of rules, analysis, plan and passes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.analysis.study import study
from onnxgrow.io import copy_model
from onnxgrow.passes.apply import Changes, apply_widening
from onnxgrow.plan import PlannedSet, WidenPlan, WidenRequest

__all__ = ["Grown", "analysis_of", "differences", "feeds_for", "grow_sets", "model_of", "run"]

Weight = np.ndarray | np.generic | Sequence[int]
TOLERANCE = 1e-5


def model_of(
    graph: str,
    weights: Mapping[str, Weight] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    imports: str = "",
    as_inputs: bool = False,
    as_nodes: bool = False,
) -> ir.Model:
    """A model from ONNX's text form.

    Args:
        graph: ``name (inputs) => (outputs) { … }``.
        weights: Name → array, or shape of a random one (always the same one for the same name).
        opset, ir_version: As in the model's header.
        imports: Further opset imports, each with a comma before it.
        as_inputs: Whether the weights are graph inputs too, as they had to be before IR version 4.
        as_nodes: Whether they are Constant nodes.
    """
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}{imports}]>'
    proto = onnx.parser.parse_model(f"{header} {graph}")
    nodes = []
    for name, given in (weights or {}).items():
        tensor = onnx.numpy_helper.from_array(_array(name, given), name)
        if as_nodes:
            nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
            continue
        proto.graph.initializer.append(tensor)
        if as_inputs:
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    return ir.from_proto(proto)


def _array(name: str, given: Weight) -> np.ndarray:
    if isinstance(given, np.ndarray | np.generic):
        return np.asarray(given)
    seed = int.from_bytes(name.encode(), "little") % 2**32
    values = np.random.default_rng(seed).normal(size=tuple(given)).astype(np.float32)
    return np.abs(values) + np.float32(0.5) if name.startswith("var") else values


def analysis_of(model: ir.Model) -> Analysis:
    """Analysis of a model at sizes that are found for it."""
    return study(model).analysis


@dataclass
class Grown:
    """A grown copy and what was done to it."""

    model: ir.Model
    changes: Changes
    plan: WidenPlan


def grow_sets(
    model: ir.Model, analysis: Analysis, added: Mapping[str, int], request: WidenRequest | None = None
) -> Grown:
    """Widen the named sets, each by a number of its own."""
    by_name: dict[str, ChannelSet] = {s.name: s for s in analysis.sets}
    sets = tuple(PlannedSet(by_name[name], by_name[name].size + k) for name, k in added.items())
    plan = WidenPlan(request or WidenRequest(), sets, {}, (), (0, 0), (0, 0))
    grown = copy_model(model)
    return Grown(grown, apply_widening(analysis, plan, grown, 1), plan)


def feeds_for(model: ir.Model, seed: int = 0, dynamic: int = 2) -> dict[str, np.ndarray]:
    """Random values for the inputs that have no initializer; every dynamic dimension is ``dynamic``."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        assert value.name
        assert value.dtype is not None
        assert value.shape is not None
        shape = [d if isinstance(d, int) else dynamic for d in value.shape.dims]
        dtype = value.dtype.numpy()
        if value.dtype.is_integer():
            feeds[value.name] = rng.integers(0, 3, shape).astype(dtype)
        elif value.dtype == ir.DataType.BOOL:
            feeds[value.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            feeds[value.name] = rng.normal(size=shape).astype(dtype)
    return feeds


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of ONNX Runtime without optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    proto = ir.to_proto(model)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def differences(before: ir.Model, after: ir.Model, dynamic: int = 2) -> list[float]:
    """Largest difference of each output, relative to the largest entry of the original's."""
    feeds = feeds_for(before, dynamic=dynamic)
    out = []
    for old, new in zip(run(before, feeds), run(after, feeds), strict=True):
        assert old.shape == new.shape
        assert old.size
        if old.dtype.kind != "f":
            out.append(float((old != new).any()))
            continue
        assert np.isfinite(old).all()
        scale = float(np.abs(old).max())
        assert scale > 0, "an output of zeros proves nothing"
        out.append(float(np.abs(old.astype(np.float64) - new).max()) / scale)
    return out
