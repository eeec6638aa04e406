"""Evaluates the original, the original with noise, and the result side by side in float64.

Every value that all of them compute is compared: its old region under the growth map has to equal the original's, up to
ten times the noise floor. The floor is measured, not assumed: in the noisy original every float input and node output
is moved by one unit in the last place (relative 2⁻⁵², signs drawn), so an ill-conditioned network gets the bound it
deserves and a faulty weight does not hide behind a constant tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.interpreter import Compiled, Constants, Interpreter, topological
from onnxgrow.verify.float64.kernels import EvaluationError
from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.float64.restrict import axes_of, counterparts, old_region, origins

__all__ = [
    "CEILING",
    "FLOORS",
    "MARGIN",
    "Comparison",
    "GrownError",
    "Measured",
    "Noise",
    "Prepared",
    "lockstep",
    "prepare",
]

EPSILON = 2.0**-52
MARGIN = 10.0
"""Bound over measured floor."""
FLOORS = 16 * EPSILON
"""Smallest bound: a few roundings, for values whose floor happens to be nothing."""
CEILING = 1e-8
"""Largest bound: however ill-conditioned a network is, a fault of this size is not called noise."""

JUMPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Noise on their inputs flips whole units; the noisy run takes the original's values there."""


class Noise:
    """A deterministic stream of one-ulp perturbations, keyed by ``seed``."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)

    def __call__(self, x: Any) -> Any:
        """``x`` with every entry moved by ± 2⁻⁵² of itself; what is no float64 array stays as it is."""
        if not isinstance(x, np.ndarray) or x.dtype != np.float64 or x.size == 0:
            return x
        words = self._bits.random_raw(-(-x.size // 64))
        signs = np.unpackbits(np.atleast_1d(words).view(np.uint8), count=x.size).reshape(x.shape)
        with np.errstate(all="ignore"):
            return np.where(signs.astype(bool), x * (1.0 + EPSILON), x * (1.0 - EPSILON))


@dataclass(frozen=True)
class Prepared:
    """One model made ready for evaluation; shared by all runs over it.

    Attributes:
        graph: The main graph, functions inlined.
        order: Evaluation order.
        by_name: Values that nodes compute, without those inside functions.
        constants: Initializers in float64.
    """

    graph: ir.Graph
    opsets: Mapping[str, int]
    order: Sequence[ir.Node]
    by_name: Mapping[str, ir.Value]
    constants: Constants
    compiled: dict[ir.Node, Compiled] = field(default_factory=dict)

    def inputs(self, feeds: Mapping[str, Any]) -> dict[ir.Value, Any]:
        """``feeds`` keyed by value. Raises EvaluationError where an input has no feed and no default."""
        found = {}
        for value in self.graph.inputs:
            if value.name in feeds:
                given = feeds[str(value.name)]
                found[value] = given if isinstance(given, list) else np.asarray(given)
            elif value.name not in self.graph.initializers:
                raise EvaluationError(f"input {value.name}", "no value was given for it")
        return found

    def interpreter(self, feeds: Mapping[ir.Value, Any], keep: Sequence[ir.Value] = ()) -> Interpreter:
        """A fresh run over ``feeds``."""
        return Interpreter(self.graph, self.opsets, feeds, self.constants, None, keep, self.compiled, self.order)


SMALL = 512_000_000
"""Models below this many bytes of initializers keep their float64 copies; larger ones convert at every use."""


def prepare(model: ir.Model, overrides: Mapping[str, Any] | None = None) -> Prepared:
    """Get ``model`` ready; it is not changed.

    Args:
        model: Any model; functions are inlined in a copy.
        overrides: Initializers to replace by unrounded values.

    Raises:
        NoFloat64Error: The graph cannot be ordered.
    """
    own = {v.name for node in model.graph for v in node.outputs if v.name}
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    graph = model.graph
    order = topological(graph)
    total = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
    return Prepared(
        graph,
        dict(graph.opset_imports),
        order,
        {str(value.name): value for node in order for value in node.outputs if value.name in own},
        Constants(overrides, keep=total < SMALL),
    )


@dataclass(frozen=True)
class Measured:
    """One compared value: relative difference, floor and bound."""

    name: str
    difference: float
    floor: float
    bound: float
    fault: str = ""

    @property
    def passed(self) -> bool:
        return not self.fault and self.difference <= self.bound


@dataclass
class Comparison:
    """What one lockstep run found: all compared values, the graph outputs, and what had no counterpart."""

    values: list[Measured] = field(default_factory=list)
    outputs: list[Measured] = field(default_factory=list)
    by_shape: int = 0
    unmatched: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[Measured]:
        return [m for m in (*self.values, *self.outputs) if not m.passed]


class _Original:
    """The original and its noisy twins, advanced together on demand."""

    def __init__(
        self, prepared: Prepared, feeds: Mapping[str, Any], seeds: Sequence[int], wanted: frozenset[str]
    ) -> None:
        inputs = prepared.inputs(feeds)
        self.prepared = prepared
        self.wanted = wanted
        self.outputs = list(prepared.graph.outputs)
        self.run = prepared.interpreter(inputs, self.outputs)
        self.origins = origins(prepared.order, inputs, GrowthMap())
        self.noises = [Noise(seed) for seed in seeds]
        self.twins = [prepared.interpreter({v: noise(_doubled(x)) for v, x in inputs.items()}) for noise in self.noises]
        self.held: dict[str, tuple[Any, float]] = {}
        self.floors: dict[ir.Value, float] = {}
        self._steps = self._advance()

    def _advance(self) -> Iterator[None]:
        for node in self.prepared.order:
            outputs = self.run.evaluate(node)
            floors = [0.0] * len(outputs)
            for noise, twin in zip(self.noises, self.twins, strict=True):
                moved = [
                    self._noisy(node, value, old, new, noise)
                    for value, old, new in zip(node.outputs, outputs, twin.evaluate(node), strict=True)
                ]
                for i, (old, new) in enumerate(zip(outputs, moved, strict=True)):
                    found = difference(old, new)
                    floors[i] = max(floors[i], 0.0 if found.fault else found.relative)
                twin.store(node, moved)
            for value, array, floor in zip(node.outputs, outputs, floors, strict=True):
                self.floors[value] = floor
                if value.name in self.wanted:
                    self.held[value.name] = (array, floor)
            self.run.store(node, outputs)
            yield

    def _noisy(self, node: ir.Node, value: ir.Value, old: Any, new: Any, noise: Noise) -> Any:
        """The twin's own value plus noise; the original's where noise would count whole units, or not at all."""
        smooth = isinstance(old, np.ndarray) and old.dtype == np.float64 and node.op_type not in JUMPS
        if not smooth or not self.origins[value].data:
            return old
        return noise(new)

    def get(self, name: str) -> tuple[Any, float] | None:
        """Array and floor of a value, evaluating as far as needed; each value can be taken once."""
        while name not in self.held:
            try:
                next(self._steps)
            except StopIteration:
                return None
        return self.held.pop(name)

    def finish(self) -> None:
        """Evaluate what nothing asked for."""
        for _ in self._steps:
            self.held.clear()


def _doubled(x: Any) -> Any:
    return to_float64(x) if isinstance(x, np.ndarray) else x


def _measure(name: str, old: Any, new: Any, floor: float) -> Measured:
    found = difference(old, new)
    bound = min(max(MARGIN * floor, FLOORS), CEILING)
    return Measured(name, found.relative, floor, bound, found.fault)


class GrownError(Exception):
    """The result cannot be evaluated where the original can."""


def _restricted(name: str, old: Any, new: Any, floor: float, growth_map: GrowthMap) -> Measured:
    axes = axes_of(name, growth_map)
    if axes and isinstance(new, np.ndarray):
        try:
            new = old_region(new, axes)
        except ValueError as e:
            return Measured(name, np.inf, floor, FLOORS, str(e))
    return _measure(name, old, new, floor)


def lockstep(
    original: Prepared,
    grown: Prepared,
    growth_map: GrowthMap,
    feeds: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
) -> Comparison:
    """Evaluate both models on ``feeds`` and compare every value they share.

    Args:
        original, grown: The models, see :func:`prepare`.
        growth_map: What the result claims about its values.
        feeds: Input name → array.
        seeds: One noisy original per seed; floors are the largest over all of them.

    Raises:
        NoFloat64Error: An operator has no float64 implementation.
        EvaluationError: The original fails on these inputs.
        GrownError: Only the result fails on them.
    """
    stands_for = counterparts(grown.order, original.by_name, growth_map)
    wanted = frozenset(stands_for.values())
    removed = set(growth_map.removed)
    old = _Original(original, feeds, seeds, wanted)
    found = Comparison(unmatched=sorted(set(original.by_name) - wanted - removed))
    run = grown.interpreter(grown.inputs(feeds), list(grown.graph.outputs))
    kinds = origins(grown.order, run.values, growth_map)
    for node in grown.order:
        try:
            outputs = run.evaluate(node)
        except EvaluationError as e:
            raise GrownError(str(e)) from e
        for value, new in zip(node.outputs, outputs, strict=True):
            name = stands_for.get(value.name or "")
            held = None if name is None else old.get(name)
            if held is None:
                continue
            if kinds[value].comparable:
                found.values.append(_restricted(str(value.name), held[0], new, held[1], growth_map))
            else:
                found.by_shape += 1
        run.store(node, outputs)
    old.finish()
    for before, after in zip(old.outputs, grown.graph.outputs, strict=False):
        floor = old.floors.get(before, 0.0)
        found.outputs.append(_measure(str(after.name), old.run.read(before), run.read(after), floor))
    if len(old.outputs) != len(grown.graph.outputs):
        found.outputs.append(Measured("graph outputs", np.inf, 0.0, 0.0, "their number differs"))
    return found
