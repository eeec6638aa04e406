"""What a verification runs on: the user's inputs, sampled ones, and a second set of sizes for dynamic dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.inputs import sample_inputs
from onnxgrow.concrete.pin import input_specs, real_inputs
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.errors import UnsupportedError
from onnxgrow.verify.sessions import ModelSource, RefusedError, RuntimeSession, run_original, try_open

__all__ = ["Variant", "variants"]

SAMPLES = 2
"""Sampled feeds per set of sizes, besides what the user gives."""
FEW = 2
"""Samples in a small batch of the first set of sizes; each further set has one more."""
PLENTY = 65_536
"""Entries of an input that are never saved at: a vector needs many samples to bring every channel to life."""


@dataclass(frozen=True)
class Variant:
    """One set of input sizes and the feeds that have them.

    Attributes:
        shapes: Input name → shape.
        feeds: At least one mapping of input name → array with which the original runs.
        notes: Samples that were left out, and why.
        few: The same feeds with fewer samples in a batch of free size, for evaluations that cost much; the feeds
            themselves where the batch is fixed, or the user's.
    """

    shapes: Mapping[str, tuple[int, ...]]
    feeds: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = field(default=())
    few: tuple[Mapping[str, Any], ...] = ()

    @property
    def few_shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name → shape in :attr:`few`."""
        return {name: tuple(np.shape(self.few[0][name])) for name in self.shapes}


def variants(
    original: ir.Model,
    source: ModelSource,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> tuple[Variant, ...]:
    """One variant, or two where the model has dynamic dimensions that can take another size.

    Args:
        original: The model that has to run on them.
        source: The same model for ONNX Runtime.
        inputs: The user's values; inputs that are not named are sampled.
        input_shapes: The user's sizes.
        seed: Key of the samples.

    Raises:
        UsageError: Values or sizes of the user do not fit the model.
        UnsupportedError: No sizes were found with which the original runs.
        EnvironmentFault: ONNX Runtime is not usable.
    """
    given = {name: np.asarray(x) for name, x in (inputs or {}).items()}
    shapes, feeds = find_runnable(original, input_shapes, given, seed=seed)
    try:
        session = try_open(source, "cpu", optimised=False)
    except RefusedError as e:
        raise UnsupportedError("original model", f"ONNX Runtime refuses it: {e}") from e
    found = [_variant(original, session, shapes, feeds, given, seed)]
    second = second_variant(original, shapes, input_shapes, given, seed=seed)
    if second is not None:
        found.append(_variant(original, session, *second, given, seed + 1))
    batched = [] if given or input_shapes else _batched(original)
    return tuple(replace(v, few=_fewer(session, v, batched, FEW + i)) for i, v in enumerate(found))


def _batched(original: ir.Model) -> list[str]:
    """Inputs whose first dimension is a batch of free size: one symbol, of that place only, and more behind it."""
    specs = input_specs(original)
    first = {spec.dims[0].symbol for spec in specs if spec.dims and len(spec.dims) > 1}
    symbol = next(iter(first)) if len(first) == 1 else ""
    places = {axis for spec in specs for axis, dim in enumerate(spec.dims or ()) if symbol and symbol in dim.symbol}
    return [spec.name for spec in specs if spec.dims and spec.dims[0].symbol == symbol] if places == {0} else []


def _fewer(
    session: RuntimeSession, variant: Variant, batched: Sequence[str], count: int
) -> tuple[Mapping[str, Any], ...]:
    """The first samples of each feed: ``count``, or as many as make up :data:`PLENTY` entries.

    The whole feeds where the original does not run on so few.
    """
    sample = sum(math.prod(variant.shapes[name][1:]) for name in batched)
    count = max(count, -(-PLENTY // max(sample, 1)))
    few = [{name: x[:count] if name in batched else x for name, x in feeds.items()} for feeds in variant.feeds]
    try:
        for whole, part in zip(variant.feeds, few, strict=True) if batched else ():
            if _has_nan(run_original(session, part)) and not _has_nan(run_original(session, whole)):
                return variant.feeds
    except UnsupportedError:
        return variant.feeds
    return tuple(few)


def _variant(
    original: ir.Model,
    session: RuntimeSession,
    shapes: Mapping[str, tuple[int, ...]],
    feeds: Mapping[str, Any],
    given: Mapping[str, Any],
    seed: int,
) -> Variant:
    chosen, notes = [dict(feeds)], []
    sampled = [v.name for v in real_inputs(original) if v.name not in given]
    for sample in range(1, SAMPLES if sampled else 1):
        tried = sample_inputs(original, shapes, seed=seed, variant=10 + sample) | dict(given)
        try:
            if _has_nan(run_original(session, tried)) and not _has_nan(run_original(session, feeds)):
                notes.append("a sampled input was left out: the original gives NaN on it")
                continue
        except UnsupportedError as e:
            notes.append(f"a sampled input was left out: {e.reason}")
            continue
        chosen.append(tried)
    return Variant(dict(shapes), tuple(chosen), tuple(notes))


def _has_nan(outputs: Mapping[str, Any]) -> bool:
    return any(isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.isnan(x).any()) for x in outputs.values())
