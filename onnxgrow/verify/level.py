"""Both models in ONNX Runtime at one optimisation level, compared value by value.

Intermediate values are asked for in shares, each in sessions of its own: ONNX Runtime holds everything that a session
may give out until the end of a run. So what is held at once stays small, however deep the network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxgrow.axis_map import AxisMap
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.restrict import old_region
from onnxgrow.verify.memory import give_back_freed
from onnxgrow.verify.noise import moved_inputs, moved_weights
from onnxgrow.verify.regroup import regrouped
from onnxgrow.verify.sessions import ModelSource, RefusedError, RuntimeSession, one_line, run_original, try_open

__all__ = ["GrownFault", "InnerRefused", "Level", "Measured", "Pair", "shares"]

DRAWS = 2
MARGIN = 10.0
FLOORS = 10.0
RUN_LIMIT = 24_000_000
"""Bytes of the intermediate values of the result that one run gives out; those of the original, and of the original
with noise, are held beside them."""
SHARES = 8
"""Number of shares above which they become larger instead: each takes runs of the whole network."""


@dataclass(frozen=True)
class Pair:
    """A computed value of the result, the value of the original it stands for, and the axes that grew."""

    name: str
    of: str
    axes: Mapping[int, AxisMap] = field(default_factory=dict)
    nbytes: int = 0


@dataclass(frozen=True)
class Measured:
    """How far a value is from the original's, in parts of its scale.

    Attributes:
        name: Of the value of the result.
        level: Of optimisation.
        difference: The largest one of any old entry.
        floor: What noise alone did.
        bound: What is allowed.
        fault: What makes a comparison impossible.
        is_output: Whether the network gives it out.
    """

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


class GrownFault(Exception):
    """ONNX Runtime refuses the result, or fails on it, where the original runs."""


class InnerRefused(Exception):
    """ONNX Runtime refuses the original with its intermediate values as outputs."""


class Level:
    """Both models at one optimisation level, with a share of their intermediate values as further outputs.

    Args:
        old, new: The original and the result.
        provider: ``cpu`` or ``cuda``.
        strict: Every node has to run on that provider.
        level: ``disabled`` or ``all``: the graph optimisations of ONNX Runtime.
        growth_map: Maps of the outputs' axes.
        seed: Of the noise.
        pairs: The intermediate values, see :func:`shares`.
        outputs: Whether to compare the outputs of the network, too.

    Raises:
        GrownFault: ONNX Runtime refuses the result, or its outputs are not those of the original.
        InnerRefused: ONNX Runtime does not give out the intermediate values.
        UnsupportedError: ONNX Runtime refuses the original.
    """

    def __init__(
        self,
        old: ModelSource,
        new: ModelSource,
        provider: str,
        strict: bool,
        level: str,
        growth_map: GrowthMap | None,
        seed: int,
        pairs: Sequence[Pair],
        outputs: bool = True,
    ) -> None:
        self.provider, self.strict, self.level, self.seed = provider, strict, level, seed
        self.optimised = level == "all"
        self.source = old
        self.extra = list(dict.fromkeys(p.of for p in pairs))
        self.inner = frozenset(self.extra)
        self.varied: dict[int, RuntimeSession] = {}
        try:
            self.old = self._open(_with_outputs(old, self.extra))
        except RefusedError as e:
            if self.extra:
                raise InnerRefused(str(e)) from e
            raise UnsupportedError(
                "original model", f"ONNX Runtime refuses it: {e}", "the runtime tier needs a model that runs"
            ) from e
        try:
            self.new = self._open(_with_outputs(new, [p.name for p in pairs]))
        except RefusedError as e:
            raise GrownFault(f"refuses the result: {e}") from e
        before, after = self.old.output_names, self.new.output_names
        before, after = before[: len(before) - len(self.extra)], after[: len(after) - len(pairs)]
        if len(before) != len(after):
            raise GrownFault(f"{len(after)} outputs where the original has {len(before)}")
        maps = {} if growth_map is None else growth_map.values
        own = [Pair(n, o, maps[n].axes if n in maps else {}) for o, n in zip(before, after, strict=True)]
        self.pairs = [*(own if outputs else ()), *pairs]
        self.asked = list(dict.fromkeys(pair.of for pair in self.pairs))

    def _open(self, source: ModelSource) -> RuntimeSession:
        return try_open(source, self.provider, optimised=self.optimised, strict=self.strict)

    def run(self, feeds_list: Sequence[Mapping[str, Any]]) -> list[Measured]:
        """Compare on every feed; a value out of bounds gets a second look with more noise before it is a fault."""
        found: list[Measured] = []
        for index, feeds in enumerate(feeds_list):
            before = run_original(self.old, feeds, self.asked)
            try:
                after = self.new.run(feeds, [pair.name for pair in self.pairs])
            except Exception as e:  # onnxruntime's exceptions have no common base
                raise GrownFault(f"fails on the result: {one_line(e)}") from e
            floors = dict.fromkeys(before, 0.0)
            self._raise_floors(floors, before, feeds, index, weights=False)
            measured = [self._one(pair, before, after, floors) for pair in self.pairs]
            if any(not m.passed and not m.fault for m in measured):
                self._raise_floors(floors, before, feeds, index, weights=True)
                measured = [self._one(pair, before, after, floors) for pair in self.pairs]
            found += measured
            del before, after
            give_back_freed()
        return found

    def _raise_floors(
        self, floors: dict[str, float], before: Mapping[str, Any], feeds: Mapping[str, Any], index: int, weights: bool
    ) -> None:
        """Measure how far one ulp of the inputs moves each value; weights on request, or without float inputs."""
        for draw in range(DRAWS):
            moved = None if weights else moved_inputs(feeds, self.seed + 1000 * index + draw)
            session = self.old if moved is not None else self._varied(draw)
            noisy = run_original(session, feeds if moved is None else moved, list(before))
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

    def _one(
        self, pair: Pair, before: Mapping[str, Any], after: Mapping[str, Any], floors: Mapping[str, float]
    ) -> Measured:
        is_output = pair.of not in self.inner
        old, new = before[pair.of], after[pair.name]
        if pair.axes and isinstance(new, np.ndarray):
            try:
                new = old_region(new, pair.axes)
            except ValueError as e:
                return Measured(pair.name, self.level, np.inf, 0.0, 0.0, str(e), is_output)
        measure: Callable[[Any, Any], tuple[float, str]] = _exact if is_output else _counted
        relative, fault = measure(old, new)
        floor = floors[pair.of]
        bound = max(FLOORS * _epsilon(old), MARGIN * floor)
        return Measured(pair.name, self.level, relative, floor, bound, fault, is_output)


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


def shares(pairs: Sequence[Pair], feeds_list: Sequence[Mapping[str, Any]]) -> Iterator[list[Pair]]:
    """Intermediate values in order, so many at a time as a run may give out; at least one share, which may be empty.

    Args:
        pairs: The values, with their sizes on the first inputs.
        feeds_list: All inputs; larger ones make larger values.
    """
    first, *others = (max(1, _size(feeds)) for feeds in feeds_list)  # a network may have no inputs
    largest = max(first, *others) / first if others else 1.0
    limit = max(RUN_LIMIT / largest, sum(pair.nbytes for pair in pairs) / SHARES)
    share: list[Pair] = []
    room = limit
    for pair in pairs:
        if share and pair.nbytes > room:
            yield share
            share, room = [], limit
        share.append(pair)
        room -= pair.nbytes
    yield share


def _size(feeds: Mapping[str, Any]) -> int:
    return sum(x.size for x in feeds.values() if isinstance(x, np.ndarray))
