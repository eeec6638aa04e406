"""What a verification runs on: the user's inputs, sampled ones, and a second set of sizes for dynamic dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.inputs import sample_inputs
from onnxgrow.concrete.pin import real_inputs
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.errors import UnsupportedError
from onnxgrow.verify.sessions import ModelSource, RefusedError, RuntimeSession, run_original, try_open

__all__ = ["Variant", "variants"]

SAMPLES = 2
"""Sampled feeds per set of sizes, besides what the user gives."""


@dataclass(frozen=True)
class Variant:
    """One set of input sizes and the feeds that have them.

    Attributes:
        shapes: Input name → shape.
        feeds: At least one mapping of input name → array with which the original runs.
        notes: Samples that were left out, and why.
    """

    shapes: Mapping[str, tuple[int, ...]]
    feeds: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = field(default=())


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
    return tuple(found)


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
    nan_is_normal = _has_nan(run_original(session, feeds))
    for sample in range(1, SAMPLES if sampled else 1):
        tried = sample_inputs(original, shapes, seed=seed, variant=10 + sample) | dict(given)
        try:
            if _has_nan(run_original(session, tried)) and not nan_is_normal:
                notes.append("a sampled input was left out: the original gives NaN on it")
                continue
        except UnsupportedError as e:
            notes.append(f"a sampled input was left out: {e.reason}")
            continue
        chosen.append(tried)
    return Variant(dict(shapes), tuple(chosen), tuple(notes))


def _has_nan(outputs: Mapping[str, Any]) -> bool:
    return any(isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.isnan(x).any()) for x in outputs.values())
