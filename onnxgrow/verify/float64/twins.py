"""The original and its noisy twins: reference values and noise floors of everything it computes.

In a twin every float input and node output is moved by one unit in the last place (relative 2⁻⁵², signs drawn), and
every contraction adds its terms up in another order, so an ill-conditioned network, or a sum over many terms of one
sign, gets the bound it deserves: channels that are inserted, zeros as they are, regroup such sums as well.

A node that runs in its own precision (see :mod:`onnxgrow.verify.float64.native`) rounds such noise away, or flips a
whole float32 unit of it. Where the result has exactly the original's values there, nothing is rounded differently: the
twin takes these values and the noise starts afresh. Where it has not, the node is *rounded*: the twin keeps its own
value and every entry moves by a unit of the node's own dtype, which measures how the network behind it amplifies that.

A network may be chaotic: a softmax over equal and huge sums turns their last bit into another winner. There the floor
is measured *locally*: every node of a twin starts from the original's exact values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.float64.compare import difference
from onnxgrow.verify.float64.interpreter import values_read
from onnxgrow.verify.float64.kernels.dtype import to_float64
from onnxgrow.verify.float64.prepared import Prepared
from onnxgrow.verify.float64.restrict import origins

__all__ = ["EPSILON", "Floor", "Noise", "Original", "key_of"]

EPSILON = 2.0**-52

CUTS = 2
"""Cuts of every contraction; its parts are added up in another order."""
JUMPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
"""Noise on their inputs flips whole units; the noisy run takes the original's values there."""


