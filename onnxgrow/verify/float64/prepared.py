"""One model made ready for float64 evaluation; shared by all runs over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxgrow.verify.float64.interpreter import Compiled, Constants, Interpreter, topological
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.native import NativeOperators

__all__ = ["Prepared", "prepare"]

SMALL = 32_000_000
"""Models below this many bytes of initializers keep their float64 copies; larger ones convert at every use."""


@dataclass(frozen=True)
class Prepared:
    """A model and what is known of its evaluation.

    Attributes:
        graph: The main graph, functions inlined.
        order: Evaluation order.
        by_name: Values that nodes compute, without those inside functions.
        constants: Initializers in float64.
        native: The nodes that run in their own precision.
    """

    graph: ir.Graph
    opsets: Mapping[str, int]
    order: Sequence[ir.Node]
    by_name: Mapping[str, ir.Value]
    constants: Constants
    native: NativeOperators
    compiled: dict[ir.Node, Compiled] = field(default_factory=dict)

    def inputs(self, feeds: Mapping[str, Any]) -> dict[ir.Value, Any]:
        """``feeds`` keyed by value. Raises EvaluationError where an input has no feed and no default."""
        self.native.runs_on(feeds)
        found = {}
        for value in self.graph.inputs:
            if value.name in feeds:
                given = feeds[str(value.name)]
                found[value] = given if isinstance(given, list) else np.asarray(given)
            elif value.name not in self.graph.initializers:
                raise EvaluationError(f"input {value.name}", "no value was given for it")
        return found

    def interpreter(self, feeds: Mapping[ir.Value, Any], keep: Sequence[ir.Value] = ()) -> Interpreter:
        """A fresh run over ``feeds``."""
        return Interpreter(
            self.graph, self.opsets, feeds, self.constants, None, keep, self.compiled, self.order, self.native
        )


def prepare(model: ir.Model, overrides: Mapping[str, Any] | None = None) -> Prepared:
    """Get ``model`` ready; it is not changed.

    Args:
        model: Any model; functions are inlined in a copy.
        overrides: Initializers to replace by unrounded values.

    Raises:
        NoFloat64Error: The graph cannot be ordered, or its functions not inlined.
    """
    own = {v.name for node in model.graph for v in node.outputs if v.name}
    if model.functions:
        model = model.clone()
        try:
            InlinePass()(model)
        except Exception as error:
            # ValueError, PreconditionError, and whatever a malformed body leads to
            raise NoFloat64Error("local functions", f"they cannot be inlined: {error.__cause__ or error}") from error
    graph = model.graph
    order = topological(graph)
    total = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
    return Prepared(
        graph,
        dict(graph.opset_imports),
        order,
        {str(value.name): value for node in order for value in node.outputs if value.name in own},
        Constants(overrides, keep=total < SMALL),
        NativeOperators(model),
    )
