"""Everything that is learned of a model before anything is decided: inputs it runs with, shapes, channel sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis.channel_sets import Analysis, analyse
from onnxgrow.analysis.network import Network
from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.concrete.trace import complete

__all__ = ["Study", "study"]

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Study:
    """A model, inputs it runs with, and its channel sets.

    Attributes:
        model: The model; not modified.
        feeds: Valid inputs, one set, or two of different sizes where dimensions are dynamic.
        analysis: Its channel sets.
    """

    model: ir.Model
    feeds: tuple[Feeds, ...]
    analysis: Analysis


def study(
    model: ir.Model,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Feeds | None = None,
    seed: int = 0,
) -> Study:
    """Find inputs the model runs with, infer all shapes, find the channel sets.

    Args:
        model: The model.
        input_shapes: Input name → dimensions, where the user knows better.
        inputs: Input name → value; they pin their shapes.
        seed: Of sampled inputs.

    Raises:
        UsageError: ``input_shapes`` or ``inputs`` do not fit the model.
        UnsupportedError: ONNX Runtime cannot run the model.
    """
    shapes, feeds = find_runnable(model, input_shapes, inputs, seed=seed)
    here = complete(model, concretize(model, shapes), feeds)
    second = second_variant(model, shapes, input_shapes, inputs, seed=seed)
    there: Concrete = here
    all_feeds: tuple[Feeds, ...] = (feeds,)
    if second is not None:
        there = complete(model, concretize(model, second[0]), second[1])
        all_feeds = (feeds, second[1])
    return Study(model, all_feeds, analyse(Network(model, here, there)))
