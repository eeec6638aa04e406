"""The runtime tier: both models in ONNX Runtime, in their own dtype, on the provider they will run on.

First without graph optimisations, where every computed value is compared (a saturated output hides a fault in front of
it), then fully optimised, where the outputs are. The bound of each value is ten times the noise floor, measured by
moving the original's float inputs by one unit in the last place; at least ten machine epsilons of the value's scale.
Where there are no such inputs, and for a second look at what is out of bounds, its weights move, and its sums are
regrouped (:mod:`onnxgrow.verify.regroup`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.restrict import old_region
from onnxgrow.verify.noise import moved_inputs, moved_weights
from onnxgrow.verify.regroup import regrouped
from onnxgrow.verify.report import Finding, TierResult, TierStatus
from onnxgrow.verify.sessions import (
    ModelSource,
    RefusedError,
    RuntimeSession,
    one_line,
    resolve_provider,
    run_original,
    try_open,
)

__all__ = ["Pair", "run_tier"]

DRAWS = 2
MARGIN = 10.0
FLOORS = 10.0
INNER_LIMIT = 1_000_000_000
"""Bytes of all intermediate values above which only outputs are compared."""
REPORTED = 20


@dataclass(frozen=True)
class Pair:
    """A computed value of the result, the value of the original it stands for, and the axes that grew."""

    name: str
    of: str
    axes: Mapping[int, AxisMap] = field(default_factory=dict)
    nbytes: int = 0


@dataclass(frozen=True)
class _Measured:
    name: str
    level: str
    difference: float
    floor: float
    bound: float
    fault: str = ""
    is_output: bool = False

    @property
    def passed(self) -> bool:
        return not self.fault and self.difference <= self.bound


def run_tier(
    original: bytes | str | os.PathLike[str] | ModelSource,
    grown: bytes | str | os.PathLike[str] | ModelSource,
    feeds_list: Sequence[Mapping[str, Any]],
    provider: str = "auto",
    growth_map: GrowthMap | None = None,
    pairs: Sequence[Pair] = (),
    seed: int = 0,
) -> TierResult:
    """Run both models on every feed and compare outputs and intermediate values.

    Args:
        original, grown: Serialized models, or paths (needed above 2 GB).
        feeds_list: One mapping of input name → array per run, in the model's own dtypes.
        provider: ``auto``, ``cpu`` or ``cuda``; ``cuda`` is strict: every node has to run there.
        growth_map: Maps of the graph outputs' axes; normally no output grew.
        pairs: Intermediate values to compare as well.
        seed: Of the noise.

    Raises:
        EnvironmentFault: A provider asked for is not usable, or onnxruntime is damaged.
        UnsupportedError: ONNX Runtime refuses the original.
    """
    start = time.perf_counter()
    strict = provider == "cuda"
    used = resolve_provider(provider)
    if not feeds_list:
        return TierResult("runtime", TierStatus.NOT_RUN, {}, (Finding("inputs", "no inputs to run on"),))
    old, new = ModelSource.of(original), ModelSource.of(grown)
    inner, skipped = _inner(pairs, feeds_list)
    measured: list[_Measured] = []
    findings: list[Finding] = []
    nodes: dict[str, dict[str, int]] = {}
    for level, optimised in (("disabled", False), ("all", True)):
        values = [] if optimised else inner
        try:
            try:
                pair = _Level(old, new, used, strict, level, values, growth_map, seed)
            except _InnerRefused as e:
                skipped = f"ONNX Runtime does not give them out: {e}"
                pair = _Level(old, new, used, strict, level, [], growth_map, seed)
            level_found, assigned = pair.run(feeds_list)
        except _GrownFault as e:
            findings.append(Finding("result", f"ONNX Runtime ({level}): {e}"))
            continue
        measured += level_found
        nodes[level] = assigned
    faults: dict[tuple[str, str], _Measured] = {(m.level, m.name): m for m in measured if not m.passed}
    findings += [Finding(m.name, _reason(m)) for m in faults.values()]
    if not findings and not any(m.is_output for m in measured):
        findings.append(Finding("graph outputs", "there is none to compare"))
    figures = _figures(measured, used, nodes, skipped, len(feeds_list)) | {"faults": len(findings)}
    status = TierStatus.FAILED if findings else TierStatus.PASSED
    return TierResult("runtime", status, figures, tuple(findings[:REPORTED]), time.perf_counter() - start)


class _GrownFault(Exception):
    """ONNX Runtime refuses the result, or fails on it, where the original runs."""


class _InnerRefused(Exception):
    """ONNX Runtime refuses the original with its intermediate values as outputs."""


class _Level:
    """Both models at one optimisation level."""

    def __init__(
        self,
        old: ModelSource,
        new: ModelSource,
        provider: str,
        strict: bool,
        level: str,
        pairs: Sequence[Pair],
        growth_map: GrowthMap | None,
        seed: int,
    ) -> None:
        self.provider, self.strict, self.level, self.seed = provider, strict, level, seed
        self.optimised = level == "all"
        self.source = old
        self.pairs = list(pairs)
        self.extra = [p.of for p in pairs]
        self.inner = frozenset(self.extra)
        self.varied: dict[int, RuntimeSession] = {}
        try:
            self.old = self._open(_with_outputs(old, self.extra))
        except RefusedError as e:
            if self.extra:
                raise _InnerRefused(str(e)) from e
            raise UnsupportedError(
                "original model", f"ONNX Runtime refuses it: {e}", "the runtime tier needs a model that runs"
            ) from e
        try:
            self.new = self._open(_with_outputs(new, [p.name for p in pairs]))
        except RefusedError as e:
            raise _GrownFault(f"refuses the result: {e}") from e
        outputs = [o.name for o in self.old.session.get_outputs()]
        self.outputs = outputs[: len(outputs) - len(self.extra)] if self.extra else outputs
        after = self.new.output_names
        self.after = after[: len(after) - len(self.extra)] if self.extra else after
        self.maps = {} if growth_map is None else {k: v.axes for k, v in growth_map.values.items()}

    def _open(self, source: ModelSource) -> RuntimeSession:
        return try_open(source, self.provider, optimised=self.optimised, strict=self.strict)

    def run(self, feeds_list: Sequence[Mapping[str, Any]]) -> tuple[list[_Measured], dict[str, int]]:
        """Compare on every feed; a value out of bounds gets a second look with more noise before it is a fault."""
        if len(self.outputs) != len(self.after):
            raise _GrownFault(f"{len(self.after)} outputs where the original has {len(self.outputs)}")
        found: list[_Measured] = []
        for index, feeds in enumerate(feeds_list):
            before = run_original(self.old, feeds)
            try:
                after = self.new.run(feeds)
            except Exception as e:  # onnxruntime's exceptions have no common base
                raise _GrownFault(f"fails on the result: {one_line(e)}") from e
            floors = dict.fromkeys(before, 0.0)
            self._raise_floors(floors, before, feeds, index, weights=False)
            measured = self._compare(before, after, floors)
            if any(not m.passed and not m.fault for m in measured):
                self._raise_floors(floors, before, feeds, index, weights=True)
                measured = self._compare(before, after, floors)
            found += measured
        return found, dict(self.new.nodes)

    def _raise_floors(
        self, floors: dict[str, float], before: Mapping[str, Any], feeds: Mapping[str, Any], index: int, weights: bool
    ) -> None:
        """Measure how far one ulp of the inputs moves each value; weights on request, or without float inputs."""
        for draw in range(DRAWS):
            moved = None if weights else moved_inputs(feeds, self.seed + 1000 * index + draw)
            session = self.old if moved is not None else self._varied(draw)
            noisy = run_original(session, feeds if moved is None else moved)
            for name, old in before.items():
                measure = _counted if name in self.inner else _exact
                relative, _ = measure(old, noisy[name])
                if np.isfinite(relative):
                    floors[name] = max(floors[name], relative)

    def _varied(self, draw: int) -> RuntimeSession:
        """The original with its weights moved and its sums regrouped; kept for the other feeds."""
        if draw not in self.varied:
            varied = regrouped(moved_weights(self.source, self.seed + draw), self.seed + draw)
            self.varied[draw] = self._open(_with_outputs(varied, self.extra))
        return self.varied[draw]

    def _compare(
        self, before: Mapping[str, Any], after: Mapping[str, Any], floors: Mapping[str, float]
    ) -> list[_Measured]:
        sides = [Pair(new, old, self.maps.get(new, {})) for old, new in zip(self.outputs, self.after, strict=True)]
        found = [self._one(pair, before, after, floors, is_output=True) for pair in sides]
        return found + [self._one(pair, before, after, floors, is_output=False) for pair in self.pairs]

    def _one(
        self,
        pair: Pair,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        floors: Mapping[str, float],
        is_output: bool,
    ) -> _Measured:
        old, new = before[pair.of], after[pair.name]
        if pair.axes and isinstance(new, np.ndarray):
            try:
                new = old_region(new, pair.axes)
            except ValueError as e:
                return _Measured(pair.name, self.level, np.inf, 0.0, 0.0, str(e), is_output)
        measure: Callable[[Any, Any], tuple[float, str]] = _exact if is_output else _counted
        relative, fault = measure(old, new)
        floor = floors[pair.of]
        bound = max(FLOORS * _epsilon(old), MARGIN * floor)
        return _Measured(pair.name, self.level, relative, floor, bound, fault, is_output)


def _exact(old: Any, new: Any) -> tuple[float, str]:
    found = difference(_wide(old), _wide(new)) if _dtype(old) == _dtype(new) else None
    if found is None:
        return np.inf, f"dtype {_dtype(new)} where the original has {_dtype(old)}"
    return found.relative, found.fault


def _counted(old: Any, new: Any) -> tuple[float, str]:
    """As for outputs, but integers and booleans inside a network may flip where noise flips them, too."""
    both = isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.dtype == new.dtype
    if both and old.dtype.kind in "biu" and old.shape == new.shape and old.size:
        return np.count_nonzero(old != new) / old.size, ""
    return _exact(old, new)


def _dtype(x: Any) -> str:
    return str(x.dtype) if isinstance(x, np.ndarray) else type(x).__name__


def _wide(x: Any) -> Any:
    """Half precision in double: its differences round and overflow easily."""
    if isinstance(x, list):
        return [_wide(item) for item in x]
    if isinstance(x, np.ndarray) and x.dtype.itemsize == 2 and x.dtype.kind not in "iu":
        return x.astype(np.float64)
    return x


def _epsilon(x: Any) -> float:
    if isinstance(x, list):
        return max((_epsilon(item) for item in x), default=0.0)
    if isinstance(x, np.ndarray):
        if x.dtype.kind == "f":
            return float(np.finfo(x.dtype).eps)
        if x.dtype.name == "bfloat16":
            return 2.0**-7
    return 0.0


def _with_outputs(source: ModelSource, names: Iterable[str]) -> ModelSource:
    """The model with ``names`` as further outputs, after its own."""
    names = list(names)
    if not names:
        return source
    proto = source.proto()
    for name in names:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return source.with_proto(proto)


def _inner(pairs: Sequence[Pair], feeds_list: Sequence[Mapping[str, Any]]) -> tuple[list[Pair], str]:
    total = sum(p.nbytes for p in pairs)
    if total > INNER_LIMIT:
        return [], f"{total / 1e9:.1f} GB of intermediate values are above the limit of {INNER_LIMIT / 1e9:.0f} GB"
    return list(pairs), ""


def _reason(m: _Measured) -> str:
    if m.fault:
        return f"{m.fault} (optimisations: {m.level})"
    return (
        f"differs by {m.difference:.3g} of its scale; bound {m.bound:.3g}, noise floor {m.floor:.3g} "
        f"(optimisations: {m.level})"
    )


def _figures(
    measured: Sequence[_Measured],
    provider: str,
    nodes: Mapping[str, Mapping[str, int]],
    skipped: str,
    runs: int,
) -> dict[str, Any]:
    worst = max(measured, key=lambda m: (m.difference, m.bound), default=None)
    outputs = [m for m in measured if m.is_output]
    largest = max(outputs, key=lambda m: m.difference, default=None)
    figures: dict[str, Any] = {
        "provider": provider,
        "nodes": {level: dict(counts) for level, counts in nodes.items()},
        "runs": runs,
        "outputs_compared": len(outputs),
        "values_compared": len(measured) - len(outputs),
    }
    if largest is not None:
        figures["outputs_difference"] = _plain(largest.difference)
        figures["outputs_floor"] = _plain(largest.floor)
        figures["outputs_bound"] = _plain(largest.bound)
    if worst is not None:
        figures |= {"largest_difference": _plain(worst.difference), "at": worst.name}
        figures |= {"floor": _plain(worst.floor), "bound": _plain(worst.bound)}
    if skipped:
        figures["intermediate_values_skipped"] = skipped
    return figures


def _plain(x: float) -> float | str:
    """JSON knows no infinity."""
    return float(x) if np.isfinite(x) else "inf"
