"""Shapes that static inference cannot give, read off one run with the wanted values as extra outputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.session import open_session

__all__ = ["Traced", "complete", "trace"]

Array = npt.NDArray[np.generic]

_VALUE_LIMIT = 1024


@dataclass(frozen=True)
class Traced:
    """What one run showed of a value.

    Attributes:
        value: The value itself where it is small and numeric. It may depend on the inputs' data.
    """

    dtype: ir.DataType
    shape: tuple[int, ...]
    value: Array | None = None


def trace(model: ir.Model, feeds: Mapping[str, Array], *, want: Collection[str]) -> dict[str, Traced]:
    """Run the model once on the CPU and look at the values named in ``want``.

    Args:
        model: The model; not modified.
        feeds: A value for every real graph input.
        want: Names of values of the main graph.

    Returns:
        Name → what was seen; values that are no tensors (sequences, empty optionals) are left out.

    Raises:
        UnsupportedError: ONNX Runtime cannot load or run the model; the reason names the node.
    """
    session = open_session(model, want)
    seen = {}
    for name, output in session.run(feeds, want).items():
        small = math.prod(output.shape) <= _VALUE_LIMIT and output.dtype != ir.DataType.STRING
        seen[name] = Traced(output.dtype, output.shape, output.numpy() if small else None)
    return seen


def complete(model: ir.Model, concrete: Concrete, feeds: Mapping[str, Array]) -> Concrete:
    """Fill what ``concrete`` misses from one run, and infer again what follows from it.

    Args:
        model: The model that ``concrete`` was made of.
        concrete: Result of :func:`onnxgrow.concrete.infer.concretize` for the shapes of ``feeds``.
        feeds: A value for every real graph input.

    Returns:
        ``concrete`` itself when nothing is missing; otherwise a new one, in which only values that are no
        tensors are still missing. Known values stay those that follow from shapes and constants: no data
        enters them.

    Raises:
        UnsupportedError: As :func:`trace`.
    """
    if not concrete.missing:
        return concrete
    seen = trace(model, feeds, want=list(concrete.missing))
    given = {name: (traced.dtype, traced.shape) for name, traced in seen.items()}
    return concretize(model, concrete.input_shapes, given=given)
