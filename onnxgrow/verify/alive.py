"""Can the new weights learn? Exact growth without a gradient is the commonest silent failure: each set is checked.

A new channel is alive when at least one side of it gets a gradient:

* its readers: the gradient of a reader's entry is the channel's activation times what comes back, so the activation, as
  the reader sees it, has to be non-zero somewhere (zero fan-out);
* its writers: the readers' entries are non-zero and the activation passes the derivative on at the point where it
  stands. Moving the writers' new entries by +p and by −p has to move the activation each time and differently: ReLU at
  0 moves one way only, |x| and x·x move the same way twice, and their derivative there is zero (zero fan-in).

All sets are measured together in at most four float64 evaluations: as it is, readers moved, which has to show in the
graph's outputs or in the numbers in front of them (:mod:`onnxgrow.verify.ends`), and writers moved up and down. The
last two are left out where nothing can come of them: behind readers whose new entries are all zero, as zero fan-out
makes them, no gradient reaches a writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.axis_map import ZERO
from onnxgrow.growth_map import GrowthMap, SetGrowth
from onnxgrow.verify.ends import ends
from onnxgrow.verify.fit import axes_difference
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.kernels.pieces import Change, Derived, Large, is_float, pieces
from onnxgrow.verify.float64.kernels.quantize import straight_through
from onnxgrow.verify.float64.kernels.registry import Array, Call
from onnxgrow.verify.float64.marks import Marks, draws, new_marks
from onnxgrow.verify.float64.prepared import Prepared, prepare
from onnxgrow.verify.float64.rerandomise import tensors_of
from onnxgrow.verify.float64.restrict import axes_of, old_region
from onnxgrow.verify.report import AliveResult
from onnxgrow.verify.sites import Layout, Site

__all__ = ["check"]

WRITERS = ("up", "down")
"""Evaluations with the writers' new entries moved."""
STEP = 2.0**-10
"""Size of a probe, relative to the tensor's scale."""
Shapes = Mapping[str, tuple[int, ...]]

MOVED = 1e-13
"""Relative change that counts as movement."""
ENOUGH = 2
"""Inputs after which a set with some channels alive is not searched for more of them."""
ROUNDINGS = 64.0
"""The same in machine epsilons, where operators run in the model's own precision."""


def check(
    grown: ir.Model,
    growth_map: GrowthMap,
    feeds_list: Sequence[Mapping[str, Any]],
    seed: int = 0,
    shapes: Shapes | None = None,
) -> tuple[AliveResult, ...]:
    """For every channel set: how many of its new channels get a gradient on the given inputs.

    Channels that rest are looked for on two inputs; a set of which all rest, on every input there is.

    Args:
        grown: The result.
        growth_map: Names its sets with their writers and readers, and says which entries are new.
        feeds_list: Inputs; a channel is alive when it is alive on one of them.
        seed: Of the probes.
        shapes: Shapes of the result's values where they are known; only their ranks count.

    Returns:
        One result per set, in the map's order. ``alive`` is 0 for a set that cannot learn, and None where that was not
        measured: the note says why (no float64 implementation, or old channels that are dead on these inputs, too).
    """
    sets = [s for s in growth_map.sets if s.new > s.old]
    if not sets:
        return ()
    try:
        probe = _Probe(grown, growth_map, sets, seed, shapes or {})
        for index, feeds in enumerate(feeds_list):
            probe.run(feeds)
            found = [probe.result(s) for s in sets]
            if all(r.alive == r.channels for r in found) or (index + 1 >= ENOUGH and all(r.alive for r in found)):
                break
    except (NoFloat64Error, EvaluationError) as e:
        return tuple(AliveResult(s.name, s.new - s.old, None, f"not measured: {e}") for s in sets)
    return tuple(probe.result(s) for s in sets)


