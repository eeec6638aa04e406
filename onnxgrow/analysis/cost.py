"""What channels cost: parameters and floating-point operations as functions of a growth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxgrow.algebra import Growth, Term, grown_size
from onnxgrow.analysis.infer import Dimensions
from onnxgrow.analysis.network import Site
from onnxgrow.rules import LinearUse

__all__ = ["Cost", "Weight"]


@dataclass(frozen=True)
class Weight:
    """A use of a weight, with the constant that holds its values.

    Attributes:
        use: The use.
        root: Name of the initializer or Constant output.
        sites: Where it enters its way to the use, when other constants make parts of the weight; else empty.
    """

    use: LinearUse
    root: str
    sites: tuple[Site, ...] = ()


class Cost:
    """Parameters of all tensors that an op reads as data, and multiply-adds of the linear ops."""

    def __init__(self, dims: Dimensions, weights: Iterable[Weight]) -> None:
        self.dims = dims
        self.linear = list({w.use: w.use for w in weights}.values())
        self.tensors: list[list[Term]] = []
        self.by_atom: dict[Term, list[int]] = {}
        self.uses_by_atom: dict[Term, list[LinearUse]] = {}
        for terms in self._parameters():
            for leaf in self._leaves(terms):
                self.by_atom.setdefault(leaf, []).append(len(self.tensors))
            self.tensors.append(terms)
        for use in self.linear:
            around = [dims.at((use.node, i)) or [] for i in range(2)] + [self._output(use)]
            for leaf in self._leaves([t for terms in around for t in terms]):
                self.uses_by_atom.setdefault(leaf, []).append(use)

    def _leaves(self, terms: Sequence[Term]) -> list[Term]:
        return list(dict.fromkeys(leaf for t in terms for leaf in self.dims.forest.leaves(t)))

    def _parameters(self) -> list[list[Term]]:
        """Terms of each floating-point constant, once per constant or, where its uses are apart, per use."""
        found: list[list[Term]] = []
        seen: set[tuple[str, object]] = set()
        network = self.dims.network
        for node in network.nodes:
            operands = self.dims.declared[node].operands
            for i, value in enumerate(node.inputs):
                name = (value.name if value is not None else None) or ""
                tensor = network.tensors.get(name)
                if tensor is None or i in operands or not tensor.dtype.is_floating_point():
                    continue
                terms = self.dims.at((node, i)) or []
                key = (name, tuple(self.dims.forest.find(t) for t in terms))
                if key not in seen:
                    seen.add(key)
                    found.append(terms)
        return found

    def _output(self, use: LinearUse) -> list[Term]:
        return self.dims.values.get(use.node.outputs[0].name or "") or []

    def parameters(self, atom: Term) -> int:
        """Parameters added by one more channel."""
        growth = {atom: 1}
        touched = [self.tensors[i] for i in self.by_atom.get(atom, ())]
        return sum(self._count(ts, growth) - self._count(ts, {}) for ts in touched)

    def flops(self, atom: Term) -> int:
        """Floating-point operations (2 per multiply-add) added by one more channel."""
        growth = {atom: 1}
        return sum(2 * (self._macs(u, growth) - self._macs(u, {})) for u in self.uses_by_atom.get(atom, ()))

    def total_parameters(self, growth: Growth) -> int:
        """Floating-point constants of the network after a growth."""
        return sum(self._count(ts, growth) for ts in self.tensors)

    def total_flops(self, growth: Growth) -> int:
        """Floating-point operations of the linear ops after a growth."""
        return sum(2 * self._macs(use, growth) for use in self.linear)

    def _count(self, terms: Sequence[Term], growth: Growth) -> int:
        return math.prod(grown_size(self.dims.forest, t, growth) for t in terms)

    def _macs(self, use: LinearUse, growth: Growth) -> int:
        """Multiply-adds of a linear op: entries of its output × entries of the weight that each one reads."""
        if use.data < 0:
            return 0
        terms = self.dims.at((use.node, use.index)) or []
        if use.node.op_type == "ConvTranspose":
            data = self.dims.at((use.node, use.data)) or []
            return self._count(data, growth) * self._count(terms[1:], growth)
        skipped = set(use.out_axes)
        if use.node.op_type in ("MatMul", "Gemm"):
            skipped |= set(range(len(terms))) - set(use.in_axes)
        per_output = self._count([t for i, t in enumerate(terms) if i not in skipped], growth)
        return self._count(self._output(use), growth) * per_output
