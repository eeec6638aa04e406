"""Values of grown tensors: old entries in their places, new ones by the method, zeros where the proof needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Growth, Term, layout, repeated
from onnxgrow.analysis import Analysis
from onnxgrow.analysis.ways import QUANTISED
from onnxgrow.errors import UnsupportedError
from onnxgrow.init import Key, cast, copied_indices, gain, near_zero_ranges, scale_to, std
from onnxgrow.passes.averages import Averaged, averaged
from onnxgrow.passes.grown_tensor import Entries, GrownTensor
from onnxgrow.passes.layers import (
    Draw,
    Drawing,
    Fans,
    Layer,
    Layers,
    drawn,
    drawn_in,
    filled,
    kept,
    near_zeros,
    shared,
    taken,
    zeros,
)
from onnxgrow.passes.masks import Mask, Share, share_of, zero_mask
from onnxgrow.passes.pull_back import SAME
from onnxgrow.passes.residual import Combined, Scaled, Streams, combined
from onnxgrow.passes.roles import Piece, Role
from onnxgrow.passes.stored import Stored, is_plain, stored_form
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
        self.streams = Streams(analysis, plan)
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

    def grow(self, piece: Piece, name: str) -> GrownTensor:
        """The grown tensor of a piece, called ``name`` in the result.

        Reading it may raise UnsupportedError: two uses of it need different values at the same entry, or the method
        has no values for it.

        Raises:
            UnsupportedError: Weights of its type cannot be widened.
        """
        tensor = self.analysis.network.tensors[piece.name]
        shape = self._shape(piece)
        rounded = not is_plain(tensor.dtype) or any(s.node.op_type in QUANTISED for r in piece.roles for s in r.way)
        if any(r.linear for r in piece.roles) and rounded and not self.plan.request.exact:
            raise UnsupportedError(piece.name, "this method has no values for a quantised weight", "use zero-fan-out")
        if self.plan.request.method != "zero-fan-out" and any(r.computed for r in piece.roles):
            raise UnsupportedError(piece.name, "a weight is computed from it and others", "use zero-fan-out")
        return GrownTensor(
            lambda: self._entries(piece, name, shape, tensor),
            dtype=tensor.dtype,
            shape=shape,
            name=name,
            doc_string=tensor.doc_string,
            metadata_props=tensor.metadata_props,
        )

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        return tuple(piece.layouts[a].size if a in piece.layouts else t.size for a, t in enumerate(piece.terms))

    def _entries(self, piece: Piece, name: str, shape: tuple[int, ...], tensor: ir.TensorProtocol) -> Entries:
        """Layers of values, one over the other; what none of them decides is drawn at last."""
        old: Array = np.asarray(tensor.numpy())
        for mark in piece.marks:
            if isinstance(mark, Scaled):
                old = cast(np.asarray(old, np.float64) * mark.factor, old.dtype)
        linears = [r for r in piece.roles if r.linear is not None]
        layers: list[Layer] = []
        form = self._form(piece, old.dtype)
        if self.copies:
            layers.append(taken(old, self._copied_sources(piece, old.shape)))
        elif not linears:
            layers.append(self._parameter(piece, shape, old, form))
        layers.append(kept(old, [piece.layouts.get(a, np.arange(n)) for a, n in enumerate(shape)]))
        if self.plan.request.method == "net2wider":
            layers += self._shared_out(piece, shape, linears)
        else:
            self._zero(layers, piece, name, shape, linears, old, form)
            layers += [zeros(Mask.where_all(masks, shape), form) for masks in piece.zeros]
            if linears and not self.copies:
                drawing = self._drawing(piece, name, shape, old, linears, form)
                if isinstance(drawing, Drawing) and form is None:
                    layers += self._no_larger(drawing, piece, old, linears)
                layers.append(drawn(drawing, form))
        made: Entries = Layers(tuple(layers), old.dtype)
        for mark in piece.marks:
            if isinstance(mark, Averaged):
                made = averaged(made, shape, mark, piece.layouts)
        marks = [m for m in piece.marks if isinstance(m, Combined)]
        if not marks:
            return made
        tensors = self.analysis.network.tensors
        weights = {m.weights: np.asarray(tensors[m.weights].numpy()) for m in marks if m.weights}
        forest = self.analysis.dims.forest
        sources = {m: repeated(forest, piece.terms[m.axis], self.growth, (m.atom,)) for m in marks}
        return combined(made, shape, sorted(marks, key=lambda m: m.axis), sources, weights)

    def _form(self, piece: Piece, dtype: np.dtype[Any]) -> Stored | None:
        """How all uses of a piece store a value.

        Raises:
            UnsupportedError: They store zero differently.
        """
        forest = self.analysis.dims.forest
        pick = partial(layout, forest, growth=self.growth, picks=self.picks) if self.copies else None
        roles = [r for r in piece.roles if r.linear is not None] or [r for r in piece.roles if r.fill is not None]
        found = [stored_form(self.analysis, self.growth, r, dtype, piece.name, pick) for r in roles]
        forms = [form for form in found if form is not None]
        for other in forms[1:]:
            if (forms[0].offset != other.offset).any():
                raise UnsupportedError(piece.name, "its uses have different zero points")
        if forms and len(forms) < len(found) and forms[0].offset.any():
            raise UnsupportedError(piece.name, "one of its uses has a zero point")
        return forms[0] if forms else None

    def _copied_sources(self, piece: Piece, old: tuple[int, ...]) -> list[Array]:
        forest = self.analysis.dims.forest
        return [
            layout(forest, piece.terms[a], self.growth, self.picks) if a in piece.layouts else np.arange(n)
            for a, n in enumerate(old)
        ]

    def _parameter(self, piece: Piece, shape: tuple[int, ...], old: Array, form: Stored | None) -> Layer:
        """Neutral entries; where an op has none, entries of its own (the first along each grown axis).

        Of several uses, one that has to keep zeros zero decides where the method relies on them.
        """
        fills = {r.fill for r in piece.roles}
        decides = self.plan.request.method == "zero-fan-in" and 0.0 in fills
        value = 0.0 if decides else fills.pop() if len(fills) == 1 else None
        if value is not None:
            return filled(value, form)
        return taken(
            old,
            [np.maximum(piece.layouts[a], 0) if a in piece.layouts else np.arange(n) for a, n in enumerate(shape)],
        )

    def _drawing(
        self,
        piece: Piece,
        name: str,
        shape: tuple[int, ...],
        old: Array,
        linears: list[Role],
        form: Stored | None,
    ) -> Draw:
        """Standard initialisation of the grown shape, any flat range of it."""
        use = linears[0].linear
        assert use is not None
        dtype = old.dtype if form is None else np.dtype(np.float64)
        # Integers without a scale of their own mean something only beside the others: as large as those.
        unscaled = form is not None and not is_plain(ir.DataType.from_numpy(old.dtype)) and (form.factor == 1).all()
        if use.data < 0 or unscaled or linears[0].computed:
            plain_old = old if is_plain(ir.DataType.from_numpy(old.dtype)) else old.astype(np.float32)
            spread = std(plain_old) if form is None else std(plain_old) / (float(np.abs(form.factor).mean()) or 1.0)
            sigma = spread if spread > 0 else 0.02
            key = self._key(name, "table")
            return lambda ranges: near_zero_ranges(key, ranges, sigma, dtype)
        plain = self._plain(piece, shape, linears[0])
        leaves = self.analysis.dims.forest.leaves
        negated = any(self.negated.intersection(leaves(piece.terms[a])) for a in plain.out_axes)
        return Drawing(self.plan.request.init, shape, plain, self._key(name), negated, dtype)

    def _plain(self, piece: Piece, shape: tuple[int, ...], role: Role) -> Fans:
        use = role.linear
        assert use is not None
        dims = self.analysis.dims
        terms = dims.at((use.node, use.index)) or []
        sizes = [self._grown(t) for t in terms]
        outer = math.prod(sizes[a] for a in use.out_axes)
        inner = math.prod(sizes[a] for a in use.in_axes)
        kernel = math.prod(n for a, n in enumerate(sizes) if a not in (*use.out_axes, *use.in_axes))
        axes = use.out_axes
        for step in reversed(role.way):
            if step.node.op_type == "Transpose":
                order = step.node.attributes.get_ints("perm", ()) or tuple(range(len(terms)))[::-1]
                axes = tuple(order[a] for a in axes)
            elif step.node.op_type not in SAME:
                axes = ()
        axes = tuple(a for a in axes if a < len(shape)) or (0,)
        return Fans(max(1, inner * kernel), max(1, outer * kernel), self._gain(use.node), axes)

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

    # ---- zeros and shares

    def _zero(
        self,
        layers: list[Layer],
        piece: Piece,
        name: str,
        shape: tuple[int, ...],
        linears: list[Role],
        old: Array,
        form: Stored | None,
    ) -> None:
        """Lay the method's zeros (or near-zeros) over the layers so far. Zeros outrank fills."""
        method = self.plan.request.method
        for role in map(self._reading, (r for r in linears if not r.computed)):
            mask = zero_mask(self.analysis, self.growth, role, shape, piece.name, writers=method == "zero-fan-in")
            if mask is None:
                continue
            if method == "near-zero":
                sigma = scale_to(std(old), self.plan.request.noise, piece.name)
                layers.append(near_zeros(mask, self._key(name, "fan-out"), sigma))
            else:
                layers.append(zeros(mask, form))
        if method == "zero-fan-in" and any(r.linear is None and r.fill == 0.0 for r in piece.roles):
            # A weight that is a bias elsewhere has to keep zeros zero.
            layers.append(zeros(Mask({a: source < 0 for a, source in piece.layouts.items()}, {}, len(shape)), form))

    def _reading(self, role: Role) -> Role:
        """The role without axes along which it reads nothing but zeros: it needs none of its own there."""
        return self._over(role, self.streams.free(role.site), inside=False)

    def _over(self, role: Role, atoms: set[Term], *, inside: bool) -> Role:
        """The role as one that reads along some atoms only (``inside``), or along all others only."""
        use = role.linear
        if use is None or not (atoms or inside):
            return role
        forest, terms = self.analysis.dims.forest, self.analysis.dims.at(role.site) or []
        read = tuple(a for a in use.in_axes if (forest.find(terms[a]) in atoms) is inside)
        return replace(role, linear=replace(use, in_axes=read))

    def _no_larger(self, drawing: Drawing, piece: Piece, old: Array, linears: list[Role]) -> list[Layer]:
        """Draw what old outputs read of zeros that are none but for roundings: no larger than the old entries, which
        are rounded alike. Beside weights as small as 1e-10 a standard initialisation would make noise a signal.
        """
        found = [(role, atoms) for role in linears if (atoms := self.streams.nearly_zero(role.site))]
        most = std(old, piece.name) * math.sqrt(drawing.fans.fan_in) if found else 0.0
        if not 0 < most < drawing.fans.gain:
            return []
        smaller = replace(drawing, fans=replace(drawing.fans, gain=most))
        masks = (
            zero_mask(
                self.analysis,
                self.growth,
                self._over(role, atoms, inside=True),
                drawing.shape,
                piece.name,
                writers=False,
            )
            for role, atoms in found
        )
        return [drawn_in(mask, smaller) for mask in masks if mask is not None]

    def _shared_out(self, piece: Piece, shape: tuple[int, ...], linears: list[Role]) -> list[Layer]:
        """Net2WiderNet: readers of a channel that was copied share its old weight among the copies."""
        shares = [share_of(self.analysis, self.growth, self.picks, r, shape, piece.name) for r in linears]
        if any(r.linear is None for r in piece.roles):
            shares.append(Share((), len(shape)))  # a parameter's copies are whole
        return [shared(shares, piece.name)] if shares else []