class _Probe:
    """The evaluations and what they showed, per site."""

    def __init__(
        self, model: ir.Model, growth_map: GrowthMap, sets: Sequence[SetGrowth], seed: int, shapes: Shapes
    ) -> None:
        self.growth_map = growth_map
        base = prepare(model)
        self.layout = Layout(base, growth_map, shapes)
        self.tensors = tensors_of(base.graph)
        self.sites = {s.name: self._sites(s) for s in sets}
        self.reading: dict[str, bool] = {}
        readers = self.layout.tensors_named(name for s in sets for name in s.readers)
        self.runs = {"base": base, "readers": prepare(model, self._moved(readers, seed + 1, 1.0, reading=True))}
        if any(self._back_to_writers(site) for found in self.sites.values() for site in found):
            writers = self.layout.tensors_named(name for s in sets for name in s.writers)
            for name, sign in zip(WRITERS, (1.0, -1.0), strict=True):
                self.runs[name] = prepare(model, self._moved(writers, seed, sign, reading=False))
        for prepared in self.runs.values():
            _through_rounding(prepared)
        self.active: dict[Site, Array] = {}
        self.passing: dict[Site, Array] = {}
        self.old_active: dict[Site, bool] = {}
        self.outputs_moved = False

    def _sites(self, s: SetGrowth) -> list[Site]:
        arrived, contractions = self.layout.written(self.layout.tensors_named(s.writers))
        found = []
        for name in s.readers:
            pieces = self.layout.tensors_named([name])
            sites = [site for piece in pieces for site in self.layout.reading_sites(piece)]
            # pieces of a weight that was shared may read other sets
            found += [site for site in sites if site.value in arrived] if len(pieces) > 1 else sites
        ends = ((name, axis) for name in self.growth_map.outputs if name in arrived for axis in self._grown_axes(name))
        return found or contractions or [Site("", name, axis) for name, axis in ends]

    def _grown_axes(self, name: str) -> list[int]:
        return [axis for axis, m in axes_of(name, self.growth_map).items() if not m.is_identity]

    def _moved(self, names: Iterable[str], seed: int, sign: float, reading: bool) -> dict[str, Large]:
        """The named tensors with new entries moved by a probe: those that read new channels, or those that write some.

        Writers keep the zeros by which old outputs ignore new inputs, so that nothing old moves.
        """
        found: dict[str, Large] = {}
        for index, name in enumerate(sorted(names)):
            growth, array = self.growth_map.tensors.get(name), self._array(name)
            if growth is None or array is None or not is_float(array.dtype) or not (array.size and array.ndim):
                continue
            writing = self.layout.writing_axes(name, growth, array.ndim)
            written = {axis: m for axis, m in growth.axes.items() if axis in writing}
            marks = new_marks(array.shape, growth.axes, writing) if reading else new_marks(array.shape, written)
            found[name] = Derived(array, _moved(marks, seed * 100_003 + index, sign * STEP * _scale(array)))
        return found

    def _array(self, name: str) -> Array | None:
        """A weight; integers, which are scaled on their way, as numbers that a probe can move."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        return tensor.numpy().astype(np.float32) if tensor.dtype.is_integer() else tensor.numpy()

    def _moved_least(self) -> float:
        """Relative change that counts as movement. Raises NoFloat64Error where rounding hides the probes."""
        epsilons = [e for prepared in self.runs.values() for e in prepared.native.epsilons.values()]
        least = max(MOVED, ROUNDINGS * max(epsilons, default=0.0))
        if least > STEP / 4:
            node = next(iter(self.runs["base"].native.epsilons))
            raise NoFloat64Error(node.op_type, "it runs in a precision that hides the probes")
        return least

    def run(self, feeds: Mapping[str, Any]) -> None:
        """Evaluate the variations on one feed and remember what was active, moved or passed on."""
        sites = {site for sites in self.sites.values() for site in sites}
        values = {site.value for site in sites}
        seen = {n: self._evaluate(self.runs[n], feeds, values) for n in ("base", *WRITERS) if n in self.runs}
        moved = [] if self.outputs_moved else self._evaluate(self.runs["readers"], feeds, set())[1]
        least = self._moved_least()
        for site in sites:
            self._fit(site, seen["base"][0][site.value])
            base = self._channels(site, seen["base"][0][site.value])
            source = self._source(site)
            a, nothing = base[source < 0], np.zeros(int((source < 0).sum()), bool)
            active = (np.abs(a) > 0).any(axis=1) if site.reader else nothing
            active = active & ~self._zero(site, len(a))  # roundings of what is zero are no activity
            self.active[site] = self.active.get(site, nothing) | active
            self.old_active[site] = self.old_active.get(site, False) or bool(np.any(base[source >= 0]))
            passing = nothing
            if len(seen) > 1:
                scale = float(np.max(np.abs(base[np.isfinite(base)]), initial=0.0)) or 1.0
                u, d = (self._channels(site, seen[name][0][site.value])[source < 0] for name in WRITERS)
                rise, fall = np.abs(u - a), np.abs(d - a)
                apart = np.abs(u - d) > 1e-6 * np.maximum(rise, fall)
                passing = ((rise > least * scale) & (fall > least * scale) & apart).any(axis=1)
            self.passing[site] = self.passing.get(site, nothing) | passing
        for old, new in zip(seen["base"][1], moved, strict=not self.outputs_moved):
            found = difference(old, new)
            self.outputs_moved |= bool(found.fault) or found.relative > least

    def _zero(self, site: Site, count: int) -> Array:
        """Which of ``count`` new channels are claimed, and so proved, to be zero at a site."""
        if site.axis < 0:
            return np.zeros(count, bool)
        new = [s for s in axes_of(site.value, self.growth_map)[site.axis].segments if s.is_new]
        return np.array([s.fact == ZERO for s in new for _ in range(s.length)])

    def _fit(self, site: Site, x: Array) -> None:
        """Raises EvaluationError where the growth map does not fit a value whose shape only a run shows."""
        if reason := axes_difference(x.shape, axes_of(site.value, self.growth_map)):
            raise EvaluationError(site.value, reason)

    def _source(self, site: Site) -> Array:
        """Old index of each line of :meth:`_channels`; a contraction counts as one new channel."""
        if site.axis < 0:
            return np.array([-1])
        return axes_of(site.value, self.growth_map)[site.axis].source()

    def _channels(self, site: Site, x: Array) -> Array:
        """The value as (channel, everything else); the old region of a contraction as one line."""
        if site.axis < 0:
            return old_region(x, axes_of(site.value, self.growth_map)).reshape(1, -1)
        return np.moveaxis(x, site.axis, 0).reshape(x.shape[site.axis], -1)

    @staticmethod
    def _evaluate(prepared: Prepared, feeds: Mapping[str, Any], names: set[str]) -> tuple[dict[str, Any], list[Any]]:
        """The named values, and those where a gradient enters."""
        values = [v for v in (*prepared.graph.inputs, *prepared.by_name.values()) if v.name in names]
        inputs = prepared.inputs(feeds)
        entries = ends(prepared)
        run = prepared.interpreter(inputs, [*values, *entries])
        for _ in run.steps():
            pass
        return {str(v.name): run.read(v) for v in values}, [run.read(v) for v in entries]

    def result(self, s: SetGrowth) -> AliveResult:
        """What the runs say about one set."""
        count, sites = s.new - s.old, self.sites[s.name]
        if not sites:
            return AliveResult(s.name, count, None, "not measured: nothing reads an activation that grew")
        best, note = 0.0, ""
        for site in sites:
            passing = self.passing[site] & self._back_to_writers(site)
            alive = self.active[site] | passing
            if alive.mean() > best:
                best = float(alive.mean())
                note = self._note(site, bool(self.active[site].sum() >= alive.sum()))
        alive_channels = max(round(best * count), 1) if best > 0 else 0
        if alive_channels and not self.outputs_moved and all(site.reader for site in sites) and "readers" in note:
            return AliveResult(s.name, count, 0, "moving its readers' new entries moves no output")
        if alive_channels:
            return AliveResult(s.name, count, alive_channels, note)
        if all(site.reader for site in sites) and not any(self.old_active[site] for site in sites):
            return AliveResult(s.name, count, None, "the old channels are dead on these inputs, too")
        note = "no gradient reaches its readers or its writers on these inputs"
        return AliveResult(
            s.name, count, 0, note, hopeless=not any(map(self._writes, self.layout.tensors_named(s.writers)))
        )

    @staticmethod
    def _note(site: Site, through_readers: bool) -> str:
        if site.axis >= 0 and not site.reader:
            return f"moving its writers moves the graph output {site.value}"
        if not site.reader:
            return f"moving its writers moves {site.value}; all channels together"
        side = "readers" if through_readers else "writers"
        return f"gradient reaches the {side}; measured at {site.value}, which {site.reader} reads"

    def _writes(self, writer: str) -> bool:
        """Whether a writer's entries that make new channels hold anything but zeros."""
        growth, array = self.growth_map.tensors.get(writer), self._array(writer)
        if growth is None or array is None:
            return False
        writing = self.layout.writing_axes(writer, growth, array.ndim)
        return new_marks(array.shape, {a: m for a, m in growth.axes.items() if a in writing}).any_in(array)

    def _back_to_writers(self, site: Site) -> bool:
        """Whether a gradient can come back to the writers at a site."""
        return not site.reader or self._reads(site.reader)

    def _reads(self, reader: str) -> bool:
        """Whether a reader's entries that combine old outputs with new inputs hold anything but zeros."""
        if reader not in self.reading:
            growth, array = self.growth_map.tensors.get(reader), self._array(reader)
            self.reading[reader] = (
                growth is not None
                and array is not None
                and new_marks(array.shape, growth.axes, self.layout.writing_axes(reader, growth, array.ndim)).any_in(
                    array
                )
            )
        return self.reading[reader]


def _through_rounding(prepared: Prepared) -> None:
    """Let every QuantizeLinear pass small movements on, as training does."""
    for node in prepared.order:
        if node.op_type == "QuantizeLinear" and node.domain in ("", "ai.onnx"):
            opset = prepared.opsets.get("", 1)
            prepared.compiled[node] = partial(_straight, node, opset)


def _straight(node: ir.Node, opset: int, inputs: Sequence[Any]) -> tuple[Array, ...]:
    return straight_through(Call(node, opset, tuple(inputs)))


def _moved(marks: Marks, seed: int, step: float) -> Change:
    """Marked entries moved by half of ``step`` to all of it, in one direction or the other."""

    def change(values: Array, rows: npt.NDArray[np.intp]) -> Array:
        bits = draws(marks.shape, rows, seed)
        size = 0.5 + (bits & np.uint32(0xFFFFFF)) * 2.0**-25
        moved: Array = values + marks.at(rows) * np.where(bits >> np.uint32(31), size, -size) * step
        return moved

    return change


def _scale(array: Array) -> float:
    """Largest finite magnitude; 1.0 where there is none."""
    largest = (float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x))) for _, x in pieces(array))
    return max(largest, default=0.0) or 1.0
