"""Change the constants of one residual stream: combinations in new channels, factors on old ones."""

from __future__ import annotations

from fractions import Fraction

import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis.reading import Reading
from onnxgrow.analysis.stream import (
    LINEAR,
    MOVES,
    NONE,
    PASSES,
    PRODUCTS,
    SUMS,
    ZERO_EXPONENT,
    Impossible,
    Written,
)
from onnxgrow.analysis.ways import SCALES, Step, Way
from onnxgrow.axis_map import ANY, COPY, ZERO
from onnxgrow.rules import LinearUse

__all__ = ["Writing"]


class Writing(Reading):
    """A stream whose constants are given new entries and factors; raises Impossible where they cannot have them."""

    def write(self, node: ir.Node, index: int, weights: str = "") -> None:
        """Let new entries of a constant combine its old ones."""
        roots = self.network.roots((node, index))
        if not roots:
            self._write_behind(node, index, weights)
            return
        for name, site, way in roots:
            terms = self.dims.at(site)
            axes = self.carries(terms)
            if not axes:
                continue
            axis = axes[0] if len(axes) == 1 else self._written_axis(node, index, way) if node in self.uses else None
            if axis is None or not self._holds(name, (terms or [])[axis]):
                raise Impossible(node, f"{name} cannot hold combinations of its channels")
            for step in way:
                self._write_scales(node, step, name)
            mine = Written(axis, weights)
            if self.found.written.setdefault(site, mine) != mine:
                raise Impossible(node, f"two uses of {name} need different new channels")

    def _holds(self, name: str, term: Term) -> bool:
        """Whether new entries of a constant along an axis can combine its old ones: copies of any type, anywhere."""
        alone = self.dims.forest.find(term) is self.atom and self.network.tensors[name].dtype.is_floating_point()
        return alone or self.mode == COPY

    def _write_scales(self, node: ir.Node, step: Step, name: str) -> None:
        """What scales a constant on its way is the same for a channel and its copies."""
        if step.node.op_type not in SCALES:
            return
        if self.mode != COPY:
            raise Impossible(node, f"{name} is scaled on its way")
        for i in range(len(step.node.inputs)):
            if i != step.index and self.carries(self.dims.at((step.node, i))):
                self.write(step.node, i)

    def _written_axis(self, node: ir.Node, index: int, way: Way) -> int | None:
        """The axis of a constant along which a linear op makes channels, seen through transposes."""
        terms = self.dims.at((node, index)) or []
        axes = [a for u in self.uses[node] if u.index == index for a in self._made_axes(u)]
        if len(axes) != 1 or any(step.node.op_type not in ("Transpose", "Identity", "Cast") for step in way):
            return None
        axis = axes[0]
        for step in reversed(way):
            if step.node.op_type == "Transpose":
                axis = (step.node.attributes.get_ints("perm", ()) or tuple(range(len(terms)))[::-1])[axis]
        return axis

    def _made_axes(self, use: LinearUse) -> list[int]:
        """Axes of a weight that have the atom and become axes of the output."""
        return [a for a in self.carries(self.dims.at((use.node, use.index))) if a not in use.in_axes]

    def _write_behind(self, node: ir.Node, index: int, weights: str) -> None:
        """The same of a constant that is computed from others in a way that keeps channels apart."""
        name = self.name(node, index)
        producer = self.network.producer(name)
        moved = producer is not None and (producer.op_type in MOVES | SUMS | {"Concat"} or self.resampled(producer))
        if producer is None or not moved:
            raise Impossible(node, f"{name} cannot hold combinations of its channels")
        for i in range(len(producer.inputs)):
            if self.carries(self.dims.at((producer, i))):
                self.write(producer, i, weights)

    def scale(self, node: ir.Node, index: int, exponent: Fraction) -> None:
        """Multiply a constant by η**exponent."""
        name, site = self.name(node, index), (node, index)
        if (2 * exponent).denominator != 1 or abs(exponent) > 1:
            raise Impossible(node, f"a factor to the power {exponent} is not taken back")
        if name in self.network.tensors:
            if not self.network.tensors[name].dtype.is_floating_point() or site in self.found.scaled:
                raise Impossible(node, f"{name} cannot be scaled")
            self.found.scaled[site] = exponent
            return
        producer = self.network.producer(name)
        alone = producer is not None and len(list(self.network.uses(name))) == 1 and name not in self.network.captured
        if producer is None or not alone or not self.constant(node, index):
            raise Impossible(node, f"{name or 'an input'} is no constant of its own, so it cannot take a factor back")
        if producer.op_type in MOVES | PASSES:
            self.scale(producer, 0, exponent)
        elif producer.op_type in SUMS:
            for i in range(len(producer.inputs)):
                self.scale(producer, i, exponent)
        else:
            raise Impossible(node, f"{name} is computed by {producer.op_type}, so it cannot take a factor back")
        self.states[name] = (NONE, exponent)

    def reweigh(self, node: ir.Node, index: int, weights: str) -> bool:
        """Let what a node reads combine its channels with other weights, back to its writers; whether that works."""
        name = self.name(node, index)
        producer = self.network.producer(name)
        if producer is None or len(list(self.network.uses(name))) != 1:
            return False
        if producer.op_type in MOVES | PASSES and not self.constant(producer, 0) and producer not in self.uses:
            done = self.reweigh(producer, 0, weights)
        elif producer in self.uses and producer.op_type in LINEAR and not self._passes_through(producer):
            for i in self.constants(producer):
                self._rewrite(producer, i, weights)
            done = not any(self._one_for_all(producer, i) for i in range(len(producer.inputs)))
        elif producer.op_type in ("Add", "Sub"):
            done = True
            for i in range(len(producer.inputs)):
                if not self.carries(self.dims.at((producer, i))):
                    return False
                if self.constant(producer, i):
                    self._rewrite(producer, i, weights)
                else:
                    done = done and self.reweigh(producer, i, weights)
        else:
            return False
        self.states[name] = (ANY, ZERO_EXPONENT)
        return done

    def _rewrite(self, node: ir.Node, index: int, weights: str) -> None:
        for _, site, _ in self.network.roots((node, index)):
            self.found.written.pop(site, None)
        self.write(node, index, weights)

    def _check_constants(self) -> None:
        """A constant of several uses has to be right for all of them."""
        tied = self.network.is_tied
        weights = {
            site for uses in self.uses.values() for u in uses for _, site, _ in self.network.roots((u.node, u.index))
        }
        for site, exponent in self.found.scaled.items():
            name = self.name(*site)
            if tied(name) and any(self.found.scaled.get(s) != exponent for s in self.network.uses(name)):
                raise Impossible(site[0], f"{name} is used elsewhere, too, where it may not change")
        for site, written in self.found.written.items():
            name = self.name(*site)
            if self.mode != ZERO and (name, written.axis) in self.zeroed and tied(name):
                raise Impossible(site[0], f"{name} writes and reads the stream: its new entries would have to be zero")
            others = [s for s in self.network.uses(name) if s not in weights or s in self.found.written]
            if tied(name) and any(self.found.written.get(s) != written for s in others):
                raise Impossible(site[0], f"two uses of {name} need different new channels")

    def _passes_through(self, node: ir.Node) -> bool:
        """Whether channels of the data become channels of the output one by one (depthwise), or group by group."""
        return any(
            u.data >= 0
            and bool(self._made_axes(u))
            and not self.sums_over(u)
            and self.carries(self.dims.at((node, u.data))) != []
            for u in self.uses[node]
        )

    def _one_for_all(self, node: ir.Node, index: int) -> bool:
        """Whether a constant is the same for all channels: the bias of a Gemm may be."""
        return node.op_type == "Gemm" and index == 2 and bool(self.name(node, 2)) and index not in self.constants(node)

    def _is_written(self, node: ir.Node, use: LinearUse) -> bool:
        """Whether a weight reads by the entries that write the stream elsewhere: a table of embeddings and a head."""
        if node.op_type not in PRODUCTS or self._made_axes(use):
            return False
        written = {(self.name(*site), how.axis) for site, how in self.found.written.items()}
        return any(
            self.network.is_tied(name) and (name, axis) in written
            for name, site, _ in self.network.roots((node, use.index))
            for axis in self.carries(self.dims.at(site))
        )

    def _read_copies(self, node: ir.Node, use: LinearUse) -> None:
        """Let a weight hold copies where it reads copies.

        Its sums are 1/η times as large: what it reads is made η times as large.
        """
        if self.read(node, use.data) != (COPY, ZERO_EXPONENT):
            raise Impossible(node, "it reads other than copies by the entries that write them")
        for name, site, _ in self.network.roots((node, use.index)):
            axes = self.carries(self.dims.at(site))
            if len(axes) != 1 or self.found.written.setdefault(site, Written(axes[0])) != Written(axes[0]):
                raise Impossible(node, f"two uses of {name} need different new channels")
        self._lower(node, use.data)

    def _lower(self, node: ir.Node, index: int) -> None:
        """Make what a node reads, and nothing else does, η times as large, by constants in front."""
        name = self.name(node, index)
        if self.constant(node, index):
            self.scale(node, index, Fraction(1))
            return
        producer = self.network.producer(name)
        ends = {v.name for v in self.network.model.graph.outputs} | self.network.captured
        if producer is None or name in ends or len(list(self.network.uses(name))) != 1:
            raise Impossible(node, "what it reads is read elsewhere, too, so it cannot be made smaller")
        for i in self._scaling(producer):
            self._lower(producer, i)
        self.states[name] = (self.states[name][0], Fraction(1))

    def _scaling(self, node: ir.Node) -> list[int]:
        """Inputs of which the first output of a node is a multiple, where all of them are multiplied together."""
        given = [i for i in range(len(node.inputs)) if self.name(node, i)]
        constants = [i for i in given if self.constant(node, i)]
        if node.op_type in PASSES | MOVES:
            return [0]
        if node.op_type in ("Add", "Sub"):
            return given
        if node.op_type == "Mul" and constants:
            return constants[:1]
        if node.op_type in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
            parameters = [i for i in given if i > 0]
            if parameters and all(i in constants for i in parameters):
                return parameters
        raise Impossible(node, "nothing in front of a weight that writes the stream, too, takes its factor back")
