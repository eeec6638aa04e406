"""Values of grown tensors: old entries in their places, new ones by the method, zeros where the proof needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout
from onnxgrow.analysis import Analysis
from onnxgrow.errors import UnsupportedError
from onnxgrow.init import Key, cast, copied_indices, fill, gain, near_zero_block, scale_to, std
from onnxgrow.passes.roles import Piece, Role, pull_back
from onnxgrow.plan import WidenPlan

__all__ = ["TensorGrower"]

Array = npt.NDArray[Any]

ACTIVATIONS = frozenset(
    (
        "Celu Elu Erf FastGelu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu QuickGelu Relu Selu Sigmoid Softplus "
        "Softsign Swish Tanh ThresholdedRelu"
    ).split()
)
BETWEEN = frozenset("Add BatchNormalization Cast Dropout Identity InstanceNormalization Mul Reshape Transpose".split())
"""Ops that may stand between a linear op and its activation."""


@dataclass(frozen=True)
class _Plain:
    """What a flat fill needs, from the first use of a weight."""

    fan_in: int
    fan_out: int
    gain: float
    out_axes: tuple[int, ...]


class TensorGrower:
    """Makes the grown tensors of one plan, lazily: nothing is computed before a tensor is read.

    Args:
        analysis: Of the original network.
        plan: What grows, and how.
        generation: How often the model has grown, this time included; part of every random key.
        negated: Atoms whose new writers get the negative of the values drawn for them.
    """

    def __init__(
        self, analysis: Analysis, plan: WidenPlan, generation: int, negated: frozenset[Term] = frozenset()
    ) -> None:
        self.analysis = analysis
        self.negated = negated
        self.plan = plan
        self.growth: Growth = plan.growth
        self.generation = generation
        request = plan.request
        self.copies = request.method == "net2wider" or request.init == "copy"
        self.picks: Mapping[Term, npt.NDArray[np.int64]] = {}
        if self.copies:
            self.picks = {
                p.channel_set.atom: copied_indices(self._key(p.channel_set.name), 0, p.channel_set.size, p.added)
                for p in plan.sets
            }

    def _key(self, name: str, purpose: str = "") -> Key:
        return Key(self.plan.request.seed, self.generation, name, purpose)

    def grow(self, piece: Piece, name: str) -> ir.LazyTensor:
        """The grown tensor of a piece, called ``name`` in the result.

        Raises:
            UnsupportedError: Two uses of it need different values at the same entry.
        """
        tensor = self.analysis.network.tensors[piece.name]
        shape = self._shape(piece)
        if any(r.linear for r in piece.roles) and not tensor.dtype.is_floating_point():
            raise UnsupportedError(piece.name, f"weights of type {tensor.dtype.name} cannot be widened")

        def make() -> ir.Tensor[Any]:
            values = self._values(piece, name, shape, tensor)
            return ir.Tensor(np.ascontiguousarray(values), dtype=tensor.dtype, name=name)

        return ir.LazyTensor(make, dtype=tensor.dtype, shape=ir.Shape(shape), name=name, doc_string=tensor.doc_string)

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        return tuple(piece.layouts[a].size if a in piece.layouts else t.size for a, t in enumerate(piece.terms))

    def _values(self, piece: Piece, name: str, shape: tuple[int, ...], tensor: ir.TensorProtocol) -> Array:
        old: Array = np.asarray(tensor.numpy())
        kept = np.ix_(
            *(
                np.flatnonzero(piece.layouts[a] >= 0) if a in piece.layouts else np.arange(n)
                for a, n in enumerate(shape)
            )
        )
        moved = old[np.ix_(*self._kept_sources(piece, old.shape))]
        linears = [r for r in piece.roles if r.linear is not None]
        if self.copies:
            values = old[np.ix_(*self._copied_sources(piece, old.shape))]
        elif linears:
            values = self._drawn(piece, name, shape, old, linears)
        else:
            values = self._parameter(piece, shape, old)
        values[kept] = moved
        if self.plan.request.method == "net2wider":
            return self._shared_out(piece, values, linears)
        self._zero(piece, name, values, linears, old)
        for masks in piece.zeros:
            where = np.ix_(
                *(np.arange(n) if m is None else np.flatnonzero(m) for m, n in zip(masks, shape, strict=True))
            )
            values[where] = 0
        return values

    def _kept_sources(self, piece: Piece, old: tuple[int, ...]) -> list[Array]:
        """Old index of every old entry, in the new order (an axis may be interleaved, never permuted)."""
        return [
            piece.layouts[a][piece.layouts[a] >= 0] if a in piece.layouts else np.arange(n) for a, n in enumerate(old)
        ]

    def _copied_sources(self, piece: Piece, old: tuple[int, ...]) -> list[Array]:
        forest = self.analysis.dims.forest
        return [
            layout(forest, piece.terms[a], self.growth, self.picks) if a in piece.layouts else np.arange(n)
            for a, n in enumerate(old)
        ]

    def _parameter(self, piece: Piece, shape: tuple[int, ...], old: Array) -> Array:
        """Neutral entries; where an op has none, entries of its own (the first along each grown axis).

        Of several uses, one that has to keep zeros zero decides where the method relies on them.
        """
        fills = {r.fill for r in piece.roles}
        decides = self.plan.request.method == "zero-fan-in" and 0.0 in fills
        value = 0.0 if decides else fills.pop() if len(fills) == 1 else None
        if value is not None:
            return np.full(shape, value, old.dtype)
        first = [
            np.where(piece.layouts[a] < 0, 0, piece.layouts[a]) if a in piece.layouts else np.arange(n)
            for a, n in enumerate(shape)
        ]
        repeated: Array = old[np.ix_(*first)]
        return repeated

    def _drawn(self, piece: Piece, name: str, shape: tuple[int, ...], old: Array, linears: list[Role]) -> Array:
        """Standard initialisation of the whole grown shape; old entries are laid over it afterwards."""
        use = linears[0].linear
        assert use is not None
        if use.data < 0:
            spread = std(old)
            values = near_zero_block(self._key(name, "table"), 0, math.prod(shape), spread if spread > 0 else 0.02)
            return np.asarray(cast(values, old.dtype)).reshape(shape)
        plain = self._plain(piece, shape, linears[0])
        values = fill(
            self.plan.request.init,
            shape,
            fan_in=plain.fan_in,
            fan_out=plain.fan_out,
            gain=plain.gain,
            key=self._key(name),
            out_axes=plain.out_axes,
        )
        for axis, term in enumerate(piece.terms):
            if axis in plain.out_axes and self.negated.intersection(self.analysis.dims.forest.leaves(term)):
                np.negative(values, out=values)
                break
        return np.asarray(cast(values, old.dtype))

    def _plain(self, piece: Piece, shape: tuple[int, ...], role: Role) -> _Plain:
        use = role.linear
        assert use is not None
        dims = self.analysis.dims
        terms = dims.at((use.node, use.index)) or []
        sizes = [self._grown(t) for t in terms]
        outer = math.prod(sizes[a] for a in use.out_axes)
        inner = math.prod(sizes[a] for a in use.in_axes)
        kernel = math.prod(n for a, n in enumerate(sizes) if a not in (*use.out_axes, *use.in_axes))
        axes = use.out_axes
        for node in reversed(role.way):
            if node.op_type == "Transpose":
                order = node.attributes.get_ints("perm", ()) or tuple(range(len(terms)))[::-1]
                axes = tuple(order[a] for a in axes)
            elif node.op_type not in ("Identity", "Cast", "CastLike"):
                axes = ()
        axes = tuple(a for a in axes if a < len(shape)) or (0,)
        return _Plain(max(1, inner * kernel), max(1, outer * kernel), self._gain(use.node), axes)

    def _grown(self, term: Term) -> int:
        return int(layout(self.analysis.dims.forest, term, self.growth).size)

    def _gain(self, node: ir.Node) -> float:
        """Gain of the activation that follows, seen through biases, norms and reshapes."""
        seen = 0
        current: ir.Node | None = node
        while current is not None and seen < 6:
            uses = [n for n, _ in self.analysis.network.uses(current.outputs[0].name or "")]
            for following in uses:
                if following.op_type in ACTIVATIONS:
                    alpha = following.attributes.get("alpha")
                    return gain(following.op_type, {"alpha": alpha.value} if alpha is not None else None)
            current = next((n for n in uses if n.op_type in BETWEEN), None)
            seen += 1
        return 1.0

    # ---- zeros

    def _zero(self, piece: Piece, name: str, values: Array, linears: list[Role], old: Array) -> None:
        """Lay the method's zeros (or near-zeros) over the values. Zeros outrank fills."""
        method = self.plan.request.method
        for role in linears:
            mask = self._mask(piece, role, values.shape, writers=method == "zero-fan-in")
            if mask is None:
                continue
            if method == "near-zero":
                sigma = scale_to(std(old), self.plan.request.noise, piece.name)
                drawn = near_zero_block(self._key(name, "fan-out"), 0, values.size, sigma).reshape(values.shape)
                values[mask] = np.asarray(cast(drawn, values.dtype))[mask]
            else:
                values[mask] = 0

    def _mask(self, piece: Piece, role: Role, shape: tuple[int, ...], *, writers: bool) -> Array | None:
        """Entries of the constant that one use needs to be zero.

        Zero fan-out: old output × new input. Zero fan-in (``writers``): new output, any input.
        """
        use = role.linear
        assert use is not None
        forest = self.analysis.dims.forest
        terms = self.analysis.dims.at((use.node, use.index)) or []
        new = [layout(forest, t, self.growth) < 0 for t in terms]
        empty: tuple[int, ...] = ()
        if writers:
            if not use.in_axes and use.data >= 0:
                return None  # a depthwise weight passes zeros through
            axes, others = use.out_axes, empty
        else:
            axes, others = use.in_axes, use.out_axes
        if not any(new[a].any() for a in axes):
            return None
        rank = len(terms)
        along = [new[a].reshape([-1 if i == a else 1 for i in range(rank)]) for a in axes]
        mask = np.zeros([n.size for n in new], bool)
        for one in along:
            mask |= one
        for a in others:
            mask &= ~new[a].reshape([-1 if i == a else 1 for i in range(rank)])
        shapes = []
        for node in role.way:
            entering = self.analysis.dims.at((node, 0)) or []
            shapes.append(tuple(self._grown(t) for t in entering))
        return pull_back(mask, role.way, shapes, piece.name).reshape(shape)

    def _shared_out(self, piece: Piece, values: Array, linears: list[Role]) -> Array:
        """Net2WiderNet: readers of a channel that was copied share its old weight among the copies."""
        shared = np.ones((), np.float64)
        for role in linears:
            use = role.linear
            assert use is not None
            terms = self.analysis.dims.at((use.node, use.index)) or []
            share = np.ones([self._grown(t) for t in terms], np.float64)
            for a in use.in_axes:
                source = layout(self.analysis.dims.forest, terms[a], self.growth, self.picks)
                counts = np.bincount(source, minlength=int(source.max(initial=0)) + 1)
                share /= counts[source].reshape([-1 if i == a else 1 for i in range(len(terms))])
            way = [tuple(self._grown(t) for t in self.analysis.dims.at((n, 0)) or []) for n in role.way]
            mine = _pull_values(share, role.way, way, piece.name).reshape(values.shape)
            if shared.ndim and not np.array_equal(mine, shared):
                raise UnsupportedError(piece.name, "its uses would need different shares", "use zero-fan-out")
            shared = mine
        if not shared.ndim or (shared == 1).all():
            return values
        return np.asarray(cast(values.astype(np.float64) * shared, values.dtype))


def _pull_values(share: Array, way: Any, shapes: Any, subject: str) -> Array:
    """:func:`pull_back` for values: the ops on the way only move entries."""
    result: Array = pull_back(share, way, shapes, subject)
    return result