class Noise:
    """A deterministic stream of perturbations by one unit in the last place, keyed by ``seed``.

    Args:
        seed: Of the stream.
        spaced: Whether zeros are put between the terms of sums, which takes twice the time.
    """

    def __init__(self, seed: int, spaced: bool = False) -> None:
        self._bits = np.random.Philox(key=seed)
        self._spaced = spaced

    def gaps(self) -> int:
        """Key of the zeros between the terms of a contraction; 0 for none."""
        return int(self._bits.random_raw()) | 1 if self._spaced else 0

    def cuts(self) -> tuple[float, ...]:
        """Where a contraction is cut, as fractions of its length."""
        return tuple(float(word) / 2.0**64 for word in self._bits.random_raw(CUTS))

    def __call__(self, x: Any, epsilon: float = EPSILON) -> Any:
        """``x`` with every entry moved by ± ``epsilon`` of itself; what is no float64 array stays as it is.

        With an epsilon above that of float64 the step is at least ``epsilon`` of a typical entry: sums that nearly
        cancel are rounded like their parts.
        """
        if not isinstance(x, np.ndarray) or x.dtype != np.float64 or x.size == 0:
            return x
        words = self._bits.random_raw(-(-x.size // 64))
        bits = np.unpackbits(np.atleast_1d(words).view(np.uint8), count=x.size).reshape(x.shape)
        with np.errstate(all="ignore"):
            if epsilon <= EPSILON:
                factors = np.array([1.0 - epsilon, 1.0 + epsilon])
                return np.asarray(x * factors[bits])  # NumPy makes a number of an array without axes
            size = np.abs(x)
            counted = size[np.isfinite(size) & (size > 0)]
            typical = float(np.median(counted)) if counted.size else 0.0
            return np.asarray(x + np.where(bits, epsilon, -epsilon) * np.maximum(size, typical))


class Floor:
    """Noise floor of one value, relative to its scale, and the precision that it is computed in.

    Attributes:
        noise: Largest relative difference of a twin.
        epsilon: The coarsest machine epsilon of a rounded node before it; 0 where there is none.
    """

    __slots__ = ("epsilon", "noise")

    def __init__(self, noise: float = 0.0, epsilon: float = 0.0) -> None:
        self.noise = noise
        self.epsilon = epsilon


class Original:
    """The original and its noisy twins, advanced together on demand.

    Args:
        prepared: The model.
        feeds: Input name → array.
        seeds: One twin per seed.
        wanted: Names of values that will be taken with :meth:`get`.
        rounded: Key (see :func:`key_of`) of each rounded node → its machine epsilon.
        local: Whether noise is kept from spreading: floors are those of single nodes.

    Attributes:
        run: The evaluation without noise; holds the graph outputs at the end.
        floors: Value → floor, for all values computed so far.
    """

    def __init__(
        self,
        prepared: Prepared,
        feeds: Mapping[str, Any],
        seeds: Sequence[int],
        wanted: frozenset[str],
        rounded: Mapping[str, float],
        local: bool = False,
    ) -> None:
        inputs = prepared.inputs(feeds)
        self.prepared = prepared
        self.outputs = list(prepared.graph.outputs)
        self.run = prepared.interpreter(inputs, self.outputs)
        self.floors: dict[ir.Value, Floor] = {}
        self._wanted = wanted
        self._rounded = rounded
        self._origins = origins(prepared.order, inputs, GrowthMap())
        # one twin is a first look; of more, every other one spaces its sums
        self._noises = [Noise(seed, spaced=i % 2 == 1) for i, seed in enumerate(seeds)]
        self._local = local
        self._twins = [
            prepared.interpreter(inputs if local else {v: n(_doubled(x)) for v, x in inputs.items()})
            for n in self._noises
        ]
        self._held: dict[str, tuple[Any, Floor]] = {}
        self._native: dict[str, list[Any]] = {}
        self._steps = self._advance()

    def _advance(self) -> Iterator[None]:
        for node in self.prepared.order:
            outputs = self.run.evaluate(node)
            key = key_of(node)
            if node in self.prepared.native.epsilons:
                self._native[key] = [self.run.read(v) for v in node.inputs]
            epsilon = max((self.floors[v].epsilon for v in values_read(node) if v in self.floors), default=0.0)
            epsilon = max(epsilon, self._rounded.get(key, 0.0))
            noise_of = [0.0] * len(outputs)
            for noise, twin in zip(self._noises, self._twins, strict=True):
                if not any(self._origins[v].data for v in node.outputs):
                    twin.store(node, outputs)  # constants are not moved
                    continue
                found = twin.evaluate(node, noise.cuts(), noise.gaps())
                moved = [
                    self._noisy(node, value, old, new, noise)
                    for value, old, new in zip(node.outputs, outputs, found, strict=True)
                ]
                for i, (old, new) in enumerate(zip(outputs, moved, strict=True)):
                    apart = difference(old, new)
                    noise_of[i] = max(noise_of[i], 0.0 if apart.fault else apart.relative)
                twin.store(node, outputs if self._local else moved)
            for value, array, measured in zip(node.outputs, outputs, noise_of, strict=True):
                self.floors[value] = floor = Floor(measured, epsilon)
                if value.name in self._wanted:
                    self._held[value.name] = (array, floor)
            self.run.store(node, outputs)
            yield

    def _noisy(self, node: ir.Node, value: ir.Value, old: Any, new: Any, noise: Noise) -> Any:
        """The twin's own value plus noise; the original's where noise would count whole units, or not at all."""
        smooth = isinstance(old, np.ndarray) and old.dtype == np.float64 and node.op_type not in JUMPS
        if not smooth or not self._origins[value].data:
            return old
        if node in self.prepared.native.epsilons:
            epsilon = self._rounded.get(key_of(node))
            return noise(old) if epsilon is None else noise(new, epsilon)
        return noise(new)

    def get(self, name: str) -> tuple[Any, Floor] | None:
        """Array and floor of a value, evaluating as far as needed; each value can be taken once."""
        while name not in self._held:
            try:
                next(self._steps)
            except StopIteration:
                return None
        return self._held.pop(name)

    def native_inputs(self, name: str) -> list[Any] | None:
        """Inputs of the evaluated node of this key, if it ran in its own precision."""
        return self._native.pop(name, None)

    def finish(self) -> list[str]:
        """Evaluate what nothing asked for; the keys of native nodes that :meth:`native_inputs` was not asked for."""
        for _ in self._steps:
            self._held.clear()
        return list(self._native)


def key_of(node: ir.Node) -> str:
    """The name of a node's first named output."""
    return next((v.name for v in node.outputs if v.name), "")


def _doubled(x: Any) -> Any:
    return to_float64(x) if isinstance(x, np.ndarray) else x
