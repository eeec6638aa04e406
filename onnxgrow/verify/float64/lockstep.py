"""Evaluates the original, the original with noise, and the result side by side in float64.

Every value that all of them compute is compared: its old region under the growth map has to equal the original's, up to
ten times the noise floor. The floor is measured, not assumed (:mod:`onnxgrow.verify.float64.twins`), so a faulty weight
does not hide behind a constant tolerance.

Nodes without a float64 implementation run in the model's own precision, in both models alike
(:mod:`onnxgrow.verify.float64.native`). Where their outputs have the very same values, as in front of everything that
grew, the comparison goes on as if nothing had happened. Where they differ, the node is *rounded*: its inputs still have
to agree within the float64 bound and its weights bit for bit, and what lies behind it gets the bound that this node's
own rounding measures. Such a comparison alone proves less, so the report names these nodes, and the runtime tier has
to pass too.

Where noise alone may move a value by more than any fault is allowed to, the network is chaotic on these inputs, and
nothing behind that value can be compared end to end. Then all values are compared *locally*: what a node of the result
computes is judged, and what the next one reads of it is the original's value in every old entry. By induction over the
nodes that proves the same, and a fault cannot hide in the noise of what comes before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.interpreter import Interpreter
from onnxgrow.verify.float64.kernels import EvaluationError, NoFloat64Error
from onnxgrow.verify.float64.kernels.pieces import Derived, whole
from onnxgrow.verify.float64.native import operator_name
from onnxgrow.verify.float64.prepared import Prepared
from onnxgrow.verify.float64.restrict import axes_of, counterparts, factor_of, old_region, origins, with_old_region
from onnxgrow.verify.float64.twins import EPSILON, Floor, Original, key_of

__all__ = ["FLOORS", "MARGIN", "Comparison", "GrownError", "Measured", "lockstep"]

MARGIN = 10.0
"""Bound over measured floor."""
FLOORS = 16 * EPSILON
"""Smallest bound: a few roundings, for values whose floor happens to be nothing."""
CEILING = 1e-8
"""Largest bound: however ill-conditioned a network is, a fault of this size is not called noise."""
CEILING_EPSILONS = 100.0
"""The same behind a rounded node, in machine epsilons of its dtype."""


@dataclass(frozen=True)
class Measured:
    """One compared value: relative difference, floor, bound, and the largest bound that more noise could give it."""

    name: str
    difference: float
    floor: float
    bound: float
    fault: str = ""
    ceiling: float = CEILING

    @property
    def passed(self) -> bool:
        return not self.fault and self.difference <= self.bound

    @property
    def chaotic(self) -> bool:
        """Whether noise alone moves it as far, and farther than any fault may."""
        limit = MARGIN * self.floor
        return not self.fault and limit > self.ceiling and self.difference <= limit

    @property
    def may_be_noise(self) -> bool:
        """Whether a fault is small enough that more noise might excuse it."""
        return not self.fault and self.difference <= self.ceiling


@dataclass
class Comparison:
    """What one lockstep run found.

    Attributes:
        values, outputs: Intermediate values and graph outputs that were compared.
        by_shape: Number of values that depend on shapes only and are judged by what they lead to.
        unmatched: Values of the original without a counterpart.
        native: Nodes that ran in their own precision, by the names of their outputs in the original.
        rounded: Those whose outputs are not exactly equal, with their machine epsilons.
        reset: Values that are chaotic end to end, where all were compared locally for that.
    """

    values: list[Measured] = field(default_factory=list)
    outputs: list[Measured] = field(default_factory=list)
    by_shape: int = 0
    unmatched: list[str] = field(default_factory=list)
    native: list[str] = field(default_factory=list)
    rounded: dict[str, float] = field(default_factory=dict)
    reset: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Measured]:
        return [m for m in (*self.values, *self.outputs) if not m.passed]

    @property
    def chaotic(self) -> bool:
        """Whether there are faults, and noise alone explains all of them."""
        faults = self.faults
        return bool(faults) and all(m.chaotic for m in faults)


class GrownError(Exception):
    """The result cannot be evaluated where the original can."""


def lockstep(
    original: Prepared,
    grown: Prepared,
    growth_map: GrowthMap,
    feeds: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    *,
    local: bool = False,
) -> Comparison:
    """Evaluate both models on ``feeds`` and compare every value they share.

    Args:
        original, grown: The models, see :func:`onnxgrow.verify.float64.prepared.prepare`.
        growth_map: What the result claims about its values.
        feeds: Input name → array.
        seeds: One noisy original per seed; floors are the largest over all of them.
        local: Whether every node starts from the original's values.

    Raises:
        NoFloat64Error: An operator has no float64 implementation, and its own precision decides nothing.
        EvaluationError: The original fails on these inputs.
        GrownError: Only the result fails on them.
    """
    found = _Run(original, grown, growth_map, feeds, seeds, {}, local).compare()
    if found.rounded and found.faults:
        # which nodes are rounded does not depend on noise, so now the floors behind them can be measured
        found = _Run(original, grown, growth_map, feeds, seeds, found.rounded, local).compare()
    return found


class _Run:
    """One pass over both models, with the rounded nodes known."""

    def __init__(
        self,
        original: Prepared,
        grown: Prepared,
        growth_map: GrowthMap,
        feeds: Mapping[str, Any],
        seeds: Sequence[int],
        rounded: Mapping[str, float],
        local: bool,
    ) -> None:
        self.local = local
        self.judged: dict[ir.Value, Measured] = {}
        self.grown = grown
        self.growth_map = growth_map
        self.stands_for = counterparts(grown.order, original.by_name, growth_map)
        wanted = frozenset(self.stands_for.values())
        self.old = Original(original, feeds, seeds, wanted, rounded, local)
        self.run: Interpreter = grown.interpreter(grown.inputs(feeds), list(grown.graph.outputs))
        self.kinds = origins(grown.order, self.run.values, growth_map)
        self.found = Comparison(unmatched=sorted(set(original.by_name) - wanted - set(growth_map.removed)))

    def compare(self) -> Comparison:
        found, old = self.found, self.old
        for node in self.grown.order:
            try:
                outputs = self.run.evaluate(node)
            except EvaluationError as e:
                for value in node.outputs:  # where the original fails, too, that is what is raised here
                    old.get(self.stands_for.get(value.name or "", ""))
                raise GrownError(str(e)) from e
            faults = len(found.faults) if node in self.grown.native.epsilons else 0
            read, measured = self._outputs(node, outputs)
            if node in self.grown.native.epsilons:
                self._native(node, measured, faults)
            self.run.store(node, read)
        if alone := old.finish():
            raise NoFloat64Error(alone[0], "it runs in its own precision in the original only")
        for before, after in zip(old.outputs, self.grown.graph.outputs, strict=False):
            floor = old.floors.get(before) or Floor()
            name, values = str(after.name), (old.run.read(before), self.run.read(after))
            if name in self.growth_map.outputs:  # only what was to grow is looked at in part
                whole_run = _restricted(name, *values, floor, self.growth_map)
            else:
                whole_run = _measure(name, *values, floor)
            found.outputs.append(self.judged.get(after, whole_run))
        if len(old.outputs) != len(self.grown.graph.outputs):
            found.outputs.append(Measured("graph outputs", np.inf, 0.0, 0.0, "their number differs"))
        return found

    def _outputs(self, node: ir.Node, outputs: Sequence[Any]) -> tuple[list[Any], list[Measured]]:
        """Compare what a node computed with what its counterpart did; what the next nodes read, and what was found."""
        measured, read = [], list(outputs)
        for i, (value, new) in enumerate(zip(node.outputs, outputs, strict=True)):
            name = self.stands_for.get(value.name or "")
            held = None if name is None else self.old.get(name)
            if held is None:
                continue
            if self.kinds[value].comparable:
                measured.append(_restricted(str(value.name), held[0], new, held[1], self.growth_map))
                if self.local and not measured[-1].fault:
                    self.judged[value] = measured[-1]
                    read[i] = _reset(str(value.name), held[0], new, self.growth_map)
            else:
                self.found.by_shape += 1
        self.found.values += measured
        return read, measured

    def _native(self, node: ir.Node, measured: Sequence[Measured], faults: int) -> None:
        """Judge a node that ran in its own precision; ``faults``: number of those before it."""
        key = self.stands_for.get(key_of(node), "")
        inputs = self.old.native_inputs(key)
        if inputs is None:
            raise NoFloat64Error(operator_name(node), "it runs in its own precision in the result only")
        self.found.native.append(key)
        if all(not m.fault and m.difference == 0 for m in measured):
            return
        self.found.rounded[key] = self.grown.native.epsilons[node]
        weights = [self._weight(value, old) for value, old in zip(node.inputs, inputs, strict=False) if value]
        wrong = [m for m in weights if m is not None and not m.passed]
        self.found.values += wrong
        if any(m.fault for m in measured) and not faults and not wrong:
            raise NoFloat64Error(
                operator_name(node), "no float64 implementation, and rounding noise on its inputs flips its result"
            )

    def _weight(self, value: ir.Value, old: Any) -> Measured | None:
        """The old region of a stored input has to be bit-equal; None for what is computed, or follows a formula."""
        growth = self.growth_map.tensors.get(value.name or "")
        if value in self.kinds or (growth is not None and growth.formula):
            return None
        found = _restricted(str(value.name), old, self.run.read(value), Floor(), self.growth_map)
        return Measured(found.name, found.difference, 0.0, 0.0, found.fault)


def _reset(name: str, old: Any, new: Any, growth_map: GrowthMap) -> Any:
    """``new`` with the original's values in its old region; as it is where that is not plainly an array of floats."""
    if not isinstance(old, np.ndarray) or not isinstance(new, np.ndarray) or new.dtype.kind != "f":
        return new
    factor = factor_of(name, growth_map)
    return with_old_region(new, axes_of(name, growth_map), old if factor == 1 else old * factor)


def _measure(name: str, old: Any, new: Any, floor: Floor) -> Measured:
    found = difference(old, new)
    ceiling = max(CEILING, CEILING_EPSILONS * floor.epsilon)
    bound = min(max(MARGIN * floor.noise, MARGIN * floor.epsilon, FLOORS), ceiling)
    return Measured(name, found.relative, floor.noise, bound, found.fault, ceiling)


def _restricted(name: str, old: Any, new: Any, floor: Floor, growth_map: GrowthMap) -> Measured:
    axes = axes_of(name, growth_map)
    new = whole(new) if isinstance(new, Derived) else new
    if axes and isinstance(new, np.ndarray):
        try:
            new = old_region(new, axes)
        except ValueError as e:
            return Measured(name, np.inf, floor.noise, FLOORS, str(e))
    factor = factor_of(name, growth_map)
    if factor != 1 and isinstance(new, np.ndarray):
        new = new / factor
    return _measure(name, old, new, floor)
