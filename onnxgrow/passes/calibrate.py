"""Statistics of new batch-normalised channels, measured on the user's inputs.

A new channel starts with mean 0 and variance 1, which is not what its random writer gives it. With inputs at hand the
statistics are those of its data, layer after layer, as a training step would find them (Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167). Values measured so depend on the machine's arithmetic in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis import Analysis, node_key
from onnxgrow.axis_map import ANY
from onnxgrow.concrete.session import open_session
from onnxgrow.concrete.values import constants
from onnxgrow.growth_map import TensorGrowth, ValueGrowth
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["calibrate"]

MEAN, VARIANCE = 3, 4

Feeds = Mapping[str, npt.NDArray[np.generic]]


def calibrate(
    analysis: Analysis,
    rewriter: Rewriter,
    values: Mapping[str, ValueGrowth],
    tensors: Mapping[str, TensorGrowth],
    feeds: Sequence[Feeds],
    model: Callable[[], ir.Model],
) -> int:
    """Set mean and variance of the new channels of every BatchNormalization that grew; returns how many did.

    Args:
        analysis: Of the original.
        rewriter: Of the grown model.
        values, tensors: What grew.
        feeds: The user's inputs.
        model: Gives the grown model as it is by then, or that part of it which was analysed.

    Raises:
        UnsupportedError: ONNX Runtime cannot run the grown model.
    """
    done = 0
    for level in _levels(analysis, values, tensors, rewriter):
        grown = model()
        session = open_session(grown, [_input(n, 0) for n in level])
        runs = [session.run(one) for one in feeds]
        held = constants(grown)
        for node in level:
            name = _input(node, 0)
            seen = [run[name].numpy() for run in runs if name in run]
            data = [np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in seen if x is not None]
            if data:
                _set(rewriter, held, node, values[name], np.concatenate(data, axis=1).astype(np.float64))
                done += 1
    return done


def _levels(
    analysis: Analysis, values: Mapping[str, ValueGrowth], tensors: Mapping[str, TensorGrowth], rewriter: Rewriter
) -> list[list[ir.Node]]:
    """Grown BatchNormalization nodes of the result, those that depend on no other first."""
    depth: dict[str, int] = {}
    levels: dict[int, list[ir.Node]] = {}
    for node in analysis.network.nodes:
        here = max((depth.get(v.name or "", 0) for v in node.inputs if v is not None), default=0)
        grown = rewriter.node(node_key(node))
        statistics = [_input(grown, i) for i in (MEAN, VARIANCE)] if node.op_type == "BatchNormalization" else [""]
        data = values.get(_input(grown, 0))
        free = all(s in tensors and set(tensors[s].axes[0].facts()) <= {"", ANY} for s in statistics)
        if data is not None and 1 in data.axes and free:
            levels.setdefault(here, []).append(grown)
            here += 1
        depth.update((o.name, here) for o in node.outputs if o.name)
    return [levels[d] for d in sorted(levels)]


def _set(
    rewriter: Rewriter,
    held: Mapping[str, ir.TensorProtocol],
    node: ir.Node,
    growth: ValueGrowth,
    data: npt.NDArray[np.float64],
) -> None:
    new = np.flatnonzero(growth.axes[1].source() < 0)
    measured = {MEAN: data[new].mean(axis=1), VARIANCE: data[new].var(axis=1)}
    for index, found in measured.items():
        name = _input(node, index)
        kept = np.array(held[name].numpy())
        usable = np.isfinite(found) & ((found > 0) if index == VARIANCE else True)
        kept[new[usable]] = found[usable].astype(kept.dtype)
        rewriter.set_constant(name, ir.Tensor(kept, dtype=held[name].dtype, name=name))


def _input(node: ir.Node, index: int) -> str:
    value = node.inputs[index] if index < len(node.inputs) else None
    return (value.name if value is not None else None) or ""
