"""The passes that insert residual blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxgrow.analysis.study import Study
from onnxgrow.errors import UsageError
from onnxgrow.names import BLOCKS
from onnxgrow.passes.base import Lineage, Proof
from onnxgrow.passes.blocks.copying import insert_copy
from onnxgrow.passes.blocks.fresh import Block, insert_block
from onnxgrow.passes.blocks.plan import BlockPlan, CopiedLayer, plan_blocks, plan_copies
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.functions import AUTO, check_function
from onnxgrow.passes.deepen.inserting import Insertion, Selectors, check_every, kernel_of, where_of

__all__ = ["AddBlocks", "CopyBlocks"]


class _Blocks(Insertion[Block | CopiedLayer]):
    """Builds blocks."""

    def insert(self, build: Builder, part: Block | CopiedLayer, value: str, past: Lineage) -> str:
        """Add a block, or a copied layer."""
        if isinstance(part, CopiedLayer):
            return insert_copy(build, part.place, part.copies, value, build.rewriter.fresh_scope("copy"))
        return insert_block(build, part, value, self.seed, past.generation)


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
        if block not in BLOCKS:
            raise UsageError("block", f"{block!r} is unknown", f"there are {', '.join(BLOCKS)}")
        self.where = where_of(at, after, before, every)
        if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
            raise UsageError("ratio", f"{ratio!r} is no positive number")
        if ratio is not None and block == "separable":
            raise UsageError("ratio", "a separable block has no hidden channels of its own", "leave it out")
        check_function(activation)
        if type(seed) is not int:
            raise UsageError("seed", f"{seed!r} is no whole number")
        self.block, self.ratio, self.activation, self.seed = block, ratio, activation, seed
        self.kernel = kernel_of(kernel)

    def planned(self, found: Study) -> BlockPlan:
        """The plan for a network that was studied."""
        return plan_blocks(found, self.where, self.block, self.ratio, self.kernel, self.activation)


class CopyBlocks(_Blocks):
    """Copy layers of residual blocks, s + F(s), with the last linear layer of each F zero.

    Residual blocks that repeat themselves together, such as attention and MLP, are one layer. After LLaMA-Pro,
    https://arxiv.org/abs/2401.02415. Each copy has parameters of its own; it shares masks, position tables and scalars.

    Args:
        copy: Numbers of layers, from 0, or names or globs of nodes or values inside; all layers without any.
        every: Without ``copy``: the last of every so many layers.
        after: Where the copies go: behind the layer of that number, or behind the value or node of that name. Each goes
            right behind its own layer where nothing is given.
        proof: How the result is verified.

    Raises:
        UsageError: Arguments that make no sense, or (when called) a selector that matches nothing.
        UnsupportedError: When called: a named layer cannot be copied, or none can; the reason is named.
    """

    inline = ()
    """What is copied are the nodes of the network as it is stored."""

    def __init__(
        self,
        copy: Sequence[str | int] | str | int | None = None,
        *,
        every: int = 1,
        after: str | int | None = None,
        proof: Proof | None = None,
    ) -> None:
        super().__init__(proof)
        given = () if copy is None else (copy,) if isinstance(copy, (str, int)) else tuple(copy)
        self.copy = tuple(map(str, given))
        check_every(every, bool(self.copy))
        self.every = every
        self.after = "" if after is None else str(after)

    def planned(self, found: Study) -> BlockPlan:
        """The plan for a network that was studied."""
        return plan_copies(found, self.copy, self.every, self.after)
