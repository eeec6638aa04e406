"""If, Loop and Scan in float64: their bodies are evaluated by the same interpreter as the main graph.

Spec: https://onnx.ai/onnx/operators/onnx__If.html, …Loop.html, …Scan.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.float64.interpreter import Compiled, Constants, Interpreter, topological, values_read
from onnxgrow.verify.float64.kernels import NoFloat64Error

__all__ = ["compile_control_flow"]


class _Body:
    """A subgraph that can be called again and again."""

    def __init__(self, graph: ir.Graph, opsets: Mapping[str, int], constants: Constants) -> None:
        self.graph, self.opsets, self.constants = graph, opsets, constants
        self.order = topological(graph)
        self.compiled: dict[ir.Node, Compiled] = {}

    def __call__(self, inputs: Sequence[Any], scope: Mapping[ir.Value, Any]) -> list[Any]:
        feeds = dict(zip(self.graph.inputs, inputs, strict=False))
        interpreter = Interpreter(
            self.graph, self.opsets, {}, self.constants, scope, self.graph.outputs, self.compiled, self.order
        )
        interpreter.values.update(feeds)
        for _ in interpreter.steps():
            pass
        return [interpreter.read(v) for v in self.graph.outputs]


def compile_control_flow(node: ir.Node, opset: int, opsets: Mapping[str, int], constants: Constants) -> Compiled:
    """The callable for an If, Loop or Scan node: its inputs, absent ones as None, then the captured values."""
    bodies = {
        name: _Body(a.value, opsets, constants)
        for name, a in node.attributes.items()
        if a.type == ir.AttributeType.GRAPH
    }
    count = len(node.inputs)
    outer = values_read(node)[len([v for v in node.inputs if v is not None]) :]

    def run(values: Sequence[Any]) -> tuple[Any, ...]:
        inputs, scope = list(values[:count]), dict(zip(outer, values[count:], strict=True))
        if node.op_type == "If":
            branch = "then_branch" if bool(np.asarray(inputs[0]).reshape(-1)[0]) else "else_branch"
            return tuple(bodies[branch]([], scope))
        if node.op_type == "Loop":
            return _loop(bodies["body"], inputs, scope)
        return _scan(node, opset, bodies["body"], inputs, scope)

    return run


def _loop(body: _Body, inputs: list[Any], scope: Mapping[ir.Value, Any]) -> tuple[Any, ...]:
    limit = None if inputs[0] is None else int(np.asarray(inputs[0]).reshape(-1)[0])
    go = True if len(inputs) < 2 or inputs[1] is None else bool(np.asarray(inputs[1]).reshape(-1)[0])
    carried = list(inputs[2:])
    scanned: list[list[Any]] = [[] for _ in range(len(body.graph.outputs) - 1 - len(carried))]
    step = 0
    while go and (limit is None or step < limit):
        found = body([np.asarray(step, np.int64), np.asarray(go), *carried], scope)
        go = bool(np.asarray(found[0]).reshape(-1)[0])
        carried = found[1 : 1 + len(carried)]
        for column, y in zip(scanned, found[1 + len(carried) :], strict=True):
            column.append(y)
        step += 1
    if step == 0 and scanned:
        raise NoFloat64Error("Loop", "no iteration ran, the shape of its scan outputs is unknown")
    return (*carried, *(np.stack(column) for column in scanned))


def _scan(node: ir.Node, opset: int, body: _Body, inputs: list[Any], scope: Mapping[ir.Value, Any]) -> tuple[Any, ...]:
    if opset < 9:
        raise NoFloat64Error("Scan", "the form before opset 9 is not covered")

    def attr(name: str, size: int) -> Sequence[int]:
        attribute = node.attributes.get(name)
        return (0,) * size if attribute is None else tuple(attribute.value)

    scans = int(node.attributes["num_scan_inputs"].as_int())
    carried, sequences = list(inputs[: len(inputs) - scans]), inputs[len(inputs) - scans :]
    outs = len(body.graph.outputs) - len(carried)
    moved = [np.moveaxis(x, a, 0) for x, a in zip(sequences, attr("scan_input_axes", scans), strict=True)]
    moved = [x[::-1] if d else x for x, d in zip(moved, attr("scan_input_directions", scans), strict=True)]
    collected: list[list[Any]] = [[] for _ in range(outs)]
    for t in range(moved[0].shape[0]):
        found = body([*carried, *(x[t] for x in moved)], scope)
        carried = found[: len(carried)]
        for column, y in zip(collected, found[len(carried) :], strict=True):
            column.append(y)
    stacked = []
    directions, axes = attr("scan_output_directions", outs), attr("scan_output_axes", outs)
    for column, direction, axis in zip(collected, directions, axes, strict=True):
        y = np.stack(column[::-1] if direction else column)
        stacked.append(np.moveaxis(y, 0, axis if axis >= 0 else axis + y.ndim))
    return (*carried, *stacked)
