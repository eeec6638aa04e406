"""Enlarge the kernels of convolutions: zero taps around the old ones, pads to match.

Exact for every stride, dilation and group, because a tap of exact zeros may read anything; alive from the first step,
because its gradient is the activation that it reads times what comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.analysis.study import Study, study
from onnxgrow.concrete.bodies import Scopes
from onnxgrow.concrete.values import dims_of
from onnxgrow.errors import UsageError
from onnxgrow.growth_map import Axes, GrowthMap, NodeChange, TensorGrowth, ValueGrowth
from onnxgrow.io import copy_model
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.kernel_plan import KernelPlan, plan_kernels
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["EnlargeKernel"]

LARGEST = 1 << 16


class EnlargeKernel(GrowthPass):
    """Give Conv and ConvTranspose layers larger kernels.

    Taps are added on both sides, an odd one behind; in bodies of If, Loop and Scan, too. Pads become explicit only
    where ``auto_pad`` or ``output_shape`` would not come out right by itself.

    Args:
        layers: Selectors: names of weights, nodes or their outputs, globs, ``op:Conv``; None for all. A kernel, or an
            axis of one, of size 1 grows only where the layer is named literally.
        to: New size on every spatial axis, or one size per axis; axes that are that large stay as they are.
        proof: How the result is verified.

    Raises:
        UsageError: Sizes that are none, or (when called) a selector that matches nothing.
        UnsupportedError: When called: nothing selected can grow; the reason is named.
    """

    def __init__(
        self, layers: Sequence[str] | str | None = None, *, to: int | Sequence[int], proof: Proof | None = None
    ) -> None:
        super().__init__(proof)
        self.layers = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self.to = to if isinstance(to, int) else tuple(to)
        sizes = (self.to,) if isinstance(self.to, int) else self.to
        if not sizes or not all(type(n) is int and 0 < n <= LARGEST for n in sizes):
            raise UsageError("to", f"{to!r} is no kernel size", f"sizes are whole numbers from 1 to {LARGEST}")

    def plan(self, model: ir.Model) -> KernelPlan:
        """What would be done; reads no weight."""
        return plan_kernels(self._studied(model), self.layers, self.to)

    def _studied(self, model: ir.Model) -> Study:
        self.proof.say("analysing")
        return study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs)

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan, JSON data."""
        return self.plan(model).to_json()

    def grow(self, model: ir.Model) -> Grown:
        """Enlarge the kernels of a copy of ``model``."""
        return self.carry_out(self._studied(model))

    def carry_out(self, found: Study) -> Grown:
        """Enlarge the kernels of a copy of a model that was studied."""
        model = found.model
        plan, past = plan_kernels(found, self.layers, self.to), lineage(model)
        self.proof.say(f"enlarging {len(plan.kernels)} kernels")
        grown, scopes = copy_model(model), Scopes(model)
        tensors: dict[str, TensorGrowth] = {}
        values: dict[str, ValueGrowth] = {}
        nodes: dict[str, NodeChange] = {}
        for path in dict.fromkeys(kernel.path for kernel in plan.kernels):
            rewriter = Rewriter(grown, path)
            for kernel in (k for k in plan.kernels if k.path == path):
                for name, axes in kernel.axes.items():
                    if name == kernel.weight:
                        rewriter.set_constant(name, _enlarged(rewriter.constant(name), axes))
                        tensors[scopes.listed(path, name)] = TensorGrowth(axes)
                    else:
                        values[scopes.listed(path, name)] = ValueGrowth(axes)
                        rewriter.resize(name, {axis: (m.old_size, m.new_size) for axis, m in axes.items()})
                for key, attributes in kernel.changes.items():
                    for attribute, value in attributes.items():
                        rewriter.set_attribute(key, attribute, value)
            nodes.update((scopes.listed(path, key), change) for key, change in rewriter.node_changes().items())
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            values=values,
            tensors=tensors,
            nodes=nodes,
            recipe=plan.recipe,
            versions=past.versions,
            history=past.history,
        )
        return Grown(grown, growth_map, plan.to_json())


def _enlarged(old: ir.TensorProtocol, axes: Axes) -> ir.LazyTensor:
    """The tensor with its old entries at their new places and zeros elsewhere, made when its bytes are asked for."""
    shape = tuple(axes[a].new_size if a in axes else n for a, n in enumerate(dims_of(old)))

    def make() -> ir.Tensor[Any]:
        entries = np.asarray(old.numpy())
        values = np.zeros(shape, entries.dtype)
        values[np.ix_(*(axes[a].positions() if a in axes else np.arange(n) for a, n in enumerate(entries.shape)))] = (
            entries
        )
        return ir.Tensor(values, dtype=old.dtype, name=old.name)

    return ir.LazyTensor(
        make,
        dtype=old.dtype,
        shape=ir.Shape(shape),
        name=old.name,
        doc_string=old.doc_string,
        metadata_props=dict(old.metadata_props),
    )
