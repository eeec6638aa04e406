"""Carry out a plan on a copy of the model, and write down everything that changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.algebra import Term, layout
from onnxgrow.analysis import Analysis, find_patches, node_key
from onnxgrow.analysis.shape_flow import SitePatch
from onnxgrow.axis_map import MEAN, AxisMap
from onnxgrow.concrete.bodies import Path
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import SCALED, TAKEN_BACK, SetGrowth, TensorGrowth, ValueGrowth
from onnxgrow.passes.averages import Averaged
from onnxgrow.passes.residual import Combined, Scaled, axis_map
from onnxgrow.passes.rewriter import Rewriter
from onnxgrow.passes.roles import Piece, grown_pieces
from onnxgrow.passes.values import TensorGrower
from onnxgrow.plan import WidenPlan
from onnxgrow.plan.zero_path import zero_values

__all__ = ["Changes", "apply_widening"]

WHERE_SINCE = 9


class Changes:
    """What a widening did, in the terms of the growth map.

    Attributes:
        tensors, values, sets: As in the growth map.
        rewriter: The edits of nodes.
    """

    def __init__(
        self,
        analysis: Analysis,
        plan: WidenPlan,
        model: ir.Model,
        generation: int,
        negated: frozenset[Term],
        path: Path = (),
    ) -> None:
        self.analysis = analysis
        self.plan = plan
        self.grower = TensorGrower(analysis, plan, generation, negated)
        self.rewriter = Rewriter(model, path)
        self.tensors: dict[str, TensorGrowth] = {}
        self.values: dict[str, ValueGrowth] = {}
        self.sets: tuple[SetGrowth, ...] = ()
        self._operands: dict[tuple[str, bytes], str] = {}

    # ---- steps

    def grow_tensors(self) -> None:
        """Replace constants; one that falls into several pieces gets a new constant for each further piece."""
        for name, pieces in grown_pieces(self.analysis, self.plan.growth, self.grower.streams).items():
            producer = self.rewriter.value(name).producer()
            stored = producer is None or producer.op_type == "Constant"
            keeper = next((p for p in pieces if not p.changes), pieces[0] if stored else None)
            for piece in pieces:
                if not piece.changes:
                    continue
                if piece is keeper:
                    tensor = self.grower.grow(piece, name)
                    self.rewriter.set_constant(name, tensor)
                    self.tensors[name] = self._tensor_growth(piece)
                    continue
                unique = self.rewriter.fresh(f"{name}_{len(self.tensors)}")
                tensor = self.grower.grow(piece, unique)
                added = self.rewriter.add_constant(unique, tensor, beside=name, named=True)
                self.tensors[added] = self._tensor_growth(piece, of=name)
                for node, index in piece.sites or []:
                    self.rewriter.set_input(node_key(node), index, added)

    def grow_attributes(self) -> None:
        """Attributes that follow the growth: groups, hidden sizes, old-opset forms of operands."""
        dims = self.analysis.dims
        for node in self.analysis.network.nodes:
            for name, update in dims.declared[node].attributes.items():
                self.rewriter.set_attribute(node_key(node), name, update(self.plan.growth))
        for node, epsilon in self.grower.streams.epsilons().items():
            self.rewriter.set_attribute(node_key(node), "epsilon", epsilon)

    def patch_operands(self) -> None:
        """Integer operands and uses of shape values that need another value than what flows there."""
        patches = find_patches(self.analysis.dims, self.plan.growth)
        if patches.unsolved:
            reason = patches.unsolved[0].reason
            raise UnsupportedError(reason.node, reason.why)
        keepers = self._keepers(patches.sites)
        for patch in patches.sites:
            if patch.constant:
                self._constant_operand(patch, keepers)
            else:
                self._mixed_operand(patch)

    def grow_values(self) -> None:
        """Declared shapes of computed values, and their part of the growth map."""
        dims, streams = self.analysis.dims, self.grower.streams
        zero = {
            p.channel_set.atom: zero_values(self.analysis, p.channel_set)
            for p in self.plan.sets
            if self.plan.request.method == "zero-fan-in"
        }
        for name, terms in dims.values.items():
            if name in self.analysis.network.tensors:
                continue
            axes: dict[int, AxisMap] = {}
            for axis, term in enumerate(terms):
                atoms = [a for a in dims.forest.leaves(term) if a in self.plan.growth]
                if not atoms:
                    continue
                is_zero = bool(zero) and all(name in zero.get(a, ()) for a in atoms)
                axes[axis] = self._axis(term, *(("zero", atoms) if is_zero else streams.fact(name, set(atoms))))
            factor = streams.factor(name)
            if axes or factor != 1:
                self.values[name] = ValueGrowth(axes, factor=factor)
                self.rewriter.resize(name, {a: (m.old_size, m.new_size) for a, m in axes.items()})

    def take_factors_back(self) -> None:
        """Multiply weights that are standardised without a gain by the factor that keeps their old entries."""
        for (node, index), factor in self.grower.streams.taken_back().items():
            value = node.inputs[index]
            name = (value.name if value is not None else None) or ""
            dtype = self.analysis.network.concrete.dtypes[name].numpy()
            tensor = _tensor(np.asarray(factor).astype(dtype), "")
            number = self.rewriter.add_constant(f"{name}_share", tensor, beside="", as_node=True)
            self.tensors[number] = TensorGrowth(formula=TAKEN_BACK, factor=factor)
            before = self.rewriter.node(node_key(node))
            result = self.rewriter.insert(before, "Mul", [name, number], f"{name}_rescaled")
            self.values[result] = ValueGrowth(self.values[name].axes, of=name)
            self.rewriter.set_input(node_key(node), index, result)

    def note_sets(self) -> None:
        """The sets that grew, by the names of their weights in the result."""
        self.sets = tuple(
            SetGrowth(
                p.channel_set.name,
                p.channel_set.size,
                p.new,
                tuple(dict.fromkeys(w.root for w in p.channel_set.writers)),
                tuple(dict.fromkeys(w.root for w in p.channel_set.readers)),
                self.plan.request.method if p.way is None else f"residual-{p.way.mode}",
            )
            for p in self.plan.sets
        )

    # ---- details

    def _axis(self, term: Term, fact: str, atoms: Collection[Term] = ()) -> AxisMap:
        """The map of an axis; with ``fact`` ``copy`` the new entries of ``atoms`` repeat their old ones."""
        forest, growth, picks = self.analysis.dims.forest, self.plan.growth, self.grower.picks
        if self.plan.request.method != "net2wider":
            return axis_map(forest, term, growth, fact, atoms)
        copied = layout(forest, term, growth, picks)
        return AxisMap.copying(layout(forest, term, growth), copied, 1 / np.bincount(copied)[copied])

    def _tensor_growth(self, piece: Piece, of: str = "") -> TensorGrowth:
        marks = [m for m in piece.marks if isinstance(m, Combined)]
        facts = {m.axis: m.mode for m in marks}
        averages = next((m for m in piece.marks if isinstance(m, Averaged)), None)
        facts.update(dict.fromkeys(piece.layouts.keys() & set(averages.over if averages is not None else ()), MEAN))
        weights = next((m.weights for m in marks if m.weights), "")
        factor = next((m.factor for m in piece.marks if isinstance(m, Scaled)), None)
        axes = {
            a: self._axis(piece.terms[a], facts.get(a, "any"), [m.atom for m in marks if m.axis == a])
            for a in piece.layouts
        }
        over = averages.over if averages is not None else ()
        return TensorGrowth(
            axes,
            of,
            "" if factor is None else SCALED,
            factor or 1.0,
            weights=weights,
            over=tuple(a for a in over if a not in axes or facts.get(a) != MEAN),
        )

    def _constant_operand(self, patch: SitePatch, keepers: Mapping[str, bytes]) -> None:
        """Put a constant where one site needs it: in the old constant's place when nobody needs that any more."""
        node, index = patch.site
        name = _name_at(patch)
        wanted = _bytes(patch.wanted)
        if keepers.get(name) == wanted:
            if name not in self.tensors:
                self.rewriter.set_constant(name, _tensor(patch.wanted, name))
                self.tensors[name] = TensorGrowth(formula="operand")
            return
        key = (name, wanted)
        if key not in self._operands:
            label = f"{name}_grown" if name else f"{node_key(node)}_operand{index}"
            self._operands[key] = self._add_operand(label, patch.wanted, name)
        self.rewriter.set_input(node_key(node), index, self._operands[key])

    def _keepers(self, patches: list[SitePatch]) -> dict[str, bytes]:
        """Constants all of whose uses are patched, with the value that may take their place."""
        network = self.analysis.network
        ends = {o.name for o in network.model.graph.outputs}
        patched: dict[str, list[SitePatch]] = {}
        for patch in patches:
            if patch.constant:
                patched.setdefault(_name_at(patch), []).append(patch)
        return {
            name: _bytes(mine[0].wanted)
            for name, mine in patched.items()
            if name in network.tensors
            and name not in self.tensors
            and name not in network.captured
            and name not in ends
            and len(list(network.uses(name))) == len(mine)
        }

    def _add_operand(self, wanted: str, value: npt.NDArray[Any], beside: str) -> str:
        added = self.rewriter.add_constant(wanted, _tensor(value, wanted), beside=beside)
        of = beside if beside in self.analysis.network.tensors else ""
        self.tensors[added] = TensorGrowth(of=of, formula="operand")
        return added

    def _mixed_operand(self, patch: SitePatch) -> None:
        """Keep the entries that follow dynamic sizes and replace the others: Where, or x·keep + new before opset 9."""
        node, index = patch.site
        value = node.inputs[index]
        assert value is not None
        name = value.name or ""
        before = self.rewriter.node(node_key(node))
        if self.analysis.network.version(node) >= WHERE_SINCE or node.domain not in ("", "ai.onnx"):
            mask = self._add_operand(f"{name}_mask", patch.mask, "")
            wanted = self._add_operand(f"{name}_sizes", patch.wanted, "")
            result = self.rewriter.insert(before, "Where", [mask, wanted, name], f"{name}_grown")
        else:
            kept = (~patch.mask).astype(patch.wanted.dtype)
            keep = self._add_operand(f"{name}_keep", kept, "")
            sizes = np.where(patch.mask, patch.wanted, 0).astype(patch.wanted.dtype)
            added = self._add_operand(f"{name}_sizes", sizes, "")
            part = self.rewriter.insert(before, "Mul", [name, keep], f"{name}_kept")
            result = self.rewriter.insert(before, "Add", [part, added], f"{name}_grown")
        self.rewriter.set_input(node_key(node), index, result)


