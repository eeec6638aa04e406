"""Local functions of a model, put in place of their calls (https://onnx.ai/onnx/repo-docs/IR.html#functions).

ONNX defines a call by the function's body, so a model with its calls inlined is the same network. Names inside follow
from the model alone: the same model and functions always give the same names.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxgrow.concrete.values import all_names
from onnxgrow.errors import UnsupportedError
from onnxgrow.io.copy import copy_model

__all__ = ["MARK", "callers", "function_name", "inlined"]

MARK = "onnxgrow.function"
"""Metadata key of a node that came out of a function, where :func:`inlined` is asked to leave marks."""


def function_name(function: ir.Function) -> str:
    """``domain::name``, with ``:overload`` where there is one."""
    overload = f":{function.overload}" if function.overload else ""
    return f"{function.domain}::{function.name}{overload}"


def inlined(model: ir.Model, names: Collection[str] | None = None, *, marked: bool = False) -> ir.Model:
    """A copy of a model with calls of local functions replaced by what they compute.

    Args:
        model: The model; not modified.
        names: Functions to inline, as :func:`function_name` gives them; all by default.
        marked: Whether the nodes that come out of a function say so in their metadata, under :data:`MARK`.

    Raises:
        UnsupportedError: A function cannot be inlined: it was made for another opset, or calls itself.
    """
    result = copy_model(model)
    if marked:
        for function in result.functions.values():
            for node in ir.traversal.RecursiveGraphIterator(function.graph):
                node.metadata_props[MARK] = function_name(function)
    criteria = None if names is None else lambda function: function_name(function) in names
    chosen = {k: f for k, f in result.functions.items() if criteria is None or criteria(f)}
    _name_outputs(result, chosen)
    try:
        InlinePass(criteria=criteria)(result)
    except Exception as error:
        # The pass raises ValueError, PreconditionError and whatever a malformed body leads to.
        cause = error.__cause__ or error
        raise UnsupportedError("local functions", f"they cannot be inlined: {cause}") from error
    return result


def _name_outputs(model: ir.Model, functions: Mapping[ir.OperatorIdentifier, ir.Function]) -> None:
    """Name the outputs that calls of these functions leave out: the nodes that make them inside have to name them."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        taken = all_names(graph)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            function = functions.get(node.op_identifier())
            if function is None:
                continue
            for inner, outer in zip(function.outputs, node.outputs, strict=False):
                outer.name = outer.name or _free(inner.name or "output", taken)


def _free(wanted: str, taken: set[str]) -> str:
    """The name, or the first one with a number behind that is not taken; it is taken then."""
    numbered = (f"{wanted}_{count}" for count in itertools.count(1))
    name = next(n for n in itertools.chain([wanted], numbered) if n not in taken)
    taken.add(name)
    return name


def callers(model: ir.Model, names: Collection[str]) -> set[str]:
    """The functions named and all those that call them, directly or not."""
    calls = {
        function_name(function): {
            function_name(model.functions[node.op_identifier()])
            for node in ir.traversal.RecursiveGraphIterator(function.graph)
            if node.op_identifier() in model.functions
        }
        for function in model.functions.values()
    }
    found = set(names)
    while True:
        more = {caller for caller, called in calls.items() if called & found} - found
        if not more:
            return found
        found |= more
