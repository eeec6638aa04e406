"""The passes that insert residual blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.passes.base import Grown, GrowthPass, Proof, lineage
from onnxgrow.passes.blocks.copying import insert_copy
from onnxgrow.passes.blocks.fresh import KINDS, insert_block
from onnxgrow.passes.blocks.plan import BlockPlan, CopiedLayer, plan_blocks, plan_copies
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.functions import AUTO, check_function
from onnxgrow.passes.deepen.plan import Where
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["AddBlocks", "CopyBlocks"]

LARGEST_KERNEL = 1 << 10
Selectors = Sequence[str] | str | None


def _listed(given: Selectors) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _check_every(every: int, named: bool) -> None:
    if type(every) is not int or every < 1:
        raise UsageError("every", f"{every!r} is no positive whole number")
    if every != 1 and named:
        raise UsageError("every", "it picks among the automatic places, but places are named", "leave one of them out")


class _Blocks(GrowthPass):
    """What both passes do with their plan."""

    seed = 0

    def planned(self, found: Study) -> BlockPlan:
        raise NotImplementedError

    def _studied(self, model: ir.Model) -> Study:
        self.proof.say("analysing")
        return study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs)

    def plan(self, model: ir.Model) -> BlockPlan:
        """What would be done."""
        return self.planned(self._studied(model))

    def grow(self, model: ir.Model) -> Grown:
        """Insert into a copy of ``model``."""
        plan, past = self.planned(self._studied(model)), lineage(model)
        self.proof.say(f"inserting {len(plan.parts)} blocks")
        grown = copy_model(model)
        build = Builder(Rewriter(grown))
        for part in plan.parts:
            key, index = part.place.readers[0]
            read = build.rewriter.node(key).inputs[index]
            assert read is not None
            value = read.name or ""
            if isinstance(part, CopiedLayer):
                value = insert_copy(build, part.place, part.copies, value, build.rewriter.fresh_scope("copy"))
            else:
                value = insert_block(build, part, value, self.seed, past.generation)
            build.lead_to(part.place, value)
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            seed=self.seed,
            values=build.values,
            tensors=build.tensors,
            nodes=build.rewriter.node_changes(),
            inserted=tuple(build.rewriter.inserted),
            recipe=plan.recipe,
            versions=past.versions,
            history=past.history,
        )
        return Grown(grown, growth_map, plan.to_json())


class AddBlocks(_Blocks):
    """Insert new residual blocks, y = x + F(x); the last layer of F holds zeros, the others initial draws.

    ``mlp`` is a linear layer to more channels, an activation, and one back (1x1 convolutions where channels are on
    axis 1 of an image-like value); ``bottleneck`` 1x1, k x k and 1x1 convolutions with fewer channels in between
    (https://arxiv.org/abs/1512.03385); ``separable`` a depthwise k x k and a 1x1 convolution
    (https://arxiv.org/abs/1610.02357). All have biases and keep sizes.

    Args:
        block: ``mlp``, ``bottleneck`` or ``separable``.
        at: Selectors of values, or of nodes that make them; without any selector, behind every hidden activation.
        after: Selectors of nodes.
        before: Selectors of nodes: in front of that node only.
        every: Of the automatic places, every n-th.
        ratio: Hidden channels for each channel: 4 for an mlp, 1/4 for a bottleneck by default.
        kernel: Size of the spatial convolution on every axis, or one size per axis.
        activation: As for :class:`onnxgrow.passes.InsertIdentity`; ``auto`` is GELU in an mlp, ReLU elsewhere.
        seed: Of the initial draws.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that make no sense, or (when called) a selector that matches nothing.
        UnsupportedError: When called: a named place is not legal, or none is; the reason is named.
    """

    def __init__(
        self,
        block: str = "mlp",
        at: Selectors = None,
        *,
        after: Selectors = None,
        before: Selectors = None,
        every: int = 1,
        ratio: float | None = None,
        kernel: int | Sequence[int] = 3,
        activation: str = AUTO,
        seed: int = 0,
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        if block not in KINDS:
            raise UsageError("block", f"{block!r} is unknown", f"there are {', '.join(KINDS)}")
        self.where = Where(_listed(at), _listed(after), _listed(before), every)
        _check_every(every, self.where.named)
        if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
            raise UsageError("ratio", f"{ratio!r} is no positive number")
        if ratio is not None and block == "separable":
            raise UsageError("ratio", "a separable block has no hidden channels of its own", "leave it out")
        sizes = (kernel,) if isinstance(kernel, int) else tuple(kernel)
        if not sizes or not all(type(n) is int and 0 < n <= LARGEST_KERNEL for n in sizes):
            raise UsageError("kernel", f"{kernel!r} is no kernel size", f"sizes are from 1 to {LARGEST_KERNEL}")
        check_function(activation)
        if type(seed) is not int:
            raise UsageError("seed", f"{seed!r} is no whole number")
        self.block, self.ratio, self.activation, self.seed = block, ratio, activation, seed
        self.kernel = kernel if isinstance(kernel, int) else sizes

    def planned(self, found: Study) -> BlockPlan:
        """The plan for a network that was studied."""
        return plan_blocks(found, self.where, self.block, self.ratio, self.kernel, self.activation)


class CopyBlocks(_Blocks):
    """Copy layers of residual blocks, s + F(s), right behind themselves, with the last linear layer of each F zero.

    Residual blocks that repeat themselves together, such as attention and MLP, are one layer. After LLaMA-Pro,
    https://arxiv.org/abs/2401.02415. Each copy has parameters of its own; it shares masks, position tables and scalars.

    Args:
        copy: Numbers of layers, from 0, or names or globs of nodes or values inside; all layers without any.
        every: Without ``copy``: the last of every so many layers.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that make no sense, or (when called) a selector that matches nothing.
        UnsupportedError: When called: a named layer cannot be copied, or none can; the reason is named.
    """

    def __init__(
        self, copy: Sequence[str | int] | str | int | None = None, *, every: int = 1, proof: Proof | None = None
    ):
        super().__init__(proof)
        given = () if copy is None else (copy,) if isinstance(copy, (str, int)) else tuple(copy)
        self.copy = tuple(map(str, given))
        _check_every(every, bool(self.copy))
        self.every = every

    def planned(self, found: Study) -> BlockPlan:
        """The plan for a network that was studied."""
        return plan_copies(found, self.copy, self.every)
