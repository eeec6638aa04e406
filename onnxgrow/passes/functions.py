"""Widening through local functions: looked into, and inlined in the result only where channels inside them grow."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from onnxgrow.analysis import find_patches, node_key
from onnxgrow.analysis.study import Study, study
from onnxgrow.concrete.functions import MARK, callers, inlined
from onnxgrow.errors import GrowError
from onnxgrow.passes.base import Proof
from onnxgrow.plan import WidenPlan, WidenRequest, plan_widen
from onnxgrow.plan.outputs import open_outputs

__all__ = ["plan_through_functions"]


def plan_through_functions(model: ir.Model, request: WidenRequest, proof: Proof) -> tuple[Study, WidenPlan]:
    """Study a model and plan its widening, inlining no more local functions than the plan needs.

    Args:
        model: The model; not modified.
        request: What is wanted.
        proof: Its inputs and their shapes.

    Raises:
        GrowError: As :func:`onnxgrow.analysis.study.study` and :func:`onnxgrow.plan.plan_widen`.
    """
    found, plan = _planned(model, request, proof, None)
    if not found.inlined:
        return found, plan
    needed = _touched(model, found, plan)
    if set(needed) != set(found.inlined):
        try:
            fewer = _planned(model, request, proof, needed)
        except GrowError:
            fewer = found, plan  # a set is written in one function and read in another that stayed
        if _sizes(fewer[1]) == _sizes(plan):
            found, plan = fewer
    if found.inlined:
        names = ", ".join(found.inlined)
        note = f"local functions inlined in the result, because channels inside them grow: {names}"
        plan = replace(plan, notes=(*plan.notes, note))
    return found, plan


def _planned(
    model: ir.Model, request: WidenRequest, proof: Proof, names: Collection[str] | None
) -> tuple[Study, WidenPlan]:
    opened = open_outputs(model, request.outputs)
    found = study(model, input_shapes=proof.input_shapes, inputs=proof.inputs, inline=names, outputs=opened)
    return found, plan_widen(found.analysis, request)


def _sizes(plan: WidenPlan) -> list[tuple[int, int]]:
    return sorted((p.channel_set.size, p.new) for p in plan.sets)


def _touched(model: ir.Model, found: Study, plan: WidenPlan) -> set[str]:
    """Functions in which something grows or has to change, and those that call them."""
    marks = {
        node_key(node): node.metadata_props[MARK]
        for node in ir.traversal.RecursiveGraphIterator(inlined(model, found.inlined, marked=True).graph)
        if MARK in node.metadata_props
    }
    growth = plan.growth
    touched = set()
    for part in found.analysis.parts:
        dims = part.dims
        patched = {patch.site[0] for patch in find_patches(dims, growth).sites}
        for node in part.network.nodes:
            terms = [dims.values.get(o.name) for o in node.outputs if o.name]
            terms += [dims.at((node, i)) for i in range(len(node.inputs))]
            if node_key(node) in marks and (node in patched or any(dims.grows(t, growth) for t in terms)):
                touched.add(marks[node_key(node)])
    return callers(model, touched)
