"""An ONNX graph as a list of steps over numbered slots, and how they run.

A value lives in one slot, as a tensor or, where it is shape arithmetic, as plain integers
(:mod:`onnxgrow.torch.builder` makes the steps).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor

from onnxgrow.torch.registry import Context, HostValue, Kernel

__all__ = ["Block", "Program", "Step", "run_block"]


class Step(NamedTuple):
    """One kernel call.

    Attributes:
        kernel: Called with the inputs; with the context first where ``context`` says so; with context and slots only
            where ``inputs`` is None (control flow, which reads and writes slots itself).
        inputs: Slots, -1 for an absent one.
        outputs: Slots, -1 for one that nobody reads.
        free: Slots that nobody reads afterwards.
    """

    kernel: Kernel
    context: bool
    inputs: tuple[int, ...] | None
    outputs: tuple[int, ...]
    free: tuple[int, ...]


@dataclass
class Block:
    """Steps of one graph; those of subgraphs run over the same slots.

    Attributes:
        inputs, outputs: Slots of the graph's inputs and outputs; outputs are tensors.
    """

    parent: Block | None = None
    steps: list[Step] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    own: set[int] = field(default_factory=set)
    last: dict[int, int] = field(default_factory=dict)
    converted: dict[tuple[ir.Value, bool], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A graph that can be run.

    Attributes:
        block: Its steps.
        slots: Number of slots.
        literals: Slots that always hold the same integers.
        leaves: (slot, index of the leaf).
        constants: (slot, tensor), in an order that stays.
        file_dtype: The floating type of most of the file's parameters.
    """

    block: Block
    slots: int
    literals: tuple[tuple[int, HostValue], ...]
    leaves: tuple[tuple[int, int], ...]
    constants: tuple[tuple[int, Tensor], ...]
    file_dtype: torch.dtype


def run_block(block: Block, slots: list[Any], context: Context) -> None:
    """Run the steps of a block over slots whose inputs are set."""
    for kernel, wants_context, inputs, outputs, free in block.steps:
        if inputs is None:
            kernel(context, slots)
        else:
            arguments = [slots[i] if i >= 0 else None for i in inputs]
            result = kernel(context, *arguments) if wants_context else kernel(*arguments)
            if len(outputs) == 1:
                slots[outputs[0]] = result
            else:
                for slot, value in zip(outputs, result, strict=False):
                    if slot >= 0:
                        slots[slot] = value
        for slot in free:
            slots[slot] = None