def _name_at(patch: SitePatch) -> str:
    node, index = patch.site
    value = node.inputs[index] if index < len(node.inputs) else None
    return (value.name if value is not None else None) or ""


def _bytes(value: npt.NDArray[Any]) -> bytes:
    return f"{value.dtype.str}{value.shape}".encode() + value.tobytes()


def _tensor(value: npt.NDArray[Any], name: str) -> ir.Tensor[Any]:
    return ir.Tensor(np.ascontiguousarray(value).reshape(value.shape), name=name)


def apply_widening(
    analysis: Analysis,
    plan: WidenPlan,
    model: ir.Model,
    generation: int,
    *,
    negated: frozenset[Term] = frozenset(),
    path: Path = (),
) -> Changes:
    """Widen ``model`` (a copy of the analysed one) in place.

    Args:
        analysis: Of the original.
        plan: What grows.
        model: The copy.
        generation: How often it has grown, this time included.
        negated: Atoms whose new writers get the negative of the values drawn for them.
        path: The body of ``model`` that was analysed, lifted out; the main graph by default.

    Raises:
        UnsupportedError: A tensor would need two values at one entry, or an operand cannot follow.
    """
    changes = Changes(analysis, plan, model, generation, negated, path)
    changes.grow_tensors()
    changes.grow_attributes()
    changes.patch_operands()
    changes.grow_values()
    changes.take_factors_back()
    changes.note_sets()
    return changes
