"""Control flow: If, Loop and Scan. Spec: https://onnx.ai/onnx/operators/onnx__Loop.html and its neighbours

Subgraphs see the values around them, so their steps run over the slots of the whole program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onnxgrow.torch.program import Block, run_block
from onnxgrow.torch.registry import Context, Kernel, NodeSpec

if TYPE_CHECKING:
    from onnxgrow.torch.builder import Builder

__all__ = ["CONTROL"]


def _inputs(builder: Builder, block: Block, op: NodeSpec) -> list[int]:
    return [-1 if v is None else builder.read(block, v, site=(op.node, i)) for i, v in enumerate(op.node.inputs)]


def _outputs(builder: Builder, block: Block, op: NodeSpec) -> list[int]:
    return [builder.define(block, v) for v in op.node.outputs]


def _set(slots: list[Any], where: list[int], values: list[Any]) -> None:
    for slot, value in zip(where, values, strict=True):
        if slot >= 0:
            slots[slot] = value


def build_if(builder: Builder, block: Block, op: NodeSpec) -> Kernel:
    (condition,) = _inputs(builder, block, op)
    branches = [builder.graph(op.attr(name), block) for name in ("else_branch", "then_branch")]
    outputs = _outputs(builder, block, op)

    def run(context: Context, slots: list[Any]) -> None:
        branch = branches[bool(slots[condition])]
        run_block(branch, slots, context)
        _set(slots, outputs, [slots[i] for i in branch.outputs])

    return run


def build_loop(builder: Builder, block: Block, op: NodeSpec) -> Kernel:
    """Body: (iteration, condition, state…) → (condition, state…, scanned…)."""
    count, condition, *initial = _inputs(builder, block, op)
    body = builder.graph(op.attr("body"), block)
    outputs = _outputs(builder, block, op)
    states = len(initial)

    def run(context: Context, slots: list[Any]) -> None:
        limit = int(slots[count]) if count >= 0 else None
        going = bool(slots[condition]) if condition >= 0 else True
        state = [slots[i] for i in initial]
        scanned: list[list[Tensor]] = [[] for _ in body.outputs[1 + states :]]
        iteration = 0
        while going and (limit is None or iteration < limit):
            number = torch.tensor(iteration, device=context.device)
            flag = torch.tensor(True, device=context.device)
            _set(slots, body.inputs, [number, flag, *state])
            run_block(body, slots, context)
            results = [slots[i] for i in body.outputs]
            going = bool(results[0])
            state = results[1 : 1 + states]
            for collected, value in zip(scanned, results[1 + states :], strict=True):
                collected.append(value)
            iteration += 1
        if any(not collected for collected in scanned):
            op.fail("the loop did not run once, and its collected outputs have no known shape")
        _set(slots, outputs, [*state, *(torch.stack(collected) for collected in scanned)])

    return run


def build_scan(builder: Builder, block: Block, op: NodeSpec) -> Kernel:
    """Body: (state…, element…) → (state…, scanned…)."""
    if op.version < 9:
        op.fail("this form of Scan has a batch axis of its own")
    given = _inputs(builder, block, op)
    body = builder.graph(op.attr("body"), block)
    outputs = _outputs(builder, block, op)
    elements = int(op.attr("num_scan_inputs"))
    states = len(given) - elements
    results = len(body.outputs) - states
    axes_in = op.ints("scan_input_axes") or [0] * elements
    back_in = op.ints("scan_input_directions") or [0] * elements
    axes_out = op.ints("scan_output_axes") or [0] * results
    back_out = op.ints("scan_output_directions") or [0] * results

    def run(context: Context, slots: list[Any]) -> None:
        state = [slots[i] for i in given[:states]]
        parts = [slots[i].unbind(axis) for i, axis in zip(given[states:], axes_in, strict=True)]
        parts = [p[::-1] if back else p for p, back in zip(parts, back_in, strict=True)]
        scanned: list[list[Tensor]] = [[] for _ in range(results)]
        for element in zip(*parts, strict=True):
            _set(slots, body.inputs, [*state, *element])
            run_block(body, slots, context)
            values = [slots[i] for i in body.outputs]
            state = values[:states]
            for collected, value in zip(scanned, values[states:], strict=True):
                collected.append(value)
        stacked = [
            torch.stack(collected[::-1] if back else collected, axis)
            for collected, axis, back in zip(scanned, axes_out, back_out, strict=True)
        ]
        _set(slots, outputs, [*state, *stacked])

    return run


CONTROL: dict[str, Callable[[Builder, Block, NodeSpec], Kernel]] = {
    "If": build_if,
    "Loop": build_loop,
    "Scan": build_scan,
}
"""Op type → what builds its kernel and the blocks of its subgraphs."""
