"""Everything that is learned of a model before anything is decided: inputs it runs with, shapes, channel sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis.bodies import analyse_bodies
from onnxgrow.analysis.channel_sets import Analysis, analyse
from onnxgrow.analysis.network import Network
from onnxgrow.concrete.functions import function_name, inlined
from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.concrete.trace import complete
from onnxgrow.errors import UnsupportedError

__all__ = ["Study", "study"]

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Study:
    """A model, inputs it runs with, and its channel sets.

    Attributes:
        model: The model; not modified.
        feeds: Valid inputs, one set, or two of different sizes where dimensions are dynamic.
        analysis: Its channel sets.
        source: The model that was given, where ``model`` is a copy of it with local functions inlined.
        inlined: Those functions, by :func:`onnxgrow.concrete.functions.function_name`.
    """

    model: ir.Model
    feeds: tuple[Feeds, ...]
    analysis: Analysis
    source: ir.Model | None = None
    inlined: tuple[str, ...] = ()

    @property
    def given(self) -> ir.Model:
        """The model that was given."""
        return self.source or self.model


def study(
    model: ir.Model,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Feeds | None = None,
    seed: int = 0,
    inline: Collection[str] | None = (),
    outputs: Collection[str] = (),
) -> Study:
    """Find inputs the model runs with, infer all shapes, find the channel sets.

    Args:
        model: The model.
        input_shapes: Input name → dimensions, where the user knows better.
        inputs: Input name → value; they pin their shapes.
        seed: Of sampled inputs.
        inline: Local functions to look into: a copy with these inlined is studied. None for all; a model whose
            functions cannot be inlined is studied as it is, with a note.
        outputs: Graph outputs whose axes may grow, too.

    Raises:
        UsageError: ``input_shapes`` or ``inputs`` do not fit the model.
        UnsupportedError: ONNX Runtime cannot run the model.
    """
    source, names, notes = model, _inlinable(model, inline), []
    if names:
        try:
            model = inlined(source, names)
        except UnsupportedError as error:
            names, notes = (), [f"{error.subject} are not looked into: {error.reason}"]
    shapes, feeds = find_runnable(model, input_shapes, inputs, seed=seed)
    here = complete(model, concretize(model, shapes), feeds)
    second = second_variant(model, shapes, input_shapes, inputs, seed=seed)
    there: Concrete = here
    all_feeds: tuple[Feeds, ...] = (feeds,)
    if second is not None:
        there = complete(model, concretize(model, second[0]), second[1])
        all_feeds = (feeds, second[1])
    analysis = analyse(Network(model, here, there, open_outputs=frozenset(outputs)))
    analyse_bodies(analysis, all_feeds, seed=seed)
    analysis.notes += notes
    return Study(model, all_feeds, analysis, source, names)


def _inlinable(model: ir.Model, inline: Collection[str] | None) -> tuple[str, ...]:
    """The functions of the model that are asked for, in its order."""
    known = [function_name(f) for f in model.functions.values()]
    return tuple(name for name in known if inline is None or name in inline)
